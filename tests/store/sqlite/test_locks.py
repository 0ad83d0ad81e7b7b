"""Other programs' locks: waited for with patience, not for ever, and with no harm done."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kvqueue_fastapi.errors import StoreBusyError
from kvqueue_fastapi.model import Claim, Claimed, Wanted
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import AnyStore, open_store
from kvqueue_fastapi.store.base import ClaimRequest
from kvqueue_fastapi.store.outages import GRACE_S
from tests.store.given import LEASE_MS, ManualClock, claim, ending, mail, send

Verb = Callable[[AnyStore], Awaitable[Any]]

WRITING: dict[str, Verb] = {
    "send": lambda store: send(store, mail()),
    "claim": claim,
    "settle": lambda store: store.settle([]),
    "ready_types": lambda store: store.ready_types(after="", limit=1),
    "enter_listener": lambda store: store.enter_listener([]),
    "pause": lambda store: store.admin.set_paused("mail", paused=True),
    "extend": lambda store: asyncio.to_thread(store.extend, [(1, 1)], 5),
    "sweep": lambda store: asyncio.to_thread(store.sweep),
    "leave_listener": lambda store: asyncio.to_thread(store.leave_listener, 1),
}
READING: dict[str, Verb] = {
    "counts": lambda store: store.admin.counts(),
    "count_pending": lambda store: store.count_pending(most=5),
    "paused_types": lambda store: store.paused_types(),
    "listened_types": lambda store: store.listened_types(),
    "end_leases_of_the_dead": lambda store: asyncio.to_thread(store.end_leases_of_the_dead),
}


@pytest.fixture
def settings() -> KvQueueSettings:
    # A third of the lease is how long it waits for locks.
    return KvQueueSettings(lease_s=1)


@pytest.mark.parametrize("verb", WRITING)
async def test_lock_that_is_freed_in_time_is_no_error(
    store: AnyStore, foreign: sqlite3.Connection, verb: str
) -> None:
    foreign.execute("BEGIN IMMEDIATE")
    asyncio.get_running_loop().call_later(0.05, foreign.execute, "COMMIT")

    await WRITING[verb](store)

    assert not foreign.in_transaction


@pytest.mark.parametrize("verb", WRITING)
async def test_lock_that_is_held_too_long_is_a_busy_error(
    store: AnyStore, foreign: sqlite3.Connection, verb: str
) -> None:
    foreign.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreBusyError, match="Another program has held the database's lock"):
        await WRITING[verb](store)

    foreign.execute("ROLLBACK")
    await WRITING[verb](store)


@pytest.mark.parametrize("verb", READING)
async def test_reading_does_not_wait_for_a_writer(
    store: AnyStore, foreign: sqlite3.Connection, verb: str
) -> None:
    foreign.execute("BEGIN IMMEDIATE")

    await READING[verb](store)

    foreign.execute("ROLLBACK")


async def test_all_who_wait_for_a_lock_are_told_at_once(
    store: AnyStore, foreign: sqlite3.Connection
) -> None:
    foreign.execute("BEGIN IMMEDIATE")
    loop = asyncio.get_running_loop()
    begun = loop.time()

    answers = await asyncio.gather(
        *(send(store, mail()) for _ in range(200)), return_exceptions=True
    )

    assert {type(answer) for answer in answers} == {StoreBusyError}
    assert loop.time() - begun < 1  # one patience or two, not two hundred
    foreign.execute("ROLLBACK")
    assert await claim(store) == []


async def test_replay_waits_for_a_lock_once_only(
    store: AnyStore, foreign: sqlite3.Connection
) -> None:
    await send(store, mail())
    (held,) = await claim(store)
    stale = ending(held)._replace(token=1)
    loop = asyncio.get_running_loop()
    _take_lock_at_rollback(store, foreign)
    begun = loop.time()

    answers = await asyncio.gather(
        *(store.settle([stale]) for _ in range(50)), return_exceptions=True
    )

    assert {type(answer) for answer in answers} == {StoreBusyError}
    assert loop.time() - begun < 1
    foreign.execute("ROLLBACK")


@pytest.fixture
async def peer(
    path: Path, settings: KvQueueSettings, clock: ManualClock, store: AnyStore
) -> AsyncIterator[AnyStore]:
    """Another process on the same file."""
    peer = await open_store(str(path), settings, clock)
    yield peer
    await peer.close()


async def held_beyond_its_lease(
    store: AnyStore, peer: AnyStore, foreign: sqlite3.Connection, clock: ManualClock
) -> tuple[Claim, Claimed]:
    """A lock outlasts a lease, while a peer looks for work. Returns what it finds then."""
    await send(store, mail())
    (held,) = await claim(store)
    foreign.execute("BEGIN IMMEDIATE")
    clock.pass_ms(LEASE_MS)
    for _ in range(2):
        with pytest.raises(StoreBusyError):
            await claim(peer)
    foreign.execute("ROLLBACK")
    return held, await peer.claim(ClaimRequest([Wanted("mail", 1)], limit=1, lease_ms=LEASE_MS))


async def test_holder_whom_a_lock_kept_from_extending_its_lease_may_do_it_now(
    store: AnyStore, peer: AnyStore, foreign: sqlite3.Connection, clock: ManualClock
) -> None:
    held, found = await held_beyond_its_lease(store, peer, foreign, clock)

    lost = await asyncio.to_thread(store.extend, [(held.id, held.token)], LEASE_MS)
    assert found.next_due_ms is not None
    await asyncio.sleep(found.next_due_ms / 1_000)

    assert (found.claims, lost) == ([], frozenset())
    assert await claim(peer) == []
    assert await store.settle([ending(held)]) == [True]


async def test_holder_that_does_not_extend_its_lease_after_a_lock_loses_it(
    store: AnyStore, peer: AnyStore, foreign: sqlite3.Connection, clock: ManualClock
) -> None:
    held, found = await held_beyond_its_lease(store, peer, foreign, clock)

    assert found.claims == []
    assert found.next_due_ms is not None
    assert 0 < found.next_due_ms <= GRACE_S * 1_000
    await asyncio.sleep(found.next_due_ms / 1_000)
    assert [(one.id, one.crashes) for one in await claim(peer)] == [(held.id, 1)]


async def test_end_of_a_listener_that_a_lock_kept_from_saying_so_is_no_crash(
    store: AnyStore, peer: AnyStore, foreign: sqlite3.Connection
) -> None:
    await send(store, mail())
    listener_id = await store.enter_listener(["mail"])
    await claim(store, listener_id=listener_id)
    foreign.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError):
        await asyncio.to_thread(store.leave_listener, listener_id)
    await store.close()
    foreign.execute("ROLLBACK")

    freed = await asyncio.to_thread(peer.end_leases_of_the_dead)

    assert freed == 1
    assert [(one.attempt, one.crashes) for one in await claim(peer)] == [(1, 0)]
    assert await peer.admin.listeners() == []


async def test_open_reader_does_not_hold_up_writes(
    store: AnyStore, foreign: sqlite3.Connection
) -> None:
    await send(store, mail())
    foreign.execute("BEGIN")
    foreign.execute("SELECT count(*) FROM kvqueue_messages").fetchone()

    ids = [await send(store, mail()) for _ in range(20)]

    assert len(ids) == 20
    assert foreign.execute("SELECT count(*) FROM kvqueue_messages").fetchone() == (1,)
    foreign.execute("ROLLBACK")


@pytest.fixture
async def three(path: Path) -> AsyncIterator[list[AnyStore]]:
    """Stores on one file, with the patience that they have by default."""
    stores = [await open_store(str(path), KvQueueSettings()) for _ in range(3)]
    yield stores
    await asyncio.gather(*(store.close() for store in stores))


async def test_stores_that_write_back_to_back_all_get_through(three: list[AnyStore]) -> None:
    async def flood(store: AnyStore) -> None:
        for _ in range(100):
            await send(store, mail())

    await asyncio.gather(*map(flood, three))

    assert await three[0].count_pending(most=999) == 300


async def test_busy_program_beside_us_loses_nothing(three: list[AnyStore], path: Path) -> None:
    def write() -> None:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as other:
            for _ in range(200):
                other.execute("INSERT INTO kvqueue_messages (type) VALUES ('other')")
                time.sleep(0.0005)

    *answers, _ = await asyncio.gather(
        *(send(three[0], mail()) for _ in range(300)), asyncio.to_thread(write)
    )

    found = await claim(three[1], limit=999, room=999)
    assert [one.id for one in found] == [number for (number,) in answers]
    assert len(await claim(three[2], "other", limit=999, room=999)) == 200


def _take_lock_at_rollback(store: AnyStore, foreign: sqlite3.Connection) -> None:
    """Lets another program take the lock between a batch and its replay."""

    def watch(statement: str) -> None:
        if statement == "BEGIN IMMEDIATE" and rolled_back and not foreign.in_transaction:
            foreign.execute("BEGIN IMMEDIATE")
        if statement == "ROLLBACK":
            rolled_back.append(True)

    rolled_back: list[bool] = []
    store._thread.call(lambda connection: connection.set_trace_callback(watch))
