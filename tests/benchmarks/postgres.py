"""The queue on PostgreSQL, as an app uses it, measured as the peers there are."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from injector import Inject, Injector, InstanceProvider, singleton
from pydantic import BaseModel

from kvqueue_fastapi import KvQueue, KvQueueModule, on_queue_message
from tests.benchmarks.floor import PAYLOAD
from tests.benchmarks.peers import asynchronous, servers
from tests.benchmarks.peers.handled import Handled
from tests.benchmarks.peers.message import TYPE
from tests.benchmarks.peers.sizes import Sizes
from tests.benchmarks.rows import SYNCED, Figures, Row, not_installed

WHO = "ours on PostgreSQL"
FILL = f"""
INSERT INTO kvqueue.kvqueue_messages (id, type, data)
SELECT nextval('kvqueue.kvqueue_id_blocks') * 1000, '{TYPE}', $1 FROM generate_series(1, $2::int)
"""
"""Put there without the queue's help, as any program may."""

SIZE = "SELECT pg_total_relation_size('kvqueue.kvqueue_messages')"


class Order(BaseModel):
    order_id: int
    customer: str
    lines: list[int]


ORDER = Order.model_validate_json(PAYLOAD)


class Consumer:
    def __init__(self, handled: Inject[Handled]) -> None:
        self.handled = handled

    @on_queue_message(TYPE)
    async def handle(self, order: Order) -> None:
        self.handled()


class Ours:
    def __init__(self, url: str, queue: KvQueue, handled: Handled) -> None:
        self.url = url
        self.queue = queue
        self.listening = KvQueueModule(url, consumers=[Consumer])
        self.injector = Injector(
            [
                self.listening,
                lambda binder: binder.bind(Handled, InstanceProvider(handled), singleton),
            ]
        )

    async def send(self) -> object:
        return await self.queue.send_message(TYPE, ORDER)

    async def fill(self, count: int) -> None:
        import asyncpg

        connection = await asyncpg.connect(self.url)
        await connection.execute(FILL, PAYLOAD, count)
        await connection.close()

    async def table_mb(self) -> float:
        """With its indexes."""
        import asyncpg

        connection = await asyncpg.connect(self.url)
        size: int = await connection.fetchval(SIZE)
        await connection.close()
        return size / 1_000_000

    @asynccontextmanager
    async def handling(self) -> AsyncIterator[None]:
        async with self.listening.running(self.injector) as queue:
            before, self.queue = self.queue, queue
            yield
            self.queue = before


@asynccontextmanager
async def opened(directory: Path, handled: Handled) -> AsyncIterator[Ours]:
    with servers.postgres(directory) as url:
        async with KvQueueModule(url, listen=False).running() as queue:
            yield Ours(url, queue, handled)


def missing() -> str | None:
    return not_installed("asyncpg") or servers.postgres_missing()


def wear(directory: Path, divisor: int) -> Figures:
    """Messages a second behind 1,000,000 that went through, and what the table takes then."""
    part = 100_000 // divisor

    async def measure() -> Figures:
        done = asyncio.Event()
        handled = Handled(done)
        rates: list[float] = []
        async with opened(directory, handled) as ours, ours.handling():
            for _ in range(10):
                handled.expect(part)
                await ours.fill(part - 1)
                await ours.send()  # which wakes the listener: what is put there tells nobody
                await done.wait()
                rates.append(handled.rate()["per_s"])
            size = await ours.table_mb()
        return {"per_s": rates[-1], "of_before": rates[-1] / rates[0], "table_mb": size}

    return asyncio.run(measure())


SIZES = Sizes(
    "PostgreSQL",
    sends=40_000,
    ones=3_000,
    depths=(10_000, 100_000, 500_000),
    handled=50_000,
)
ROWS: list[Row] = [
    *asynchronous.rows(WHO, SYNCED, opened, missing, SIZES),
    Row("D", "PostgreSQL, after 1,000,000 messages", WHO, SYNCED, wear, missing),
]
