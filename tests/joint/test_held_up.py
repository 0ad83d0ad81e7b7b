"""A transaction of a caller's that has an ordering key for long holds up nobody else."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from injector import Injector

from kvqueue_fastapi import KvQueueModule, on_queue_message
from kvqueue_fastapi.errors import StoreBusyError, StoreError
from kvqueue_fastapi.keeper import Query
from kvqueue_fastapi.model import (
    AtomicWrite,
    Failure,
    KvSet,
    Outcome,
    Send,
)
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store.postgres import locks
from kvqueue_fastapi.store.postgres.engine import PostgresStore
from kvqueue_fastapi.store.postgres.locks import StillHeldError
from kvqueue_fastapi.store.postgres.sessions import WAITING_SIZE
from tests.store.given import LEASE_MS, ManualClock, claim, claimed_ids, ending, mail, once, send

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


@pytest.fixture
async def third(postgres_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


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
        with pytest.raises(StoreBusyError, match="same ordering or idempotency key is still open"):
            await send(store, of(HELD))
    await send(store, of(OTHER))

    assert len(await claimed_ids(store)) == 2
    await store.close()


async def test_who_cannot_be_stored_spoils_nothing_for_those_who_waited_with_him(
    store: PostgresStore, other: Any
) -> None:
    await other.execute(NO_BAD_ONES)
    async with other.transaction():
        await store.send_within(other, [of(HELD)])
        first = sending(store, of(HELD))
        await asyncio.sleep(0.2)
        bad, good = sending(store, mail("bad", ordering_key=HELD)), sending(store, of(HELD))
        await asyncio.sleep(0.1)
    answers = await asyncio.gather(first, bad, good, return_exceptions=True)

    assert [type(one) for one in answers] == [list, StoreError, list]
    assert len(await claimed_ids(store)) == 1


NO_BAD_ONES = """
CREATE FUNCTION kvqueue.refuse() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN IF new.data = ''bad'' THEN RAISE ''no bad ones''; END IF; RETURN new; END';
CREATE TRIGGER refuse BEFORE INSERT ON kvqueue.kvqueue_messages
    FOR EACH ROW EXECUTE FUNCTION kvqueue.refuse();
"""


async def test_cancelled_caller_withdraws_from_the_line(store: PostgresStore, other: Any) -> None:
    async with other.transaction():
        first = await store.send_within(other, [of(HELD)])
        waiting = [sending(store, of(HELD))]
        await asyncio.sleep(0.3)
        # The first one's batch has begun, that of the others has not.
        waiting += [sending(store, of(HELD)) for _ in range(2)]
        await asyncio.sleep(0.1)
        waiting[1].cancel()
        await asyncio.wait([waiting[1]])
    stored = [(await one)[0] for one in (waiting[0], waiting[2])]

    found = [await settled(store) for _ in range(3)]
    assert found == [first, *([one] for one in stored)]
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


async def test_settlement_of_a_held_key_waits_and_those_beside_it_do_not(
    store: PostgresStore, other: Any
) -> None:
    for key in (HELD, OTHER):
        await send(store, of(key))
    claims = {one.ordering_key: one for one in await claim(store)}
    async with other.transaction():
        await store.send_within(other, [of(HELD)])
        behind = await send(store, of(OTHER))
        held, free = await store.settle([ending(claims[HELD]), ending(claims[OTHER])])
        claimed = await claimed_ids(store)
        waited = not isinstance(held, bool) and not held.done()

    assert (waited, free, claimed) == (True, True, behind)
    assert not isinstance(held, bool)
    assert await held
    assert len(await claimed_ids(store)) == 1  # what the caller had sent


async def test_listener_goes_on_with_all_others_while_one_key_is_held(
    postgres_url: str, other: Any
) -> None:
    handled: asyncio.Queue[int] = asyncio.Queue()
    gate = asyncio.Event()

    @on_queue_message("job")
    async def take(number: int) -> None:
        if number == 0:
            await gate.wait()
        handled.put_nowait(number)

    module = KvQueueModule(postgres_url, consumers=[take])
    async with module.running(Injector([module])) as queue:
        await queue.send_message("job", 0, ordering_key=HELD)
        async with other.transaction():
            await queue.send_message("job", 4, ordering_key=HELD, connection=other)
            gate.set()
            async with asyncio.timeout(5):
                first = await handled.get()
                for number in (1, 2):  # the second when the first is settled
                    await queue.send_message("job", number, ordering_key=OTHER)
                await queue.send_message("job", 3)
                meanwhile = {await handled.get() for _ in range(3)}
        async with asyncio.timeout(5):
            last = await handled.get()

    assert (first, meanwhile, last) == (0, {1, 2, 3}, 4)


async def test_who_waits_for_one_key_has_no_other(
    store: PostgresStore, other: Any, third: Any
) -> None:
    async with other.transaction():
        await store.send_within(other, [of(HELD)])
        waiting = sending(store, of(OTHER), of(HELD))
        await asyncio.sleep(0.2)
        async with asyncio.timeout(2), third.transaction():
            await store.send_within(third, [of(OTHER)])
        waited = not waiting.done()

    assert len(await waiting) == 2
    assert waited


async def test_callers_that_follow_each_other_starve_nobody(
    store: PostgresStore, other: Any, third: Any
) -> None:
    async def follow() -> list[int]:
        async with third.transaction():
            return await store.send_within(third, [of(HELD)])

    async with other.transaction():
        first = await store.send_within(other, [of(HELD)])
        waiting = sending(store, of(HELD))
        await asyncio.sleep(0.2)
        following = asyncio.create_task(follow())
        await asyncio.sleep(0.2)
    second, last = await waiting, await following

    assert [await settled(store) for _ in range(3)] == [first, second, last]


async def test_who_needs_two_keys_gets_both_although_callers_follow_each_other(
    store: PostgresStore, postgres_url: str
) -> None:
    async def follow(key: str) -> None:
        connection = await asyncpg.connect(postgres_url)
        try:
            while True:
                async with connection.transaction():
                    await store.send_within(connection, [of(key)])
                    await asyncio.sleep(0.05)
        finally:
            connection.terminate()

    callers = [asyncio.create_task(follow(key)) for key in (HELD, OTHER) for _ in range(2)]
    await asyncio.sleep(0.3)
    for _ in range(5):
        assert len(await send(store, of(HELD), of(OTHER))) == 2
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)


async def test_all_in_a_long_line_are_refused_when_the_first_are(
    postgres_url: str, other: Any
) -> None:
    patience_s = 4  # one batch behind another would need it again for each
    store = await opened(postgres_url, lease_s=3 * patience_s)
    large = f'"{1_000_000 * "x"}"'  # four of them make a batch
    async with other.transaction():
        await store.send_within(other, [of(HELD)])
        waiting = [sending(store, mail(large, ordering_key=HELD)) for _ in range(16)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(waiting, timeout=patience_s / 2)
        done = [one.done() for one in waiting]
        answers = await asyncio.gather(*waiting, return_exceptions=True)
    await store.close()

    assert done == [True] * len(waiting)
    assert {type(one) for one in answers} == {StillHeldError}


async def test_more_held_keys_than_connections_that_wait_hold_up_none_that_is_free(
    postgres_url: str, other: Any, third: Any
) -> None:
    keys = [f"held {number}" for number in range(2 * WAITING_SIZE)]
    store = await opened(postgres_url, lease_s=12)
    async with other.transaction():
        await store.send_within(other, [of(key) for key in keys])
        async with third.transaction():
            await store.send_within(third, [of(HELD)])
            waiting = [sending(store, of(key)) for key in (*keys, HELD)]
            await asyncio.sleep(0.2)
        await waiting[-1]
        done = [one.done() for one in waiting]
    await asyncio.gather(*waiting)
    await store.close()

    assert done == [False] * len(keys) + [True]


async def test_last_crash_of_a_held_key_waits_and_claims_of_others_do_not(
    postgres_url: str, other: Any
) -> None:
    clock = ManualClock()
    store = await PostgresStore.open(postgres_url, KvQueueSettings(max_crashes=1), clock)
    await send(store, of(HELD))
    await claim(store)
    (free,) = await send(store, mail())
    clock.pass_ms(2 * LEASE_MS)
    async with other.transaction():
        await store.send_within(other, [of(HELD)])
        async with asyncio.timeout(2):
            meanwhile = await claimed_ids(store)
        before = await store.admin.list_dead_letters(Query())
    await claim(store)
    after = await store.admin.list_dead_letters(Query())
    await store.close()

    assert (meanwhile, before, len(after)) == ([free], [], 1)


async def test_requeue_of_many_keys_waits_for_one_and_keeps_none_of_the_others(
    store: PostgresStore, other: Any
) -> None:
    keys = [f"key {number}" for number in range(20)]
    await send(store, *map(of, keys))
    await store.settle(
        [ending(one, Outcome.DEAD, failure=Failure("")) for one in await claim(store)]
    )
    dead = [one.id for one in await store.admin.list_dead_letters(Query(limit=100))]
    locked = locks.ordering(keys[-1])
    free = [key for key in keys if locks.ordering(key) != locked]

    async with other.transaction():
        await store.send_within(other, [of(keys[-1])])
        requeueing = asyncio.create_task(store.admin.requeue(dead))
        await asyncio.sleep(0.2)
        async with asyncio.timeout(2):
            await send(store, *map(of, free))
        was_waiting = not requeueing.done()
    requeued = await requeueing

    assert was_waiting
    assert (len(dead), sorted(requeued)) == (20, sorted(dead))
