"""Makes a directory, and when its standard input ends, ends every server in it and removes it.

Its input is a pipe from the process that started it, which closes however that process ends.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PATIENCE_S = 10.0
"""How long a server may take to end at once; PostgreSQL kills its own processes after five."""


def main(within: str) -> None:
    directory = tempfile.mkdtemp(prefix="kvqueue-servers-", dir=within)
    print(directory, flush=True)
    sys.stdin.read()
    _end_processes(directory)
    for status in Path(directory).glob("*/postmaster.pid"):
        _free_shared_memory(status)
    # what a killed server leaves behind may still write for a moment
    while Path(directory).exists():
        shutil.rmtree(directory, ignore_errors=True)


def _end_processes(directory: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    told: set[int] = set()
    while running := set(_processes_of(directory)):
        late = time.monotonic() > deadline
        for process in running if late else running - told:
            with contextlib.suppress(ProcessLookupError):
                # SIGQUIT is PostgreSQL's immediate stop, and ends any other program too
                os.kill(process, signal.SIGKILL if late else signal.SIGQUIT)
        told |= running
        time.sleep(0.01)


def _processes_of(directory: str) -> Iterator[int]:
    """Those whose command names the directory, which no recycled process id does."""
    for process, command in _commands():
        if directory in command:
            yield process


def _commands() -> Iterator[tuple[int, str]]:
    if not Path("/proc/self/cmdline").exists():
        listing = subprocess.run(
            ["ps", "-A", "-ww", "-o", "pid=,args="], check=True, capture_output=True, text=True
        )
        for line in listing.stdout.splitlines():
            process, _, command = line.strip().partition(" ")
            yield int(process), command
        return
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield int(entry.name), os.fsdecode((entry / "cmdline").read_bytes())


def _free_shared_memory(status: Path) -> None:
    """Remove the segment of a PostgreSQL that was killed: it outlives its processes."""
    lines = status.read_text().splitlines()
    if len(lines) > 6 and (names := lines[6].split()):
        subprocess.run(["ipcrm", "-m", names[-1]], check=False, capture_output=True)


if __name__ == "__main__":
    main(sys.argv[1])
