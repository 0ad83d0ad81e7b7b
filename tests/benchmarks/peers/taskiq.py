"""taskiq on Redis streams, which are acknowledged."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.peers import asynchronous, servers
from tests.benchmarks.peers.handled import Handled
from tests.benchmarks.peers.message import MESSAGE, TYPE, not_installed
from tests.benchmarks.peers.sizes import Sizes
from tests.benchmarks.rows import Row


class Taskiq:
    def __init__(self, broker: Any, task: Any) -> None:
        self.broker = broker
        self.task = task

    async def send(self) -> object:
        return await self.task.kiq(MESSAGE)

    async def fill(self, count: int) -> None:
        await asynchronous.send_in_tasks(self, count, 10)

    def handling(self) -> AbstractAsyncContextManager[object]:
        from taskiq.api import run_receiver_task

        return asynchronous.during(run_receiver_task(self.broker))


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
    return not_installed("taskiq", "taskiq_redis") or servers.redis_missing()


ROWS: list[Row] = asynchronous.rows(
    "taskiq", "not synced", opened, missing, Sizes("taskiq (Redis streams)")
)
