"""A directory for servers; they end and it goes when its process ends, however that ends."""

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

WARDEN = Path(__file__).with_name("warden.py")
START_S = 60.0
LOOK_S = 0.01

MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 * 2**30
"""More than all servers of a run take together."""

# below the ports that the kernel gives to clients, one of which could take it during a restart
PORTS = range(20_000, 32_000)


class DidNotStartError(RuntimeError):
    """A server ended or was silent instead of coming up; the end of its log is in the message."""


class ServerDirectory:
    """A directory of its own for the servers of one process.

    Attributes:
        path: where it is; nobody else has it.
    """

    def __init__(self, within: Path | None = None) -> None:
        # a session of its own, so that Ctrl-C ends the tests and the tests end it
        self._warden = subprocess.Popen(
            [sys.executable, "-I", "-S", WARDEN, within or tempfile.gettempdir()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # who reads our own would wait for the warden's end as well
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert self._warden.stdout is not None
        self.path = Path(self._warden.stdout.readline().rstrip("\n"))
        self._servers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._warden.communicate()
        for server in self._servers:
            server.wait()

    def start(
        self, command: Sequence[object], log: Path, ready: Callable[[int], bool]
    ) -> subprocess.Popen[bytes]:
        """Start a server whose command names this directory, and wait until it is ready.

        Args:
            command: its words.
            log: a file to which it writes.
            ready: whether the process with this number is.

        Raises:
            DidNotStartError: it ended, or was not ready within `START_S`.
        """
        with log.open("ab") as output:
            server = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.path,
                start_new_session=True,
            )
        self._servers.append(server)
        deadline = time.monotonic() + START_S
        while not ready(server.pid):
            if server.poll() is not None or time.monotonic() > deadline:
                raise DidNotStartError(f"{command}: {log.read_text()[-1000:]}")
            time.sleep(LOOK_S)
        return server


def fleeting() -> str:
    """Where to keep what may be lost with the machine: in memory, where it has room.

    Files cost the kernel a multiple on a disk, above all new ones in the place of others that
    were removed a moment ago. Who names a place in the environment has it there.
    """
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return tempfile.gettempdir()
    room = shutil.disk_usage(MEMORY).free
    return str(MEMORY) if room >= ROOM_BYTES else tempfile.gettempdir()


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, and which no client is given."""
    while True:
        port = random.choice(PORTS)
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def answers(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
