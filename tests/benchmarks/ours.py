"""The queue as an app uses it: the module, a consumer with a dependency, a typed payload."""

import asyncio
import sqlite3
import time
from pathlib import Path

from injector import Binder, Inject, Injector, Module, singleton
from pydantic import BaseModel

from kvqueue_fastapi import KvQueue, KvQueueModule, on_queue_message
from tests.benchmarks.floor import INSERT, PAYLOAD

TYPE = "order.created"


class Order(BaseModel):
    order_id: int
    customer: str
    lines: list[int]


ORDER = Order.model_validate_json(PAYLOAD)


class Ledger:
    """What the consumer depends on."""

    def __init__(self) -> None:
        self.handled_at = 0.0
        self.some = asyncio.Event()


class Consumer:
    def __init__(self, ledger: Inject[Ledger]) -> None:
        self.ledger = ledger

    @on_queue_message(TYPE)
    async def handle(self, order: Order) -> None:
        self.ledger.handled_at = time.perf_counter()
        self.ledger.some.set()


class LedgerModule(Module):
    def configure(self, binder: Binder) -> None:
        binder.bind(Ledger, scope=singleton)


async def send_rate(path: Path, count: int, producers: int) -> float:
    """Messages a second, sent by so many tasks, each awaiting its own."""

    async def produce(queue: KvQueue) -> None:
        for _ in range(count // producers):
            await queue.send_message(TYPE, ORDER)

    module = KvQueueModule(str(path), consumers=[Consumer], listen=False)
    async with module.running(Injector([module, LedgerModule()])) as queue:
        await asyncio.gather(*(produce(queue) for _ in range(min(producers, 10))))
        began = time.perf_counter()
        await asyncio.gather(*(produce(queue) for _ in range(producers)))
        return count / (time.perf_counter() - began)


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


async def handle_rate(path: Path, waiting: int, count: int) -> float:
    """Messages a second, handled and settled, while so many wait.

    One type is settled in order, so that the smallest id left tells how many are: a look that
    costs the same at any depth. The first tenth is the warm-up.
    """
    await fill(path, waiting)
    module = KvQueueModule(str(path), consumers=[Consumer])
    eye = sqlite3.connect(path)
    marks: list[tuple[int, float]] = []
    async with module.running(Injector([module, LedgerModule()])):
        for goal in (count // 10, count):
            while (settled := _settled(eye, waiting)) < goal:
                await asyncio.sleep(0.001)
            marks.append((settled, time.perf_counter()))
    eye.close()
    (few, began), (many, ended) = marks
    return (many - few) / (ended - began)


def _settled(eye: sqlite3.Connection, waiting: int) -> int:
    (smallest,) = eye.execute("SELECT min(id) FROM kvqueue_messages").fetchone()
    return waiting if smallest is None else int(smallest) - 1


async def latencies_ms(path: Path, count: int) -> list[float]:
    """From the call of `send_message` to the start of the handler, in an idle process."""
    module = KvQueueModule(str(path), consumers=[Consumer])
    injector = Injector([module, LedgerModule()])
    taken: list[float] = []
    async with module.running(injector) as queue:
        ledger = injector.get(Ledger)
        for _ in range(count):
            await asyncio.sleep(0.005)
            ledger.some.clear()
            began = time.perf_counter()
            await queue.send_message(TYPE, ORDER)
            await ledger.some.wait()
            taken.append((ledger.handled_at - began) * 1000)
    return taken
