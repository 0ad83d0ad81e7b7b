"""What only SQLite has: one lock to write, and transactions that Python begins by itself."""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from injector import Injector
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from kvqueue_fastapi import (
    IdempotencyConflictError,
    KvQueue,
    KvQueueModule,
    KvQueueSettings,
    StoreBusyError,
    on_queue_message,
)
from tests.joint.conftest import Desk
from tests.joint.lenders import CREATE, Aiosqlite, Lender, SessionOnAiosqlite, with_driver


@pytest.fixture
def kind() -> type[Lender]:
    return Aiosqlite


@pytest.fixture
async def other(url: str, queue: KvQueue) -> AsyncIterator[aiosqlite.Connection]:
    async with aiosqlite.connect(url, timeout=0.1) as connection:
        yield connection


async def rows_of(connection: aiosqlite.Connection, table: str) -> int:
    ((count,),) = await connection.execute_fetchall(f"SELECT count(*) FROM {table}")
    return int(count)


async def test_process_that_only_listens_finds_it_without_a_poll(url: str, desk: Desk) -> None:
    @on_queue_message("ordered")
    async def take(number: int) -> None:
        desk.handled.put_nowait(number)

    settings = KvQueueSettings(poll_interval_s=3_600)
    web = KvQueueModule(url, listen=False)
    worker = KvQueueModule(url, consumers=[take], settings=settings)
    async with (
        worker.running(Injector([worker])),
        web.running(Injector([web])) as queue,
        SessionOnAiosqlite.open(url) as lender,
    ):
        async with lender.transaction():
            await queue.send_message("ordered", 1, connection=lender.lent)
            before = await desk.is_idle()
        handled = await desk.next()

    assert (before, handled) == (True, 1)


async def test_other_sends_wait_for_the_callers_transaction(
    queue: KvQueue, lender: Lender, desk: Desk
) -> None:
    async with lender.transaction():
        first = await queue.send_message("ordered", 1, connection=lender.lent)
        waiting = asyncio.ensure_future(queue.send_message("ordered", 2))
        await asyncio.wait([waiting], timeout=0.2)
        waited = not waiting.done()

    assert waited
    assert await waiting == first + 1
    assert [await desk.next(), await desk.next()] == [1, 2]


async def test_lock_that_another_program_holds_is_busy_and_leaves_no_transaction(
    queue: KvQueue, lender: Lender, other: aiosqlite.Connection
) -> None:
    async with lender.transaction():
        await lender.order(1)
        with pytest.raises(StoreBusyError, match="did not get the lock") as refused:
            await queue.send_message("ordered", 1, connection=other)
        is_begun = other.in_transaction
    message_id = await queue.send_message("ordered", 1, connection=other)
    await other.commit()

    assert isinstance(refused.value.__cause__, sqlite3.OperationalError)
    assert not is_begun
    assert message_id > 0


async def test_transaction_that_has_read_before_others_wrote_is_busy(
    queue: KvQueue, other: aiosqlite.Connection
) -> None:
    await other.execute("BEGIN")
    await rows_of(other, "kvqueue_messages")
    await queue.send_message("ordered", 1)

    with pytest.raises(StoreBusyError, match="BEGIN IMMEDIATE"):
        await queue.send_message("ordered", 2, connection=other)


async def test_messages_of_which_one_conflicts_leave_no_trace_beside_what_was_written(
    queue: KvQueue, lender: Lender, other: aiosqlite.Connection, desk: Desk
) -> None:
    async with lender.transaction():
        await lender.order(1)
        await queue.send_message("ordered", 1, connection=lender.lent, idempotency_key="a")
        with pytest.raises(IdempotencyConflictError):
            await queue.send_message("ordered", 2, connection=lender.lent, idempotency_key="a")

    assert await desk.next() == 1
    assert await desk.is_idle()
    assert await rows_of(other, "orders") == 1
    assert await rows_of(other, "kvqueue_idempotency") == 1


@pytest.mark.parametrize("level", ["DEFERRED", "IMMEDIATE", "EXCLUSIVE"])
async def test_transaction_begins_as_the_connection_would_begin_it(
    queue: KvQueue, url: str, desk: Desk, level: Any
) -> None:
    begun: list[str] = []

    async with aiosqlite.connect(url, isolation_level=level) as connection:
        await connection.set_trace_callback(begun.append)
        await queue.send_message("ordered", 1, connection=connection)
        await connection.rollback()
        await queue.send_message("ordered", 2, connection=connection)
        await connection.commit()

    assert [one for one in begun if one.startswith("BEGIN")] == [f"BEGIN {level}"] * 2
    assert await desk.next() == 2
    assert await desk.is_idle()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no such attribute before 3.12")
async def test_transaction_control_of_newer_pythons_is_understood(
    queue: KvQueue, url: str, desk: Desk
) -> None:
    options: dict[str, Any] = {"autocommit": False}

    async with aiosqlite.connect(url, **options) as connection:
        await queue.send_message("ordered", 1, connection=connection)
        await connection.rollback()
        await queue.send_message("ordered", 2, connection=connection)
        await connection.commit()
    async with aiosqlite.connect(url, autocommit=True) as connection:
        with pytest.raises(ValueError, match="is not in a transaction"):
            await queue.send_message("ordered", 3, connection=connection)
        await connection.execute("BEGIN")
        await queue.send_message("ordered", 4, connection=connection)
        await connection.execute("COMMIT")

    assert [await desk.next(), await desk.next()] == [2, 4]


async def test_engine_that_begins_by_hand_as_sqlalchemy_advises_is_taken(
    queue: KvQueue, url: str, desk: Desk
) -> None:
    engine = create_async_engine(with_driver(url, "aiosqlite"))

    @event.listens_for(engine.sync_engine, "connect")
    def never_begin(connection: Any, _record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    async with AsyncSession(engine) as session, session.begin():
        await queue.send_message("ordered", 1, connection=session)
        nested = await session.begin_nested()
        await queue.send_message("ordered", 2, connection=session)
        await nested.rollback()

    assert await desk.next() == 1
    assert await desk.is_idle()
    await engine.dispose()


async def test_connections_own_rows_and_texts_stay_as_they_are(
    queue: KvQueue, other: aiosqlite.Connection, tmp_path: Path
) -> None:
    other.row_factory, other.text_factory = sqlite3.Row, bytes

    await queue.send_message("ordered", "ä", connection=other, idempotency_key="a")
    await queue.send_message("ordered", "ä", connection=other, idempotency_key="a")
    await other.execute(CREATE)

    assert (other.row_factory, other.text_factory) == (sqlite3.Row, bytes)
    await other.rollback()
