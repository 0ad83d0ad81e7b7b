"""FastStream on Redis streams, read by a group and acknowledged."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.peers import asynchronous, servers
from tests.benchmarks.peers.handled import Handled
from tests.benchmarks.peers.message import MESSAGE, TYPE
from tests.benchmarks.peers.sizes import Sizes
from tests.benchmarks.rows import Row, not_installed

BATCH = 100


class FastStream:
    def __init__(self, broker: Any) -> None:
        self.broker = broker

    async def send(self) -> object:
        return await self.broker.publish(MESSAGE, stream=TYPE)

    async def fill(self, count: int) -> None:
        await asynchronous.send_in_tasks(self, count, 10)

    @asynccontextmanager
    async def handling(self) -> AsyncIterator[None]:
        await self.broker.start()
        yield


@asynccontextmanager
async def opened(directory: Path, handled: Handled) -> AsyncIterator[FastStream]:
    from faststream.redis import RedisBroker, StreamSub

    with servers.redis(directory) as url:
        async with RedisBroker(url, logger=None) as broker:
            # from the first message on: they are there before the group is
            read = StreamSub(TYPE, group="bench", consumer="one", last_id="0", max_records=BATCH)

            @broker.subscriber(stream=read)
            async def order_created(message: dict[str, Any]) -> None:
                handled()

            yield FastStream(broker)


def missing() -> str | None:
    return not_installed("faststream", "redis") or servers.redis_missing()


ROWS: list[Row] = asynchronous.rows(
    "FastStream", "not synced", opened, missing, Sizes("FastStream (Redis streams)")
)
