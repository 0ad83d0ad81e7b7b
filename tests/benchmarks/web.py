"""F, G, H, K: the app over HTTP, idle, and as several workers on one file."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from tests.benchmarks import load
from tests.benchmarks.floor import INSERT, PAYLOAD
from tests.benchmarks.rows import SYNCED, Figures, Measure, Row, percentiles
from tests.benchmarks.served import TYPE, WORK_TYPE
from tests.benchmarks.server import Server, serving

LOAD_S = 5
PROBES_A_SECOND = 100
IDLE_PROBES = 600
BACKLOG = 100_000
BACKLOGS = 2
"""Worked off one after another, for enough probes to speak of the slowest hundredth."""
SHARED = 40_000
SHARED_WORK = 4_000
"""Messages that take their handler about a millisecond of a core."""
WATCHED_S = 10
PATIENCE_S = 120
IN_MEMORY = "in memory"


# --- F: a route that sends, K: the same with several workers ---


def post_rate(directory: Path, divisor: int, *, route: str, workers: int = 1) -> Figures:
    """POST requests a second over 64 connections, and how long they took."""
    with serving(directory, workers=workers) as server:
        return load.post(server.url + route, PAYLOAD, LOAD_S / divisor)


# --- G: an unrelated route ---


def probe_idle(directory: Path, divisor: int) -> Figures:
    with serving(directory) as server:
        probes = max(IDLE_PROBES // divisor, 10)
        return percentiles(asyncio.run(probe(server.url, lambda taken: taken >= probes)))


def probe_busy(directory: Path, divisor: int) -> Figures:
    taken_ms: list[float] = []
    with serving(directory) as server:
        for _ in range(BACKLOGS):
            fill(server, TYPE, BACKLOG // divisor)
            taken_ms += probe_until_empty(server)
    return percentiles(taken_ms)


def probe_until_empty(server: Server) -> list[float]:
    with closing(sqlite3.connect(server.database)) as eye:
        return asyncio.run(probe(server.url, lambda _taken: is_empty(eye)))


async def probe(url: str, is_over: Callable[[int], bool]) -> list[float]:
    """GET at a steady rate over one connection; milliseconds from the planned time on.

    So a request that had to wait for the one before it is as late as its user would find it.
    """
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    request = f"GET /health HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    taken_ms: list[float] = []
    began = loop.time()
    while not is_over(len(taken_ms)):
        planned = began + len(taken_ms) / PROBES_A_SECOND
        await asyncio.sleep(max(0.0, planned - loop.time()))
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        (length,) = (line[15:] for line in head.split(b"\r\n") if line[:15] == b"content-length:")
        await reader.readexactly(int(length))
        taken_ms.append((loop.time() - planned) * 1000)
    writer.close()
    return taken_ms


# --- H: an idle app ---


def idle_cpu(directory: Path, divisor: int, *, app: str) -> Figures:
    """Percent of a core, without start and stop."""
    with serving(directory, app) as server:
        time.sleep(1 / divisor)
        before, began = cpu_s(server.pid), time.perf_counter()
        time.sleep(WATCHED_S / divisor)
        used, took = cpu_s(server.pid) - before, time.perf_counter() - began
        return {"cpu_percent": used / took * 100}


def cpu_s(pid: int) -> float:
    """What the threads of a process have had, to the nanosecond."""
    had_ns = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):  # it has ended
            had_ns += int(thread.read_text().split()[0])
    return had_ns / 1e9


def no_schedstat() -> str | None:
    return None if Path("/proc/self/schedstat").exists() else "there is no /proc/PID/schedstat"


# --- K: several workers ---


def share_backlog(
    directory: Path, divisor: int, *, message_type: str, count: int, workers: int
) -> Figures:
    """Handled and settled a second by all; the first tenth is the warm-up.

    smallest_share: what the least busy worker handled, in relation to an even share.
    """
    count //= divisor
    with serving(directory, workers=workers) as server:
        fill(server, message_type, count)
        deadline = time.monotonic() + PATIENCE_S
        while (warm := sum(server.handled())) < count // 10:
            _pause(deadline)
        began = time.perf_counter()
        with closing(sqlite3.connect(server.database)) as eye:
            while not is_empty(eye):
                _pause(deadline)
        took = time.perf_counter() - began
        handled = server.handled()
    if sum(handled) != count:
        msg = f"{count} messages were handled {sum(handled)} times"
        raise RuntimeError(msg)
    return {
        "per_s": (count - warm) / took,
        "smallest_share": min(handled) * workers / count,
    }


def _pause(deadline: float) -> None:
    if time.monotonic() > deadline:
        msg = f"The backlog was not worked off in {PATIENCE_S} s"
        raise TimeoutError(msg)
    time.sleep(0.002)


# --- what they share ---


def is_empty(eye: sqlite3.Connection) -> bool:
    return eye.execute("SELECT 1 FROM kvqueue_messages LIMIT 1").fetchone() is None


def fill(server: Server, message_type: str, count: int) -> None:
    """Put messages there in one commit, while the server runs."""
    with closing(sqlite3.connect(server.database)) as connection, connection:
        connection.executemany(INSERT, [(message_type, PAYLOAD)] * count)


def _loaded(work: str, name: str, who: str, durability: str, measure: Measure) -> Row:
    return Row(work, name, who, durability, measure, load.no_generator)


ROWS = [
    _loaded("F", "POST, does not send", "floor", IN_MEMORY, partial(post_rate, route="/plain")),
    _loaded(
        "F", "POST, awaits a bare thread", "floor", IN_MEMORY, partial(post_rate, route="/hop")
    ),
    _loaded("F", "POST, sends", "ours", SYNCED, partial(post_rate, route="/orders")),
    _loaded(
        "F",
        "POST, adds a background task",
        "BackgroundTasks",
        IN_MEMORY,
        partial(post_rate, route="/background"),
    ),
    Row("G", "GET, idle", "ours", SYNCED, probe_idle),
    Row("G", "GET, while 100,000 messages are worked off", "ours", SYNCED, probe_busy),
    Row("H", "without the module", "floor", IN_MEMORY, partial(idle_cpu, app="bare"), no_schedstat),
    Row("H", "with the listener", "ours", SYNCED, partial(idle_cpu, app="shop"), no_schedstat),
    *(
        Row(
            "K",
            f"handle, {what}, workers: {workers}",
            "ours",
            SYNCED,
            partial(share_backlog, message_type=message_type, count=count, workers=workers),
        )
        for what, message_type, count in (
            ("a handler that does nothing", TYPE, SHARED),
            ("a handler that computes for 1 ms", WORK_TYPE, SHARED_WORK),
        )
        for workers in (1, 2, 4)
    ),
    *(
        _loaded(
            "K",
            f"POST, sends, workers: {workers}",
            "ours",
            SYNCED,
            partial(post_rate, route="/orders", workers=workers),
        )
        for workers in (1, 2, 4)
    ),
]
