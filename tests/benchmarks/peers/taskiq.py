"""taskiq on Redis streams, which are acknowledged."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks.peers import asynchronous, servers
from tests.benchmarks.peers.handled import Handled
from tests.benchmarks.peers.message import MESSAGE, TYPE
from tests.benchmarks.peers.sizes import Sizes
from tests.benchmarks.rows import Row, not_installed

MAX_TASKS = 100
"""At a time: the default of its command line."""


class Taskiq:
    def __init__(self, broker: Any, task: Any) -> None:
        self.broker = broker
        self.task = task

    async def send(self) -> object:
        return await self.task.kiq(MESSAGE)

    async def fill(self, count: int) -> None:
        await asynchronous.send_in_tasks(self, count, 10)

    @asynccontextmanager
    async def handling(self) -> AsyncIterator[None]:
        from taskiq.receiver import Receiver

        self.broker.is_worker_process = True
        receiver = Receiver(self.broker, run_startup=False, max_async_tasks=MAX_TASKS)
        finish = asyncio.Event()
        listening = asyncio.create_task(receiver.listen(finish))
        yield
        finish.set()
        await listening


@asynccontextmanager
async def opened(directory: Path, handled: Handled) -> AsyncIterator[Taskiq]:
    from taskiq_redis import RedisStreamBroker

    with servers.redis(directory) as url:
        broker: Any = RedisStreamBroker(url)

        @broker.task(task_name=TYPE)
        async def order_created(message: dict[str, Any]) -> None:
            handled()

        await broker.startup()
        yield Taskiq(broker, order_created)
        await broker.shutdown()


def missing() -> str | None:
    lacking = not_installed("taskiq", "taskiq_redis") or servers.redis_missing()
    if lacking is None and not version("taskiq").startswith("0.11."):
        return "taskiq is not 0.11: later ones do not stop listening when they are told to"
    return lacking


ROWS: list[Row] = asynchronous.rows(
    "taskiq", "not synced", opened, missing, Sizes("taskiq (Redis streams)")
)
