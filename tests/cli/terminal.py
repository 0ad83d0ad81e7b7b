"""The command in a process of its own, in a pipe or on a terminal."""

import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from fcntl import ioctl
from typing import Self

PATIENCE_S = 30
KVQUEUE = [sys.executable, "-m", "kvqueue_fastapi"]


def piped(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


class Terminal:
    """`kvqueue ARGUMENTS` on a terminal."""

    def __init__(self, *arguments: object, columns: int = 100) -> None:
        self._arguments = [str(one) for one in arguments]
        self._columns = columns
        self.raw = ""

    @property
    def text(self) -> str:
        """What it said, without colours and what moves the cursor."""
        return re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", self.raw)

    def __enter__(self) -> Self:
        self._ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, self._columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm"}
        for name in ("COLUMNS", "LINES", "NO_COLOR", "CI"):
            environment.pop(name, None)
        self._process = subprocess.Popen(
            [*KVQUEUE, *self._arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
        )
        os.close(theirs)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def says(self, condition: Callable[[str], bool]) -> str:
        """Wait until it has said something. Returns all that it said by then."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition(self.text):
            assert time.monotonic() < deadline, self.text
            assert self._read(), self.text
        return self.text

    def answer(self, text: str) -> None:
        """Type something."""
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl+C."""
        self._process.send_signal(signal.SIGINT)

    def ended(self) -> int:
        """Wait for its end. Returns its exit code."""
        while self._read():
            pass
        return self._process.wait(PATIENCE_S)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._ours], [], [], PATIENCE_S)
        assert ready, self.text
        try:
            found = os.read(self._ours, 65_536)
        except OSError:  # how Linux tells of the end
            return False
        self.raw += found.decode()
        return bool(found)
