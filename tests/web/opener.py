"""Opens and closes each database that a line of its input names, and says so."""

import asyncio
import sys

from kvqueue_fastapi import KvQueueModule, on_queue_message


@on_queue_message("opened")
async def opened() -> None: ...


async def open_and_close(url: str) -> None:
    async with KvQueueModule(url, consumers=[opened]).running() as queue:
        await queue.send_message("opened")


for line in sys.stdin:
    asyncio.run(open_and_close(line.strip()))
    print("opened", flush=True)
