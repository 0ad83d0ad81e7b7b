"""The queue as an app uses it: the module, a consumer with a dependency, a typed payload."""

import asyncio
import sqlite3
import time
from functools import partial
from pathlib import Path

from injector import Binder, Inject, Injector, Module, singleton
from pydantic import BaseModel

from kvqueue_fastapi import KvQueue, KvQueueModule, on_queue_message
from tests.benchmarks.floor import INSERT, PAYLOAD, TYPE
from tests.benchmarks.rows import SYNCED, WARM_UP, Figures, Row


class Order(BaseModel):
    order_id: int
    customer: str
    lines: list[int]


ORDER = Order.model_validate_json(PAYLOAD)


class Ledger:
    """What the consumer depends on."""

    def __init__(self) -> None:
        self.handled = 0
        self.goal = 0
        self.reached = asyncio.Event()

    def note(self) -> None:
        self.handled += 1
        if self.handled == self.goal:
            self.reached.set()

    async def reach(self, goal: int) -> None:
        """Wait until so many were handled."""
        self.goal = goal
        if self.handled < goal:
            self.reached.clear()
            await self.reached.wait()


class Consumer:
    def __init__(self, ledger: Inject[Ledger]) -> None:
        self.ledger = ledger

    @on_queue_message(TYPE)
    async def handle(self, order: Order) -> None:
        self.ledger.note()


class LedgerModule(Module):
    def configure(self, binder: Binder) -> None:
        binder.bind(Ledger, scope=singleton)


def send(directory: Path, divisor: int, *, count: int, producers: int) -> Figures:
    """Messages a second, sent by so many tasks, each awaiting its own."""
    return asyncio.run(_send(directory / "ours.db", count // divisor, producers))


async def _send(path: Path, count: int, producers: int) -> Figures:
    async def produce(queue: KvQueue, each: int) -> None:
        for _ in range(each):
            await queue.send_message(TYPE, ORDER)

    each = max(1, count // producers)

    module = KvQueueModule(str(path), consumers=[Consumer], listen=False)
    async with module.running(Injector([module, LedgerModule()])) as queue:
        warm_up = max(1, each // WARM_UP)
        await asyncio.gather(*(produce(queue, warm_up) for _ in range(producers)))
        began = time.perf_counter()
        await asyncio.gather(*(produce(queue, each) for _ in range(producers)))
        took = time.perf_counter() - began
    return {"per_s": each * producers / took}


def handle(directory: Path, divisor: int) -> Figures:
    """Messages a second, of a backlog of 20,000, handled and settled."""

    async def filled_and_handled() -> Figures:
        count = 20_000 // divisor
        path = directory / "ours.db"
        await fill(path, count)
        warm_up = count // 10
        return await handle_some(path, range(1, count + 1), warm_up, count - warm_up)

    return asyncio.run(filled_and_handled())


async def fill(path: Path, count: int) -> None:
    """Put so many messages there, without the queue's help."""
    module = KvQueueModule(str(path), listen=False)
    async with module.running():
        pass
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(INSERT, [(TYPE, PAYLOAD)] * count)
    connection.execute("COMMIT")
    connection.close()


async def handle_some(
    path: Path, ids: range, warm_up: int, count: int, consumer: type[Consumer] = Consumer
) -> Figures:
    """Messages a second, handled and settled.

    Args:
        path: of the database.
        ids: of those that wait for this consumer, in the order in which they are handled.
        warm_up: how many to handle before the clock starts.
        count: how many to handle then.
        consumer: whose handler to call.
    """
    module = KvQueueModule(str(path), consumers=[consumer])
    injector = Injector([module, LedgerModule()])
    ledger = injector.get(Ledger)
    # Some are handled before their turn; further back there is nothing to count.
    looked_at = ids[: warm_up + count + 2_000]
    eye = sqlite3.connect(path)
    marks: list[tuple[int, float]] = []
    async with module.running(injector):
        for goal in (warm_up, warm_up + count):
            await ledger.reach(goal)
            while (settled := _settled(eye, looked_at)) < goal:
                await asyncio.sleep(0.001)
            marks.append((settled, time.perf_counter()))
    eye.close()
    (few, began), (many, ended) = marks
    return {"per_s": (many - few) / (ended - began)}


def _settled(eye: sqlite3.Connection, ids: range) -> int:
    left = "SELECT count(*) FROM kvqueue_messages WHERE id BETWEEN ? AND ?"
    (waiting,) = eye.execute(left, (ids[0], ids[-1])).fetchone()
    return len(ids) - int(waiting)


ROWS = [
    Row("A", "100 producers", "ours", SYNCED, partial(send, count=40_000, producers=100)),
    Row("B", "one by one", "ours", SYNCED, partial(send, count=4_000, producers=1)),
    Row("C", "a dependency and a typed payload", "ours", SYNCED, handle),
]
