"""SAQ on Redis, and on PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.peers import asynchronous, servers
from tests.benchmarks.peers.handled import Handled
from tests.benchmarks.peers.message import MESSAGE, TYPE
from tests.benchmarks.peers.sizes import Sizes
from tests.benchmarks.rows import Row, not_installed

CONCURRENCY = 10


class Saq:
    def __init__(self, queue: Any, handled: Handled) -> None:
        self.queue = queue
        self.handled = handled

    async def send(self) -> object:
        return await self.queue.enqueue(TYPE, message=MESSAGE)

    async def fill(self, count: int) -> None:
        await asynchronous.send_in_tasks(self, count, 10)

    def handling(self) -> AbstractAsyncContextManager[object]:
        from saq import Worker

        async def order_created(context: Any, *, message: dict[str, Any]) -> None:
            self.handled()

        worker: Any = Worker(self.queue, [(TYPE, order_created)], concurrency=CONCURRENCY)
        return asynchronous.during(worker.start())


@asynccontextmanager
async def connected(url: str, handled: Handled) -> AsyncIterator[Saq]:
    from saq import Queue

    queue: Any = Queue.from_url(url)
    await queue.connect()
    try:
        yield Saq(queue, handled)
    finally:
        await queue.disconnect()


@asynccontextmanager
async def opened_on_redis(directory: Path, handled: Handled) -> AsyncIterator[Saq]:
    with servers.redis(directory) as url:
        async with connected(url, handled) as peer:
            yield peer


@asynccontextmanager
async def opened_on_postgres(directory: Path, handled: Handled) -> AsyncIterator[Saq]:
    with servers.postgres(directory) as url:
        async with connected(url, handled) as peer:
            yield peer


def missing_redis() -> str | None:
    return not_installed("saq", "redis") or servers.redis_missing()


def missing_postgres() -> str | None:
    return not_installed("saq", "psycopg", "psycopg_pool") or servers.postgres_missing()


ROWS: list[Row] = [
    *asynchronous.rows("SAQ", "not synced", opened_on_redis, missing_redis, Sizes("SAQ (Redis)")),
    *asynchronous.rows(
        "SAQ",
        "each commit synced",
        opened_on_postgres,
        missing_postgres,
        Sizes("SAQ (PostgreSQL)", sends=4_000, ones=1_500),
    ),
]
