"""arq on Redis; its worker polls twice a second, or again at once after a full batch."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.peers import asynchronous, servers
from tests.benchmarks.peers.handled import Handled
from tests.benchmarks.peers.message import MESSAGE, TYPE
from tests.benchmarks.peers.sizes import Sizes
from tests.benchmarks.rows import Row, not_installed

MAX_JOBS = 300
POLL_S = 0.5
"""Its default."""


class Arq:
    def __init__(self, pool: Any, handled: Handled) -> None:
        self.pool = pool
        self.handled = handled

    async def send(self) -> object:
        return await self.pool.enqueue_job(TYPE, MESSAGE)

    async def fill(self, count: int) -> None:
        await asynchronous.send_in_tasks(self, count, 10)

    @asynccontextmanager
    async def handling(self) -> AsyncIterator[None]:
        from arq.worker import Worker, func

        async def order_created(context: Any, message: dict[str, Any]) -> None:
            self.handled()

        worker = Worker(
            functions=[func(order_created, name=TYPE)],
            redis_pool=self.pool,
            max_jobs=MAX_JOBS,
            poll_delay=POLL_S,
            handle_signals=False,
        )
        async with asynchronous.during(worker.async_run()):
            yield
            # those in flight end by themselves, once no more are picked
            worker.allow_pick_jobs = False
            await asyncio.gather(*worker.tasks.values(), return_exceptions=True)


@asynccontextmanager
async def opened(directory: Path, handled: Handled) -> AsyncIterator[Arq]:
    from arq import create_pool
    from arq.connections import RedisSettings

    with servers.redis(directory) as url:
        pool = await create_pool(RedisSettings.from_dsn(url))
        yield Arq(pool, handled)
        await pool.aclose()


def missing() -> str | None:
    return not_installed("arq") or servers.redis_missing()


ROWS: list[Row] = asynchronous.rows(
    "arq", "not synced", opened, missing, Sizes("arq (Redis)", latencies=50, gap_s=POLL_S)
)
