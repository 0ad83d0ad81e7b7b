"""I, J: what the queue weighs: memory with many waiting, the import, the start."""

import asyncio
import re
import sqlite3
import statistics
import time
from contextlib import closing
from functools import partial
from pathlib import Path

from tests.benchmarks import child
from tests.benchmarks.rows import SYNCED, Figures, Row

TYPE, ANOTHER_TYPE = "order.created", "parcel.seen"
READY, DELAYED = 0, 1
HOUR_MS = 3_600_000
INSERT = "INSERT INTO kvqueue_messages (type, data, state, due_at_ms) VALUES (?, ?, ?, ?)"
WAITING = 1_000_000
IMPORTS = 10
STARTS = 5
SETTLE_S = 2.0
"""For some looks of the listener and the sweeps of its start."""


# --- what runs in processes of their own, which have done nothing else ---


def create(path: str) -> Figures:
    """An empty database."""
    from kvqueue_fastapi import KvQueueModule

    async def open_and_close() -> None:
        async with KvQueueModule(path, listen=False).running():
            pass

    asyncio.run(open_and_close())
    return {}


def listen(path: str, settle_s: float) -> Figures:
    """How long the start takes, and what memory the process has some time after it."""
    from kvqueue_fastapi import KvQueueModule, on_queue_message

    @on_queue_message(TYPE)
    async def handle(order: dict[str, int]) -> None:
        pass

    async def run() -> Figures:
        module = KvQueueModule(path, consumers=[handle])
        began = time.perf_counter()
        async with module.running():
            took_ms = (time.perf_counter() - began) * 1000
            await asyncio.sleep(settle_s)
            return {"start_ms": took_ms} | _memory()

    return asyncio.run(run())


def import_times() -> Figures:
    """How long the package takes to import when what it stands on is there already."""
    began = time.perf_counter()
    import fastapi  # noqa: F401 because its import is what is measured
    import injector  # noqa: F401

    between = time.perf_counter()
    import kvqueue_fastapi  # noqa: F401

    ended = time.perf_counter()
    return {"theirs_ms": (between - began) * 1000, "ours_ms": (ended - between) * 1000}


def _memory() -> Figures:
    status = Path("/proc/self/status")
    if not status.exists():
        return {}
    shares = Path("/proc/self/smaps_rollup").read_text()
    return {
        "rss_mb": _kilobytes(status.read_text(), "VmRSS") / 1024,
        "pss_mb": _kilobytes(shares, "Pss") / 1024,
    }


def _kilobytes(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    assert found, text
    return int(found[1])


# --- I: memory ---


def memory(directory: Path, divisor: int, *, message_type: str, state: int) -> Figures:
    """The memory of a process that listens, and by how much that is more than when empty."""
    path = str(directory / "bench.db")
    child.call(create, path)
    empty = child.call(listen, path, SETTLE_S / divisor)
    fill(path, WAITING // divisor, message_type, state)
    full = child.call(listen, path, SETTLE_S / divisor)
    return {
        "rss_mb": full["rss_mb"],
        "over_empty_mb": full["rss_mb"] - empty["rss_mb"],
        "pss_over_empty_mb": full["pss_mb"] - empty["pss_mb"],
    }


def fill(path: str, count: int, message_type: str, state: int) -> None:
    """Put messages there, due now or in an hour."""
    due_ms = int(time.time() * 1000) + (HOUR_MS if state == DELAYED else 0)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(INSERT, [(message_type, '{"a":1}', state, due_ms)] * count)


def no_proc() -> str | None:
    return None if Path("/proc/self/smaps_rollup").exists() else "there is no /proc/PID"


# --- J: import and start ---


def imports(_directory: Path, divisor: int) -> Figures:
    """Medians, of fresh processes with warm files."""
    child.call(import_times)
    runs = [child.call(import_times) for _ in range(max(IMPORTS // divisor, 1))]
    return {
        "import_ms": statistics.median(run["ours_ms"] for run in runs),
        "fastapi_and_injector_ms": statistics.median(run["theirs_ms"] for run in runs),
    }


def start(directory: Path, divisor: int, *, waiting: int) -> Figures:
    """From entering `running` to being ready to send and handle, in fresh processes."""
    path = str(directory / "bench.db")
    child.call(create, path)
    fill(path, waiting // divisor, ANOTHER_TYPE, READY)
    starts = [child.call(listen, path, 0) for _ in range(max(STARTS // divisor, 1))]
    return {"start_ms": statistics.median(one["start_ms"] for one in starts)}


def first_start(directory: Path, divisor: int) -> Figures:
    """The same where the database has to be made."""
    paths = [str(directory / f"{number}.db") for number in range(max(STARTS // divisor, 1))]
    starts = [child.call(listen, path, 0) for path in paths]
    return {"start_ms": statistics.median(one["start_ms"] for one in starts)}


ROWS = [
    Row(
        "I",
        "1,000,000 delayed by an hour",
        "ours",
        SYNCED,
        partial(memory, message_type=TYPE, state=DELAYED),
        no_proc,
    ),
    Row(
        "I",
        "1,000,000 of a type without a handler",
        "ours",
        SYNCED,
        partial(memory, message_type=ANOTHER_TYPE, state=READY),
        no_proc,
    ),
    Row(
        "I",
        "1,000,000 waiting, while some are handled",
        "ours",
        SYNCED,
        partial(memory, message_type=TYPE, state=READY),
        no_proc,
    ),
    Row("J", "import, after fastapi and injector", "ours", "", imports),
    Row("J", "start, no database yet", "ours", SYNCED, first_start),
    Row("J", "start, empty database", "ours", SYNCED, partial(start, waiting=0)),
    Row("J", "start, 1,000,000 waiting", "ours", SYNCED, partial(start, waiting=WAITING)),
]
