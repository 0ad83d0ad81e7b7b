"""What a process takes: memory, open files, threads, tasks, and steps of SQLite's machine."""

import asyncio
import gc
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pytest

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux tells a process what it takes"
)


class Sample(NamedTuple):
    """What a process takes at one moment."""

    memory_kib: int
    files: int
    threads: int
    tasks: int
    objects: int = 0


def sample(*, objects: bool = False) -> Sample:
    """Look at this process. Counting objects collects garbage first."""
    if objects:
        gc.collect()
    return Sample(
        status_kib("VmRSS"),
        len(list(Path("/proc/self/fd").iterdir())),
        threading.active_count(),
        len(asyncio.all_tasks()),
        len(gc.get_objects()) if objects else 0,
    )


def open_files() -> set[str]:
    """What this process has open, by path."""
    found: set[str] = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # it was that of the look itself
            found.add(str(descriptor.readlink()))
    return found


def status_kib(field: str) -> int:
    """`VmRSS` is what this process takes, `VmHWM` the most that it ever took."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise LookupError(field)


def growth(values: Sequence[float]) -> float:
    """From the median of the first third to that of the last."""
    third = len(values) // 3
    return median(values[-third:]) - median(values[:third])


class Steps:
    """Counts what SQLite's machine executes on every connection that is made from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._taken = 0
        self._connect = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", self._counted)

    def taken(self) -> int:
        """How many since the last look, to about ten."""
        taken, self._taken = self._taken, 0
        return taken

    def _counted(self, *arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = self._connect(*arguments, **options)
        connection.set_progress_handler(self._count, 10)
        return connection

    def _count(self) -> int:
        self._taken += 10
        return 0
