"""What only PostgreSQL has: isolation levels, locks, watched transactions, other processes."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from injector import Injector

from kvqueue_fastapi import (
    KvQueue,
    KvQueueModule,
    KvQueueSettings,
    StoreBusyError,
    on_queue_message,
)
from kvqueue_fastapi.settings import KvQueueSettings as Settings
from kvqueue_fastapi.store import open_store
from kvqueue_fastapi.store.postgres import commits, joint
from kvqueue_fastapi.store.postgres.engine import PostgresStore
from tests.joint.conftest import Desk
from tests.joint.lenders import Asyncpg, Lender
from tests.store.given import claim, mail, once, send, settle


@pytest.fixture
def kind() -> type[Lender]:
    return Asyncpg


@pytest.fixture
async def other(postgres_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    store = await PostgresStore.open(postgres_url, Settings())
    yield store
    await store.close()


async def test_other_process_hears_of_the_commit(postgres_url: str, desk: Desk) -> None:
    @on_queue_message("ordered")
    async def take(number: int) -> None:
        desk.handled.put_nowait(number)

    settings = KvQueueSettings(poll_interval_s=3_600)
    web = KvQueueModule(postgres_url, listen=False, settings=settings)
    worker = KvQueueModule(postgres_url, consumers=[take], settings=settings)
    async with (
        worker.running(Injector([worker])),
        web.running(Injector([web])) as queue,
        Asyncpg.open(postgres_url) as lender,
    ):
        async with lender.transaction():
            await queue.send_message("ordered", 1, connection=lender.lent)
            before = await desk.is_idle()
        handled = await desk.next()

    assert (before, handled) == (True, 1)


async def test_process_that_ends_behind_the_commit_tells_the_others(
    postgres_url: str, desk: Desk
) -> None:
    @on_queue_message("ordered")
    async def take(number: int) -> None:
        desk.handled.put_nowait(number)

    settings = KvQueueSettings(poll_interval_s=3_600)
    worker = KvQueueModule(postgres_url, consumers=[take], settings=settings)
    async with worker.running(Injector([worker])), Asyncpg.open(postgres_url) as lender:
        for number in range(5):
            web = KvQueueModule(postgres_url, listen=False).running()
            async with web as queue, lender.transaction():
                await queue.send_message("ordered", number, connection=lender.lent)
            assert await desk.next() == number


async def test_open_transaction_holds_up_no_other_first_send_of_its_type(
    queue: KvQueue, lender: Lender, postgres_url: str
) -> None:
    async with (
        lender.transaction(),
        KvQueueModule(postgres_url, listen=False).running() as another,
    ):
        await queue.send_message("brand.new", 1, connection=lender.lent)
        async with asyncio.timeout(2):
            await another.send_message("brand.new", 2)


async def test_ordering_key_waits_for_the_transaction_that_holds_it(
    queue: KvQueue, lender: Lender, desk: Desk
) -> None:
    async with lender.transaction():
        await queue.send_message("ordered", 1, connection=lender.lent, ordering_key="k")
        waiting = asyncio.ensure_future(queue.send_message("ordered", 2, ordering_key="k"))
        await asyncio.wait([waiting], timeout=0.2)
        waited = not waiting.done()
    await waiting

    assert waited
    assert [await desk.next(), await desk.next()] == [1, 2]


async def test_cancelled_send_leaves_nothing_behind(
    queue: KvQueue, lender: Lender, other: Any, desk: Desk
) -> None:
    async def order() -> None:
        async with lender.transaction():
            await lender.order(1)
            await queue.send_message("ordered", 1, connection=lender.lent, ordering_key="k")

    async with other.transaction():
        await queue.send_message("ordered", 2, connection=other, ordering_key="k")
        ordering = asyncio.create_task(order())
        await asyncio.wait([ordering], timeout=0.2)
        ordering.cancel()
        await asyncio.wait([ordering])

    assert ordering.cancelled()
    assert await desk.next() == 2
    assert await desk.is_idle()
    assert await lender.run("SELECT * FROM orders") == []


async def test_lock_that_is_not_had_in_the_callers_time_is_busy(
    queue: KvQueue, lender: Lender, other: Any
) -> None:
    async with other.transaction():
        await queue.send_message("ordered", 1, connection=other, ordering_key="k")
        transaction = lender.lent.transaction()
        await transaction.start()
        await lender.lent.execute("SET LOCAL lock_timeout = '50ms'")
        with pytest.raises(StoreBusyError, match="roll the transaction back") as refused:
            await queue.send_message("ordered", 2, connection=lender.lent, ordering_key="k")
        await transaction.rollback()

    assert isinstance(refused.value.__cause__, asyncpg.LockNotAvailableError)


async def test_deadlock_is_busy_for_one_of_the_two(
    queue: KvQueue, lender: Lender, other: Any, desk: Desk
) -> None:
    met = asyncio.Barrier(2)

    async def both(connection: Any, first: str, second: str) -> None:
        async with connection.transaction():
            await queue.send_message("ordered", first, connection=connection, ordering_key=first)
            await met.wait()
            await queue.send_message("ordered", first, connection=connection, ordering_key=second)

    ended = await asyncio.gather(
        both(lender.lent, "k", "l"), both(other, "l", "k"), return_exceptions=True
    )

    (victim,) = [one for one in ended if one is not None]
    assert isinstance(victim, StoreBusyError)
    winner = "l" if ended[0] is victim else "k"
    assert [await desk.next(), await desk.next()] == [winner, winner]
    assert await desk.is_idle()


# --- isolation levels ----------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_plain_messages_may_be_sent_under_any_isolation(
    queue: KvQueue, lender: Lender, desk: Desk, isolation: str
) -> None:
    async with lender.lent.transaction(isolation=isolation):
        await lender.run("SELECT 1 FROM orders")
        await queue.send_message("ordered", 1, connection=lender.lent, priority=2)

    assert await desk.next() == 1


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_ordering_key_is_refused_under_a_stale_snapshot(
    queue: KvQueue, lender: Lender, desk: Desk, isolation: str
) -> None:
    async with lender.lent.transaction(isolation=isolation):
        with pytest.raises(ValueError, match="Use READ COMMITTED"):
            await queue.send_message("ordered", 1, connection=lender.lent, ordering_key="k")
        await queue.send_message("ordered", 2, connection=lender.lent)

    assert await desk.next() == 2
    assert await desk.is_idle()


async def test_ordering_key_would_stall_if_it_were_not_refused(
    store: PostgresStore, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint, "_STALE", ())
    await send(store, mail(ordering_key="k"))
    (first,) = await claim(store)

    async with other.transaction(isolation="repeatable_read"):
        await other.fetch("SELECT 1 FROM kvqueue.kvqueue_messages")
        await settle(store, first)
        await store.send_within(other, [mail(ordering_key="k")])

    # It waits behind one that is no longer there.
    assert await claim(store) == []
    assert (await store.admin.counts())[0].blocked == 1


async def test_idempotency_key_under_a_stale_snapshot_fails_and_never_doubles(
    store: PostgresStore, other: Any
) -> None:
    transaction = other.transaction(isolation="repeatable_read")
    await transaction.start()
    await other.fetch("SELECT 1")
    (message_id,) = await send(store, once("key"))

    with pytest.raises(StoreBusyError, match="do all of it again"):
        await store.send_within(other, [once("key")])
    await transaction.rollback()
    async with other.transaction(isolation="repeatable_read"):
        again = await store.send_within(other, [once("key")])

    assert again == [message_id]


# --- watched transactions ------------------------------------------------------------------


async def watched(store: PostgresStore, few: int) -> None:
    """Wait until no more are watched."""
    end = time.monotonic() + 5
    while len(store._commits._seen_at) > few:
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def test_transactions_are_watched_until_they_end_and_then_nobody_looks(
    store: PostgresStore, other: Any, postgres_url: str
) -> None:
    woken = asyncio.Event()
    store.subscribe(woken.set)
    await asyncio.sleep(0.2)
    woken.clear()

    async with Asyncpg.open(postgres_url) as lender:
        undone = lender.lent.transaction()
        await undone.start()
        await store.send_within(lender.lent, [mail()])
        async with other.transaction():
            await store.send_within(other, [mail()])
            await store.send_within(other, [mail()])
            assert len(store._commits._seen_at) == 2
            await undone.rollback()
            await watched(store, 1)
            assert not woken.is_set()
        await watched(store, 0)

    assert woken.is_set()
    await asyncio.sleep(0.02)
    assert store._commits._task is None


async def test_transaction_that_is_open_for_too_long_is_forgotten(
    store: PostgresStore, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "FORGET_S", 0.05)

    async with other.transaction():
        await store.send_within(other, [mail()])
        await watched(store, 0)

    assert len(await claim(store)) == 1


async def test_transaction_of_which_the_server_knows_nothing_wakes_and_is_forgotten(
    store: PostgresStore,
) -> None:
    woken = asyncio.Event()
    store.subscribe(woken.set)
    await asyncio.sleep(0.2)
    woken.clear()

    store._database.soon(lambda: store._commits.expect("9" * 18))

    async with asyncio.timeout(5):
        await woken.wait()
    await watched(store, 0)


async def test_old_transactions_are_looked_at_seldom_and_new_ones_at_once(
    store: PostgresStore, other: Any, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    look = store._commits._look

    async def counted() -> None:
        looks.append(time.monotonic())
        await look()

    monkeypatch.setattr(store._commits, "_look", counted)
    async with Asyncpg.open(postgres_url) as lender, other.transaction():
        await store.send_within(other, [mail()])
        await asyncio.sleep(1)
        seldom = len([one for one in looks if one > looks[0] + 0.5])
        woken = asyncio.Event()
        store.subscribe(woken.set)
        async with lender.transaction():
            await store.send_within(lender.lent, [mail()])
        async with asyncio.timeout(2):
            await woken.wait()

    # about ten a second, and not five hundred
    assert 2 <= seldom <= 12


async def test_store_closes_beside_an_open_transaction(postgres_url: str, other: Any) -> None:
    store = await open_store(postgres_url, Settings())

    async with other.transaction():
        await store.send_within(other, [mail()])
        began = time.monotonic()
        await store.close()
        closed_s = time.monotonic() - began
    again = await open_store(postgres_url, Settings())

    assert closed_s < 2
    assert len(await claim(again)) == 1
    await again.close()
