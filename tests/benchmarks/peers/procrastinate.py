"""procrastinate on PostgreSQL; a worker waits for its notifications."""

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
POOL = 10
BATCH = 1_000


class Procrastinate:
    def __init__(self, app: Any, task: Any) -> None:
        self.app = app
        self.task = task

    async def send(self) -> object:
        return await self.task.defer_async(message=MESSAGE)

    async def fill(self, count: int) -> None:
        for begun in range(0, count, BATCH):
            many = [{"message": MESSAGE}] * min(BATCH, count - begun)
            await self.task.batch_defer_async(*many)

    def handling(self) -> AbstractAsyncContextManager[object]:
        return asynchronous.during(
            self.app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False)
        )


@asynccontextmanager
async def opened(directory: Path, handled: Handled) -> AsyncIterator[Procrastinate]:
    from procrastinate import App, PsycopgConnector
    from psycopg_pool import AsyncConnectionPool

    with servers.postgres(directory) as url:
        app = App(connector=PsycopgConnector())

        @app.task(name=TYPE)
        async def order_created(message: dict[str, Any]) -> None:
            handled()

        # The pool that it makes by itself checks each connection that it hands out.
        pool: Any = AsyncConnectionPool(
            url, configure=_commit_each, min_size=POOL, max_size=POOL, open=False
        )
        async with pool, app.open_async(pool):
            await app.schema_manager.apply_schema_async()
            yield Procrastinate(app, order_created)


async def _commit_each(connection: Any) -> None:
    await connection.set_autocommit(True)


def missing() -> str | None:
    return not_installed("procrastinate", "psycopg", "psycopg_pool") or servers.postgres_missing()


ROWS: list[Row] = asynchronous.rows(
    "procrastinate",
    "each commit synced",
    opened,
    missing,
    Sizes(
        "procrastinate (PostgreSQL)",
        sends=4_000,
        ones=1_500,
        depths=(1_000, 100_000),
        handled=3_000,
    ),
)
