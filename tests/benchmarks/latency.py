"""E: how long an idle queue takes from the call of a send to the start of its handler."""

import asyncio
import random
import time
from functools import partial
from pathlib import Path
from typing import Any

from injector import Inject, Injector, Module, singleton

from kvqueue_fastapi import KvQueueModule, on_queue_message
from tests.benchmarks import child, floor
from tests.benchmarks.rows import SYNCED, Figures, Row, not_installed, percentiles

TYPE = "order.created"
COUNT = 200
GAPS_S = (0.005, 0.03)
"""Between sends; drawn, so that they keep no step with whoever polls."""
WARM_UP = 5
CLAIM = "UPDATE kvqueue_messages SET state = 3, attempt = attempt + 1 WHERE id = ?"


class Arrivals:
    """What the consumer depends on: how long each message took, in milliseconds."""

    def __init__(self) -> None:
        self.taken_ms: list[float] = []


class Consumer:
    def __init__(self, arrivals: Inject[Arrivals]) -> None:
        self.arrivals = arrivals

    @on_queue_message(TYPE)
    async def handle(self, sent: dict[str, int]) -> None:
        self.arrivals.taken_ms.append((time.monotonic_ns() - sent["at_ns"]) / 1e6)


class ArrivalsModule(Module):
    def configure(self, binder: Any) -> None:
        binder.bind(Arrivals, scope=singleton)


async def send_now_and_then(path: Path, count: int, *, listen: bool) -> list[float]:
    """Send with gaps; returns what the handler of this process has seen, if it listens."""
    module = KvQueueModule(str(path), consumers=[Consumer] if listen else (), listen=listen)
    injector = Injector([module, ArrivalsModule()])
    async with module.running(injector) as queue:
        for _ in range(count + WARM_UP):
            await asyncio.sleep(random.uniform(*GAPS_S))
            await queue.send_message(TYPE, {"at_ns": time.monotonic_ns()})
        arrivals = injector.get(Arrivals)
        while listen and len(arrivals.taken_ms) < count + WARM_UP:
            await asyncio.sleep(0.01)
    return arrivals.taken_ms[WARM_UP:]


def in_process(directory: Path, divisor: int) -> Figures:
    work = send_now_and_then(directory / "bench.db", COUNT // divisor, listen=True)
    return percentiles(asyncio.run(work))


def in_process_on_uvloop(directory: Path, divisor: int) -> Figures:
    import uvloop

    work = send_now_and_then(directory / "bench.db", COUNT // divisor, listen=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return percentiles(runner.run(work))


def send_only(path: str, count: int) -> Figures:
    asyncio.run(send_now_and_then(Path(path), count, listen=False))
    return {}


async def listen_to_another(path: Path, count: int) -> list[float]:
    """Listen, while a process of its own sends; the clock is that of the machine."""
    module = KvQueueModule(str(path), consumers=[Consumer])
    injector = Injector([module, ArrivalsModule()])
    async with module.running(injector):
        arrivals = injector.get(Arrivals)
        with child.started(send_only, str(path), count) as sender:
            while len(arrivals.taken_ms) < count + WARM_UP:
                if sender.poll():
                    msg = f"The sender ended with {sender.returncode}"
                    raise RuntimeError(msg)
                await asyncio.sleep(0.05)
    return arrivals.taken_ms[WARM_UP:]


def across_processes(directory: Path, divisor: int) -> Figures:
    work = listen_to_another(directory / "bench.db", COUNT // divisor)
    return percentiles(asyncio.run(work))


def two_commits(directory: Path, divisor: int) -> Figures:
    """The same rows: insert one, commit, claim it, commit; nothing between."""
    connection = floor.connect(directory / "bench.db")
    taken_ms = []
    for _ in range(COUNT // divisor + WARM_UP):
        time.sleep(random.uniform(*GAPS_S))
        began = time.perf_counter_ns()
        inserted = connection.execute(floor.INSERT, (TYPE, floor.PAYLOAD))
        connection.execute(CLAIM, (inserted.lastrowid,))
        taken_ms.append((time.perf_counter_ns() - began) / 1e6)
    connection.close()
    return percentiles(taken_ms[WARM_UP:])


ROWS = [
    Row("E", "two commits, no event loop", "floor", SYNCED, two_commits),
    Row("E", "in the process", "ours", SYNCED, in_process),
    Row(
        "E",
        "in the process, on uvloop",
        "ours",
        SYNCED,
        in_process_on_uvloop,
        partial(not_installed, "uvloop"),
    ),
    Row("E", "across two processes", "ours", SYNCED, across_processes),
]
