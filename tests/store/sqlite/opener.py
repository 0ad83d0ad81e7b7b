"""A process that opens database after database at the same moment as others."""

import asyncio
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier

from kvqueue_fastapi.model import AtomicWrite, Send
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import open_store


async def visit(path: str) -> None:
    store = await open_store(path, KvQueueSettings())
    await store.commit(AtomicWrite(sends=[Send("mail", "1")]))
    await store.close()


def visit_all(paths: Sequence[str], barrier: Barrier) -> None:
    for path in paths:
        barrier.wait(10)
        asyncio.run(visit(path))
