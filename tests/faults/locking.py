"""Another program that holds the database's lock, in a process of its own."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_PROGRAM = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
connection.execute(sys.argv[2])
print("locked", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
"""


class OtherProgram:
    """Holds the lock until it is told to let go, or killed."""

    def __init__(self, database: Path, how: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(database), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == b"locked\n"

    def let_go(self) -> None:
        self._process.communicate(b"\n")

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def locked(database: Path, how: str = "BEGIN IMMEDIATE") -> Iterator[OtherProgram]:
    """Have it hold the lock; it lets go at the end, if not before."""
    other = OtherProgram(database, how)
    try:
        yield other
    finally:
        other.kill()
