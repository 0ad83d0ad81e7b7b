"""The queue on PostgreSQL, as an app uses it, measured as the peers there are."""

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
from tests.benchmarks.rows import Row, not_installed

WHO = "ours on PostgreSQL"
FILL = f"""
INSERT INTO kvqueue.kvqueue_messages (id, type, data)
SELECT nextval('kvqueue.kvqueue_id_blocks') * 1000, '{TYPE}', $1 FROM generate_series(1, $2::int)
"""
"""Put there without the queue's help, as any program may."""


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


ROWS: list[Row] = asynchronous.rows(
    WHO,
    "each commit synced",
    opened,
    missing,
    Sizes(
        "PostgreSQL",
        sends=40_000,
        ones=3_000,
        depths=(10_000, 100_000, 500_000),
        handled=50_000,
    ),
)
