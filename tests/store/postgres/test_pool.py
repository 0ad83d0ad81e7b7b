"""Connections go from hand to hand."""

import asyncio
from typing import Any

import pytest

from kvqueue_fastapi.errors import KvQueueClosedError
from kvqueue_fastapi.store.postgres.pool import Pool


class Line:
    """A connection as the pool sees it."""

    def __init__(self) -> None:
        self.ended = False

    def is_closed(self) -> bool:
        return self.ended

    def terminate(self) -> None:
        self.ended = True


async def connect() -> Any:
    return Line()


async def test_connection_that_was_given_back_is_used_again() -> None:
    pool = Pool(connect, 2)
    first = await pool.take(1)
    pool.give_back(first)

    assert await pool.take(1) is first


async def test_who_comes_when_all_are_in_use_waits_for_one() -> None:
    pool = Pool(connect, 1)
    first = await pool.take(1)
    second = asyncio.create_task(pool.take(5))
    await asyncio.sleep(0)
    pool.give_back(first)

    assert await second is first


async def test_who_gives_one_back_and_comes_again_overtakes_nobody() -> None:
    pool = Pool(connect, 1)
    first = await pool.take(1)
    waits = asyncio.create_task(pool.take(5))
    await asyncio.sleep(0)
    pool.give_back(first)
    again = asyncio.create_task(pool.take(5))

    assert await waits is first
    assert not again.done()
    pool.give_back(first)
    assert await again is first


async def test_wait_has_an_end_and_leaves_its_place_to_others() -> None:
    pool = Pool(connect, 1)
    first = await pool.take(1)
    with pytest.raises(TimeoutError):
        await pool.take(0)
    pool.give_back(first)

    assert await pool.take(1) is first


async def test_cancelled_wait_takes_nothing_along() -> None:
    pool = Pool(connect, 1)
    first = await pool.take(1)
    one, other = asyncio.create_task(pool.take(5)), asyncio.create_task(pool.take(5))
    await asyncio.sleep(0)
    pool.give_back(first)
    one.cancel()

    assert await other is first


async def test_connection_that_broke_makes_room_for_another() -> None:
    pool = Pool(connect, 1)
    first = await pool.take(1)
    waits = asyncio.create_task(pool.take(5))
    await asyncio.sleep(0)
    first.terminate()
    pool.give_back(first)

    second = await waits
    assert second is not first
    assert not second.is_closed()


async def test_failed_connect_leaves_its_place_to_others() -> None:
    fails = True

    async def connect_or_fail() -> Any:
        if fails:
            raise OSError("nobody there")
        return Line()

    pool = Pool(connect_or_fail, 1)
    with pytest.raises(OSError, match="nobody there"):
        await pool.take(1)
    fails = False

    assert not (await pool.take(1)).is_closed()


async def test_suspects_are_let_go_but_not_those_in_use() -> None:
    pool = Pool(connect, 2)
    busy, idle = await pool.take(1), await pool.take(1)
    pool.give_back(idle)

    pool.suspect()

    assert (busy.ended, idle.ended) == (False, True)
    assert not (await pool.take(1)).is_closed()


async def test_closing_ends_all_and_those_who_wait() -> None:
    pool = Pool(connect, 1)
    busy = await pool.take(1)
    waits = asyncio.create_task(pool.take(5))
    await asyncio.sleep(0)

    pool.close()

    assert busy.ended
    with pytest.raises(KvQueueClosedError):
        await waits
    with pytest.raises(KvQueueClosedError):
        await pool.take(1)
