"""Stores of several processes on one database, and foreign programs beside them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import asyncpg
import pytest

from kvqueue_fastapi.errors import StoreBusyError, StoreError
from kvqueue_fastapi.model import AtomicWrite, Failure, KvSet, Outcome, Send, Wanted
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import open_store
from kvqueue_fastapi.store.base import ClaimRequest
from kvqueue_fastapi.store.postgres import connection, locks
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import OwnSession
from kvqueue_fastapi.store.postgres.engine import PostgresStore
from kvqueue_fastapi.store.postgres.ids import Ids
from kvqueue_fastapi.store.postgres.sessions import Transaction
from tests.store.given import LEASE_MS, claim, claimed_ids, ending, is_quiet, mail, send, settle

Open = Callable[..., Any]
IS_BETWEEN = """
SELECT 1 FROM pg_stat_activity
 WHERE pid = $1 AND state = 'active' AND wait_event = 'ClientRead' AND backend_xid IS NOT NULL
"""
DEAD = Failure("oops")
EARLIEST, LATEST = -(1 << 63), (1 << 63) - 1


@pytest.fixture
async def opened(postgres_url: str) -> AsyncIterator[Open]:
    """Opens another store, as another process has it, on the server's clock."""
    stores: list[PostgresStore] = []

    async def open_one(url: str = postgres_url, **settings: Any) -> PostgresStore:
        store: Any = await open_store(url, KvQueueSettings(**settings))
        stores.append(store)
        return store

    yield open_one
    for store in stores:
        await store.close()


@pytest.fixture
async def outside(postgres_url: str) -> AsyncIterator[Any]:
    """A foreign program's connection."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


def listen_url(url: str, way: str) -> str | None:
    """Given, it says that the other URL is that of a pooler."""
    return url if way == "by a pooler" else None


async def bell(store: PostgresStore) -> asyncio.Event:
    """Rings when something may have become claimable; it is quiet so far."""
    rung = asyncio.Event()
    store.subscribe(rung.set)
    await is_quiet(store)
    rung.clear()
    return rung


async def rings(rung: asyncio.Event) -> bool:
    async with asyncio.timeout(5):
        return await rung.wait()


async def test_keys_are_written_while_somebody_waits_for_an_ordering_key(
    opened: Open, outside: Any
) -> None:
    one, other = await opened(), await opened()
    transaction = outside.transaction()
    await transaction.start()
    await one.send_within(outside, [mail(ordering_key="k")])
    # Both in one commit, which waits for the caller's transaction.
    waiting = asyncio.gather(
        one.commit(AtomicWrite(sends=[mail(ordering_key="k")])),
        one.commit(AtomicWrite(mutations=[KvSet(b"a", b"1")])),
    )
    await asyncio.sleep(0.1)

    async with asyncio.timeout(2):
        committed = await other.commit(AtomicWrite(mutations=[KvSet(b"b", b"1")]))
        await other.last_version()
    await transaction.commit()

    assert committed.ok
    assert all(one.ok for one in await waiting)


@pytest.mark.parametrize("way", ["direct", "by a pooler"])
@pytest.mark.parametrize("waits", ["a write of keys", "a look at their version"])
async def test_silent_holders_message_is_taken_over_while_a_keys_lock_is_waited_for_in_vain(
    opened: Open, outside: Any, postgres_url: str, waits: str, way: str
) -> None:
    store = await opened(lease_s=2, postgres_listen_url=listen_url(postgres_url, way))
    (message_id,) = await send(store, mail())
    await claim(store)
    await outside.execute("UPDATE kvqueue.kvqueue_messages SET lease_until_ms = 0")
    transaction = outside.transaction()
    await transaction.start()
    await outside.execute(TURN, locks.space(store._sessions.schema), locks.VERSIONS)

    is_write = waits == "a write of keys"
    write = AtomicWrite(mutations=[KvSet(b"a", b"1")])
    with pytest.raises(StoreBusyError, match="holds a lock"):
        await listening_meanwhile(store, store.commit(write) if is_write else store.last_version())
    taken = await claimed_ids(store)
    await transaction.rollback()

    assert taken == [message_id]


async def listening_meanwhile(store: PostgresStore, work: Coroutine[Any, Any, Any]) -> None:
    """As every listener does: as it can, so could a silent holder, if it lived."""
    working = asyncio.ensure_future(work)
    while not working.done():
        await asyncio.to_thread(store.end_leases_of_the_dead)
        await asyncio.wait([working], timeout=0.05)
    await working


async def test_live_holder_is_spared_where_its_peer_waits_for_one_who_waits_for_the_table(
    opened: Open, outside: Any
) -> None:
    waiting, other = await opened(lease_s=24), await opened(lease_s=2)
    await send(other, mail())
    await claim(other)
    transaction = outside.transaction()
    await transaction.start()
    await outside.execute("LOCK TABLE kvqueue.kvqueue_messages IN SHARE MODE")
    # It has the lock of all versions of keys, and waits for the table.
    both = AtomicWrite(sends=[mail()], mutations=[KvSet(b"a", b"1")])
    behind = asyncio.ensure_future(waiting.commit(both))
    space = locks.space(other._sessions.schema)
    while (await outside.fetch(sql.TRY_LOCK, space, locks.VERSIONS))[0][0]:
        await outside.fetch("SELECT pg_advisory_unlock_all()")
        await asyncio.sleep(0.02)

    with pytest.raises(StoreBusyError, match="holds a lock"):
        await listening_meanwhile(other, other.commit(AtomicWrite(mutations=[KvSet(b"b", b"1")])))
    await transaction.rollback()
    await behind
    await outside.execute("UPDATE kvqueue.kvqueue_messages SET lease_until_ms = 0 WHERE state = 3")
    await asyncio.to_thread(other.end_leases_of_the_dead)
    claimed = await claim(other)

    assert [one.crashes for one in claimed] == [0]


STANDING = [
    ("direct", "transact", ""),
    ("by a pooler", "transact", ""),
    ("by a pooler", "attempt", ""),
    ("direct", "transact", "?transaction_timeout=3600000"),
    ("by a pooler", "transact", "?transaction_timeout=3600000"),
]


@pytest.mark.parametrize(("way", "method", "limit"), STANDING)
async def test_process_that_stands_still_between_parts_of_a_statement_keeps_nothing_locked(
    opened: Open,
    outside: Any,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    method: str,
    limit: str,
) -> None:
    if outside.get_server_version() < (17,):
        pytest.skip("older servers wait for it")
    monkeypatch.setattr(connection, "_TRANSACTION_S", 1.0)
    monkeypatch.setattr(connection, "_TRANSACTION_SHARE", 0)
    store = await opened(
        postgres_url + limit, lease_s=2, postgres_listen_url=listen_url(postgres_url, way)
    )
    space = locks.space(store._sessions.schema)
    pids, is_free = [], threading.Event()

    async def work(session: OwnSession) -> None:
        await locks.lock_briefly(session, store._sessions.schema, {locks.VERSIONS}, None)
        await session._connection.prepare("SELECT 1")  # and not what comes behind it
        pids.append(session.pid)
        # The server lets go of the lock before its word of it has arrived here.
        while not (is_free.is_set() and session._connection.is_closed()):
            await asyncio.sleep(0.02)
        await session.execute("SELECT 1")

    run = getattr(store._sessions, method)
    working = asyncio.ensure_future(store._database.run(lambda: run(work)))
    async with asyncio.timeout(30):
        while not (pids and await outside.fetch(IS_BETWEEN, pids[0])):
            await asyncio.sleep(0.02)
        while not (await outside.fetch(sql.TRY_LOCK, space, locks.VERSIONS))[0][0]:
            await asyncio.sleep(0.1)
    is_free.set()

    with pytest.raises(StoreBusyError, match="closed"):
        await working


async def test_transaction_that_is_too_slow_names_its_limit_and_what_sets_it(
    opened: Open, outside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if outside.get_server_version() < (17,):
        pytest.skip("older servers wait for it")
    monkeypatch.setattr(connection, "_TRANSACTION_S", 0.8)
    monkeypatch.setattr(connection, "_TRANSACTION_SHARE", 0)
    store = await opened(lease_s=2)

    async def work(transaction: Transaction) -> None:
        while True:
            await transaction.execute("SELECT pg_sleep(0.3)")

    with pytest.raises(StoreBusyError, match=r"as long as a lease \(10 s .* raise lease_s"):
        await store._database.run(lambda: store._sessions.transact(work))


async def test_limit_of_the_role_or_the_database_ends_no_statement(
    opened: Open, outside: Any, postgres_url: str
) -> None:
    if outside.get_server_version() < (17,):
        pytest.skip("older servers have no such limit")
    store = await opened(f"{postgres_url}?transaction_timeout=100", lease_s=2)

    async def work(session: OwnSession) -> int:
        return (await session.fetch("SELECT 1 FROM pg_sleep(0.3)"))[0][0]

    for method in (store._sessions.attempt, store._sessions.transact):
        assert await store._database.run(lambda method=method: method(work)) == 1


@pytest.mark.parametrize(("statement_s", "limit_ms"), [(1.0, 10_000), (5.0, 30_000)])
def test_transaction_has_a_lease_or_time_for_twenty_statements(
    statement_s: float, limit_ms: int
) -> None:
    assert connection.transaction_ms(statement_s) == limit_ms


async def test_message_that_is_quarantined_between_full_claims_is_not_overlooked(
    opened: Open, outside: Any
) -> None:
    store = await opened()
    (suspect,) = await send(store, mail(delay_ms=60_000))
    ids = await send(store, *(mail() for _ in range(3)))
    state = "UPDATE kvqueue.kvqueue_messages SET state = 4, lane = 4, crashes = 2 WHERE id = $1"

    full = await claim(store, limit=1)
    await outside.execute(state, suspect)
    found = await claim(store, limit=10)

    assert [one.id for one in full] == ids[:1]
    assert {one.id for one in found} == {suspect, *ids[1:]}


async def test_requeue_and_sends_share_one_connection(opened: Open) -> None:
    store = await opened(postgres_pool_size=1)
    ids = await send(store, *(mail() for _ in range(20)))
    for held in await claim(store):
        await settle(store, held, Outcome.DEAD, failure=DEAD)

    async with asyncio.timeout(8):
        await asyncio.gather(
            *(store.admin.requeue([message_id]) for message_id in ids),
            # each needs a block of ids of its own
            *(send(store, *(Send("other", "1") for _ in range(997))) for _ in range(5)),
        )

    assert len(await claim(store)) == 20


@pytest.mark.parametrize(
    "row",
    [
        {"state": 1, "due_at_ms": EARLIEST},
        {"state": 1, "due_at_ms": LATEST},
        {"state": 3, "token": 5, "lease_until_ms": EARLIEST},
        {"state": 3, "token": 5, "lease_until_ms": LATEST},
        {"sent_at_ms": EARLIEST},
        {"sent_at_ms": LATEST},
    ],
    ids=str,
)
async def test_foreign_row_beyond_all_times_stops_nobody(
    opened: Open, outside: Any, row: dict[str, int]
) -> None:
    store = await opened()
    (good,) = await send(store, mail())
    columns = ", ".join(["type", *row])
    values = ", ".join(["'mail'", *map(str, row.values())])
    await outside.execute(f"INSERT INTO kvqueue.kvqueue_messages ({columns}) VALUES ({values})")

    assert good in [one.id for one in await claim(store)]
    assert [one.type for one in await store.admin.counts()] == ["mail"]


async def test_thread_without_event_loop_tells_others_of_what_it_frees(opened: Open) -> None:
    one, other = await opened(), await opened()
    await send(one, mail(ordering_key="k"), mail(ordering_key="k"))
    (head,) = await claim(one)
    rung = await bell(other)

    await asyncio.to_thread(one.settle_now, [ending(head)])

    assert await rings(rung)


async def test_retired_listener_that_ends_leaves_word_for_others(
    opened: Open, outside: Any
) -> None:
    one, other = await opened(), await opened()
    listener_id = await one.enter_listener(["mail"])
    await send(one, mail())
    await claim(one, listener_id=listener_id)
    await asyncio.to_thread(one.retire_listener, listener_id)
    rung = await bell(other)
    # As if its process had ended: the lock is free, and has been for long.
    await one._database.run(lambda: one._notices.leave(listener_id))
    await outside.execute("UPDATE kvqueue.kvqueue_listeners SET missed_at_ms = 0")
    rung.clear()

    freed = await asyncio.to_thread(other.end_leases_of_the_dead)

    assert freed == 1
    assert await rings(rung)
    assert [one.crashes for one in await claim(other)] == [0]


async def test_offer_of_several_types_tells_others_of_what_it_may_have_hidden(
    opened: Open,
) -> None:
    one, other = await opened(), await opened()
    rung = await bell(other)
    wanted = [Wanted("mail", 2), Wanted("other", 2)]
    offered = one.offer(ClaimRequest(wanted, limit=2, lease_ms=LEASE_MS), lambda: None)

    await send(one, mail(), Send("other", "1"))

    assert len((await offered).claims) == 2
    assert await rings(rung)


TURN = "SELECT pg_advisory_xact_lock($1, $2)"


@pytest.mark.parametrize("waits_for", ["its turn", "a caller"])
async def test_message_that_dies_while_its_requeue_waits_is_requeued_under_its_lock_or_stays_dead(
    opened: Open, outside: Any, waits_for: str
) -> None:
    store = await opened()
    dead, living = await send(store, mail(ordering_key="z"), mail(ordering_key="y"))
    held = {one.id: one for one in await claim(store)}
    await settle(store, held[dead], Outcome.DEAD, failure=DEAD)
    transaction = outside.transaction()
    await transaction.start()
    if waits_for == "a caller":
        await store.send_within(outside, [mail(ordering_key="z")])
    else:
        space = locks.space(store._sessions.schema)
        await outside.execute(TURN, space, locks.ordering("z") + locks._TURN)

    requeuing = asyncio.create_task(store.admin.requeue([dead, living]))
    await asyncio.sleep(0.1)
    await settle(store, held[living], Outcome.DEAD, failure=DEAD)
    await transaction.commit()

    # Behind a caller, all of it is looked at again; within its turn, the locks are those of before.
    assert set(await requeuing) == ({dead, living} if waits_for == "a caller" else {dead})


async def test_ids_are_reserved_anew_when_another_server_has_taken_over() -> None:
    reserved = iter([[(1,)], [(7,)]])

    async def fetch(_statement: str, _count: int) -> Any:
        return next(reserved)

    ids = Ids()
    before = await ids.take(2, fetch)
    ids.forget()

    assert (before, await ids.take(2, fetch)) == ([1_000, 1_001], [7_000, 7_001])


async def test_what_was_claimed_before_a_look_failed_comes_again_at_once(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened()
    ids = await send(store, *(mail() for _ in range(20)))
    with monkeypatch.context() as broken:
        broken.setattr(sql, "HEADS", "SELECT 1 / (count(*) - count(*)) FROM unnest($1::text[])")
        with pytest.raises(StoreError, match="division by zero"):
            await claim(store, limit=10)

    again = await claim(store, limit=20)

    assert [one.id for one in again] == ids
    assert {(one.attempt, one.crashes) for one in again} == {(1, 0)}


async def test_lock_that_lets_reads_pass_ends_no_lease_of_one_who_lives(
    opened: Open, outside: Any
) -> None:
    holder, peer = await opened(), await opened()
    await send(holder, mail())
    (held,) = await claim(holder, lease_ms=500)
    async with outside.transaction():
        await outside.execute("LOCK TABLE kvqueue.kvqueue_messages IN SHARE MODE")
        await asyncio.sleep(0.6)
        claiming = asyncio.create_task(claim(peer))
        await asyncio.sleep(0.3)

    at_once = [*await claiming, *await claim(peer)]
    lost = await asyncio.to_thread(holder.extend, [(held.id, held.token)], LEASE_MS)

    assert (at_once, lost) == ([], frozenset())


async def test_lease_that_is_over_ends_soon_after_a_lock_that_let_reads_pass(
    opened: Open, outside: Any
) -> None:
    holder, peer = await opened(lease_s=2), await opened(lease_s=2)
    await send(holder, mail())
    (held,) = await claim(holder, lease_ms=500)
    async with outside.transaction():
        await outside.execute("LOCK TABLE kvqueue.kvqueue_messages IN SHARE MODE")
        await asyncio.sleep(0.6)
        claiming = asyncio.create_task(claim(peer))
        await asyncio.sleep(0.3)
    await claiming

    again = []
    async with asyncio.timeout(10):
        while not again:
            again = await claim(peer)

    assert [one.id for one in again] == [held.id]
