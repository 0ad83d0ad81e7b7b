"""PgQueuer on PostgreSQL, with a pool of asyncpg; a worker waits for its notifications."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.peers import asynchronous, servers
from tests.benchmarks.peers.handled import Handled
from tests.benchmarks.peers.message import TEXT, TYPE
from tests.benchmarks.peers.sizes import Sizes
from tests.benchmarks.rows import Row, not_installed

PAYLOAD = TEXT.encode()
BATCH_SIZE = 1_000
"""Of one dequeue, and of one write of what is done: its documents' throughput setting."""


class PgQueuer:
    def __init__(self, pool: Any, handled: Handled) -> None:
        from pgqueuer.db import AsyncpgPoolDriver
        from pgqueuer.qm import QueueManager
        from pgqueuer.queries import Queries

        self.queries = Queries(AsyncpgPoolDriver(pool))
        self.manager = QueueManager(Queries(AsyncpgPoolDriver(pool)))

        @self.manager.entrypoint(TYPE)
        async def order_created(job: Any) -> None:
            handled()

    async def send(self) -> object:
        return await self.queries.enqueue(TYPE, PAYLOAD)

    async def fill(self, count: int) -> None:
        for begun in range(0, count, BATCH_SIZE):
            many = min(BATCH_SIZE, count - begun)
            await self.queries.enqueue([TYPE] * many, [PAYLOAD] * many, [0] * many)

    def handling(self) -> AbstractAsyncContextManager[object]:
        return asynchronous.during(self.manager.run(batch_size=BATCH_SIZE))


@asynccontextmanager
async def opened(directory: Path, handled: Handled) -> AsyncIterator[PgQueuer]:
    import asyncpg

    with servers.postgres(directory) as url:
        # Nothing is left behind on a connection, so the query that would tidy it up is spared.
        async with asyncpg.create_pool(url, reset=_leave_as_it_is) as pool:
            peer = PgQueuer(pool, handled)
            await peer.queries.install()
            yield peer


async def _leave_as_it_is(_connection: object) -> None: ...


def missing() -> str | None:
    return not_installed("pgqueuer", "asyncpg") or servers.postgres_missing()


ROWS: list[Row] = asynchronous.rows(
    "PgQueuer",
    "each commit synced",
    opened,
    missing,
    Sizes("PgQueuer (PostgreSQL)", sends=6_000, ones=2_000, depths=(10_000, 100_000)),
)
