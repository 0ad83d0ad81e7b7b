"""A table that is locked, a queue of notices that is full, a disk that is full."""

import asyncio
from collections.abc import Callable

import asyncpg
import pytest

from tests.faults.postgres.stage import LEASE_S, Stage
from tests.faults.small_disk import SmallDisk

LONGEST_NOTICE = 7_999


@pytest.mark.parametrize("mode", ["ACCESS EXCLUSIVE", "SHARE"])
async def test_table_that_is_locked_for_longer_than_a_lease_delays_and_doubles_nothing(
    stage: Stage, mode: str
) -> None:
    await stage.machines(stage.server.url, stage.server.url)

    async with stage.load() as load:
        connection = await asyncpg.connect(stage.server.url)
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE kvqueue.kvqueue_messages IN {mode} MODE")
            await asyncio.sleep(LEASE_S + 1)
        await connection.close()
        await load.goes_on()

    assert all("holds a lock" in text for text in load.refused)


async def test_full_queue_of_notices_stops_neither_sends_nor_handlers(
    start_stage: Callable[..., Stage],
) -> None:
    stage = start_stage(max_notify_queue_pages=64)
    await stage.machines(stage.server.url, stage.server.url)

    async with stage.load() as load:
        connection = await asyncpg.connect(stage.server.url)
        await connection.execute("LISTEN others")
        await connection.execute("BEGIN; SELECT 1")
        with pytest.raises(asyncpg.PostgresError, match="too many notifications"):
            await notify_for_ever(stage)
        await load.goes_on(100)
        await connection.close()

    assert not load.refused


async def test_full_disk_refuses_sends_and_loses_and_doubles_nothing(
    start_stage: Callable[..., Stage], small_disk: SmallDisk
) -> None:
    small_disk.path.chmod(0o777)
    stage = start_stage(small_disk.path, min_wal_size="32MB", max_wal_size="32MB")
    await stage.machines(stage.server.url, stage.server.url)

    async with stage.load() as load:
        small_disk.fill()
        async with asyncio.timeout(30):
            while not any("Make room" in text for text in load.refused):
                await asyncio.sleep(0.05)
        await asyncio.sleep(LEASE_S + 1)
        small_disk.free()
        if not stage.server.running:
            await asyncio.to_thread(stage.server.start)
        await load.goes_on()


async def notify_for_ever(stage: Stage) -> None:
    while True:
        await stage.ask("SELECT pg_notify('others', repeat('x', $1))", LONGEST_NOTICE)
