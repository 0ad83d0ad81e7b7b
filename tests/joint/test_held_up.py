"""A transaction of a caller's that has an ordering key for long holds up nobody else."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from kvqueue_fastapi.errors import StoreBusyError
from kvqueue_fastapi.model import AtomicWrite, KvSet, Outcome, Send
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store.postgres import locks
from kvqueue_fastapi.store.postgres.engine import PostgresStore
from tests.store.given import claim, claimed_ids, ending, mail, once, send

HELD, OTHER = "held", "other"


@pytest.fixture
async def other(postgres_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


async def opened(url: str, **settings: Any) -> PostgresStore:
    return await PostgresStore.open(url, KvQueueSettings(**settings))


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    store = await opened(postgres_url)
    yield store
    await store.close()


def of(key: str) -> Send:
    return mail(ordering_key=key)


def sending(store: PostgresStore, *sends: Send) -> "asyncio.Future[list[int]]":
    return asyncio.ensure_future(send(store, *sends))


async def test_what_needs_other_locks_is_written_meanwhile(
    store: PostgresStore, other: Any
) -> None:
    (kept,) = await send(store, of(OTHER))
    (claimed,) = await claim(store)

    async with other.transaction():
        await store.send_within(other, [of(HELD)])
        waiting = sending(store, of(HELD))
        async with asyncio.timeout(2):
            # in one batch with what waits, and in those behind it
            await asyncio.gather(
                send(store, of(OTHER)),
                send(store, once("k")),
                store.commit(AtomicWrite(mutations=[KvSet(b"key", b"1", 1, None)])),
                store.settle([ending(claimed, Outcome.RELEASE)]),
            )
            await send(store, of(OTHER))
        waited = not waiting.done()
    await waiting

    assert locks.ordering(HELD) != locks.ordering(OTHER)
    assert claimed.id == kept
    assert waited


async def test_those_who_wait_for_one_key_are_stored_in_their_order(
    store: PostgresStore, other: Any
) -> None:
    waiting: list[asyncio.Future[list[int]]] = []
    async with other.transaction():
        first = await store.send_within(other, [of(HELD)])
        for _ in range(20):
            waiting.append(sending(store, of(HELD), of(OTHER)))
            await asyncio.sleep(0.002)
    ids = [await one for one in waiting]

    handled: list[int] = []
    while batch := await claim(store):
        handled += [one.id for one in batch if one.ordering_key == HELD]
        await store.settle([ending(one) for one in batch])
    assert handled == [*first, *(pair[0] for pair in ids)]


async def test_who_has_waited_for_a_third_of_a_lease_is_told_why_and_nothing_is_stored(
    postgres_url: str, other: Any
) -> None:
    store = await opened(postgres_url, lease_s=1)
    async with other.transaction():
        await store.send_within(other, [of(HELD)])
        with pytest.raises(StoreBusyError, match="holds a lock that this needs"):
            await send(store, of(HELD))
    await send(store, of(OTHER))

    assert len(await claimed_ids(store)) == 2
    await store.close()


async def test_cancelled_caller_withdraws_from_the_line(store: PostgresStore, other: Any) -> None:
    async with other.transaction():
        first = await store.send_within(other, [of(HELD)])
        waiting = sending(store, of(HELD))
        await asyncio.sleep(0.3)
        waiting.cancel()
        await asyncio.wait([waiting])
    after = await send(store, of(HELD))

    found = [await settled(store) for _ in range(2)]
    assert found == [first, after]
    assert await claimed_ids(store) == []


async def settled(store: PostgresStore) -> list[int]:
    claims = await claim(store)
    await store.settle([ending(one) for one in claims])
    return [one.id for one in claims]


async def test_store_closes_beside_those_who_wait(postgres_url: str, other: Any) -> None:
    store = await opened(postgres_url)
    async with other.transaction():
        await store.send_within(other, [of(HELD)])
        waiting = sending(store, of(HELD))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await store.close()
        closed_s = time.monotonic() - began

    assert closed_s < 3
    with pytest.raises(StoreBusyError):
        await waiting


async def test_settlement_of_a_held_key_waits_and_then_frees_what_is_behind_it(
    store: PostgresStore, other: Any
) -> None:
    await send(store, of(HELD))
    (claimed,) = await claim(store)
    async with other.transaction():
        behind = await store.send_within(other, [of(HELD)])
        settling = asyncio.ensure_future(store.settle([ending(claimed)]))
        await asyncio.sleep(0.1)
        waited = not settling.done()

    assert await settling == [True]
    assert waited
    assert await claimed_ids(store) == behind
