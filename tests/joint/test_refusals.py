"""What no message can be sent through is refused, and the error says what to do."""

import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiosqlite
import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from kvqueue_fastapi import (
    InvalidOptionError,
    KvQueue,
    KvQueueModule,
    PayloadError,
    QueueFullError,
    StoreError,
)
from kvqueue_fastapi.testing import RecordingKvQueue
from tests.joint.lenders import with_driver
from tests.servers.databases import at_database, fresh_database


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "queue.db")


@pytest.fixture
async def on_sqlite(file: str) -> AsyncIterator[KvQueue]:
    async with KvQueueModule(file, listen=False).running() as queue:
        yield queue


@pytest.fixture
async def on_postgres(postgres_url: str) -> AsyncIterator[KvQueue]:
    async with KvQueueModule(postgres_url, listen=False).running() as queue:
        yield queue


async def refusal(queue: KvQueue, connection: Any, **options: Any) -> str:
    with pytest.raises(InvalidOptionError) as refused:
        await queue.send_message("ordered", 1, connection=connection, **options)
    return str(refused.value)


async def test_what_is_no_connection_is_named_with_what_is_allowed(
    on_postgres: KvQueue, file: str
) -> None:
    engine = create_async_engine("postgresql+asyncpg://nowhere/")
    sync_engine = create_engine("sqlite://")

    said = {
        "str": await refusal(on_postgres, "postgresql://nowhere"),
        "engine": await refusal(on_postgres, engine),
        "maker": await refusal(on_postgres, async_sessionmaker(engine)),
        "session": await refusal(on_postgres, Session(sync_engine)),
        "pool": await refusal(on_postgres, asyncpg.create_pool("postgresql://nowhere")),
    }
    with sync_engine.connect() as connection:
        said["sync"] = await refusal(on_postgres, connection)
    sync_engine.dispose()
    async with aiosqlite.connect(file) as connection:
        said["other engine"] = await refusal(on_postgres, connection)

    allowed = "allowed is an AsyncSession or AsyncConnection of SQLAlchemy (on asyncpg or psycopg)"
    assert all(allowed in one for one in said.values())
    assert "is a builtins.str" in said["str"]
    assert "async with engine.begin() as connection" in said["engine"]
    assert "async with sessions.begin() as session" in said["maker"]
    assert "use an AsyncSession" in said["session"]
    assert "use an AsyncConnection" in said["sync"]
    assert "Take a connection of it" in said["pool"]
    assert "is a aiosqlite" in said["other engine"]


async def test_sync_connection_of_sqlite_is_refused(on_sqlite: KvQueue, file: str) -> None:
    connection = sqlite3.connect(file)

    said = await refusal(on_sqlite, connection)

    assert "use aiosqlite" in said
    assert "allowed is an AsyncSession or AsyncConnection of SQLAlchemy (on aiosqlite)" in said
    connection.close()


async def test_database_of_the_other_engine_is_refused(
    on_sqlite: KvQueue, on_postgres: KvQueue, file: str, postgres_url: str
) -> None:
    lite = create_async_engine(with_driver(file, "aiosqlite"))
    postgres = create_async_engine(with_driver(postgres_url, "psycopg"))

    async with AsyncSession(lite) as session:
        assert "a database of sqlite, the queue is in PostgreSQL" in await refusal(
            on_postgres, session
        )
    async with AsyncSession(postgres) as session:
        assert "a database of postgresql, the queue is in SQLite" in await refusal(
            on_sqlite, session
        )
    await lite.dispose()
    await postgres.dispose()


async def test_another_database_of_the_server_is_refused(
    on_postgres: KvQueue, postgres_url: str
) -> None:
    with fresh_database(postgres_url) as other:
        connection = await asyncpg.connect(other)
        async with connection.transaction():
            without = await refusal(on_postgres, connection)
        async with KvQueueModule(other, listen=False).running():
            pass
        async with connection.transaction():
            with_its_own = await refusal(on_postgres, connection)
        await connection.close()

    assert "leads to a database without the queue's tables" in without
    assert "KVQUEUE_URL" in without
    assert f"leads to the database '{other.rpartition('/')[2]}'" in with_its_own
    assert "no transaction spans both" in with_its_own


async def test_copy_of_the_database_is_refused(postgres_url: str) -> None:
    name = postgres_url.rpartition("/")[2].partition("?")[0]
    async with KvQueueModule(postgres_url, listen=False).running():
        pass
    maker = await asyncpg.connect(at_database(postgres_url, "postgres"))
    await maker.execute(f'CREATE DATABASE "{name}_copy" TEMPLATE "{name}"')
    copy = await asyncpg.connect(at_database(postgres_url, f"{name}_copy"))

    async with KvQueueModule(postgres_url, listen=False).running() as queue, copy.transaction():
        said = await refusal(queue, copy)

    assert f"leads to the database '{name}_copy'" in said
    await copy.close()
    await maker.execute(f'DROP DATABASE "{name}_copy"')
    await maker.close()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_autocommit_on_postgres_is_refused_and_nothing_is_stored(
    on_postgres: KvQueue, postgres_url: str, driver: str
) -> None:
    engine = create_async_engine(with_driver(postgres_url, driver), isolation_level="AUTOCOMMIT")
    raw: Any = (
        await asyncpg.connect(postgres_url)
        if driver == "asyncpg"
        else await psycopg.AsyncConnection.connect(postgres_url, autocommit=True)
    )

    async with AsyncSession(engine) as session:
        said = [await refusal(on_postgres, session), await refusal(on_postgres, raw)]
        count = text("SELECT count(*) FROM kvqueue.kvqueue_messages")
        stored = (await session.execute(count)).scalar()

    assert all("is not in a transaction" in one for one in said)
    assert stored == 0
    await raw.close()
    await engine.dispose()


async def test_autocommit_on_sqlite_is_refused_and_nothing_is_stored(
    on_sqlite: KvQueue, file: str
) -> None:
    engine = create_async_engine(with_driver(file, "aiosqlite"), isolation_level="AUTOCOMMIT")

    async with (
        aiosqlite.connect(file, isolation_level=None) as raw,
        AsyncSession(engine) as session,
    ):
        said = [await refusal(on_sqlite, session), await refusal(on_sqlite, raw)]
        rows: Any = await raw.execute_fetchall("SELECT count(*) FROM kvqueue_messages")

    assert all("is not in a transaction" in one for one in said)
    assert [tuple(row) for row in rows] == [(0,)]
    await engine.dispose()


async def test_other_files_memory_and_what_is_attached_are_refused(
    on_sqlite: KvQueue, file: str, tmp_path: Path
) -> None:
    other = str(tmp_path / "other.db")

    async with aiosqlite.connect(other) as connection:
        elsewhere = await refusal(on_sqlite, connection)
        await connection.execute("ATTACH ? AS queue", (file,))
        attached = await refusal(on_sqlite, connection)
    async with aiosqlite.connect(":memory:") as connection:
        memory = await refusal(on_sqlite, connection)
    in_memory = KvQueueModule(":memory:", listen=False).running()
    async with in_memory as queue, aiosqlite.connect(file) as connection:
        own_memory = await refusal(queue, connection)

    assert f"leads to {other}, the queue is in {file}" in elsewhere
    assert f"leads to {other}, the queue is in {file}" in attached
    assert "leads to a database in memory" in memory
    assert "The queue is in memory" in own_memory


async def test_same_file_by_another_name_is_taken(
    on_sqlite: KvQueue, file: str, tmp_path: Path
) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(file)

    async with aiosqlite.connect(f"file:{link}?mode=rw", uri=True) as connection:
        message_id = await on_sqlite.send_message("ordered", 1, connection=connection)
        await connection.commit()

    assert message_id == 1


async def test_closed_connections_are_refused(
    on_sqlite: KvQueue, on_postgres: KvQueue, file: str, postgres_url: str
) -> None:
    on_asyncpg = await asyncpg.connect(postgres_url)
    on_psycopg = await psycopg.AsyncConnection.connect(postgres_url)
    on_aiosqlite = await aiosqlite.connect(file)
    engine = create_async_engine(with_driver(postgres_url, "asyncpg"))
    alchemy = await engine.connect()
    for connection in (on_asyncpg, on_psycopg, on_aiosqlite, alchemy):
        await connection.close()

    said = [await refusal(on_postgres, one) for one in (on_asyncpg, on_psycopg, alchemy)]
    said.append(await refusal(on_sqlite, on_aiosqlite))

    assert all("The connection is closed" in one for one in said)
    await engine.dispose()


async def test_pipeline_of_psycopg_is_refused(on_postgres: KvQueue, postgres_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(postgres_url) as connection:
        async with connection.pipeline():
            said = await refusal(on_postgres, connection)
        behind_it = await on_postgres.send_message("ordered", 1, connection=connection)

    assert "in pipeline mode" in said
    assert behind_it >= 1_000


async def test_read_only_transaction_is_refused(on_postgres: KvQueue, postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)

    async with connection.transaction(readonly=True):
        said = await refusal(on_postgres, connection)

    assert "is read-only" in said
    await connection.close()


async def test_role_without_rights_is_told_which(on_postgres: KvQueue, postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)

    for role in ("pg_monitor", "pg_read_all_data"):
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(f"SET LOCAL ROLE {role}")
        with pytest.raises(StoreError, match=r"permission denied.* Give its role USAGE") as refused:
            await on_postgres.send_message("ordered", 1, connection=connection)
        assert isinstance(refused.value.__cause__, asyncpg.InsufficientPrivilegeError)
        await transaction.rollback()
    await connection.close()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_transaction_that_has_failed_is_to_be_rolled_back(
    on_postgres: KvQueue, postgres_url: str, driver: str
) -> None:
    engine = create_async_engine(with_driver(postgres_url, driver))

    async with engine.connect() as connection:
        with pytest.raises(Exception, match="division by zero"):
            await connection.execute(text("SELECT 1 / 0"))
        with pytest.raises(StoreError, match="Roll it back") as refused:
            await on_postgres.send_message("ordered", {"a": "secret"}, connection=connection)
        await connection.rollback()
        await on_postgres.send_message("ordered", 1, connection=connection)

    # What the statement would have stored is in no traceback.
    assert "parameters" not in str(refused.value.__cause__)
    await engine.dispose()


async def test_what_is_wrong_with_the_message_is_said_before_the_connection_is_used(
    on_sqlite: KvQueue, tmp_path: Path
) -> None:
    with pytest.raises(PayloadError):
        await on_sqlite.send_message("ordered", object(), connection=object())
    with pytest.raises(InvalidOptionError, match="priority"):
        await on_sqlite.send_message("ordered", 1, priority=10**9, connection=object())


async def test_limit_of_waiting_messages_holds_for_them_too(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVQUEUE_MAX_PENDING", "2")

    async with KvQueueModule(file, listen=False).running() as queue:
        await queue.send_messages([("ordered", 1), ("ordered", 2)])
        async with aiosqlite.connect(file) as connection:
            with pytest.raises(QueueFullError):
                await queue.send_message("ordered", 3, connection=connection)


async def test_recording_queue_records_the_connection_and_leaves_it_alone() -> None:
    queue, connection = RecordingKvQueue(), object()

    await queue.send_message("ordered", 1, priority=2, connection=connection)
    await queue.send_messages([("ordered", 2)], connection=connection)

    assert queue.sent == [
        ("ordered", 1, {"priority": 2, "connection": connection}),
        ("ordered", 2, {"connection": connection}),
    ]


def test_no_driver_is_imported_to_refuse_or_to_take_a_connection(tmp_path: Path) -> None:
    script = """
import asyncio, sys, aiosqlite
from kvqueue_fastapi import InvalidOptionError, KvQueueModule

async def main():
    async with KvQueueModule("queue.db", listen=False).running() as queue:
        try:
            await queue.send_message("ordered", 1, connection=object())
        except InvalidOptionError as error:
            print("refused")
        async with aiosqlite.connect("queue.db") as connection:
            await queue.send_message("ordered", 1, connection=connection)
            await connection.commit()

asyncio.run(main())
print(sorted({"sqlalchemy", "sqlmodel", "psycopg", "asyncpg"} & set(sys.modules)))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert (ended.stdout.splitlines(), ended.stderr) == (["refused", "[]"], "")
