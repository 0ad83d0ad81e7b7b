"""The thread that talks to the server, and those who wait for it."""

import asyncio

import pytest

from kvqueue_fastapi.endings import in_own_thread
from kvqueue_fastapi.errors import KvQueueClosedError
from kvqueue_fastapi.store.postgres.database_loop import DatabaseLoop

HOUR_S = 3600.0


async def nothing() -> None: ...


@pytest.mark.parametrize("way", ["awaited", "blocking"])
async def test_who_waits_for_a_thread_that_ends_is_told_so_and_not_cancelled(way: str) -> None:
    database = DatabaseLoop()
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def work() -> None:
        loop.call_soon_threadsafe(began.set)
        await asyncio.sleep(HOUR_S)

    asked = database.run(work) if way == "awaited" else in_own_thread(lambda: database.call(work))
    waiting = asyncio.ensure_future(asked)
    await began.wait()
    await in_own_thread(lambda: database.close(nothing))

    with pytest.raises(KvQueueClosedError):
        await waiting
