"""The connections that callers lend, each with a table of orders, and spoken to alike."""

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import aiosqlite
import asyncpg
import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlmodel.ext.asyncio.session import AsyncSession as SqlModelSession

CREATE = "CREATE TABLE IF NOT EXISTS orders (number INTEGER PRIMARY KEY)"


class ChangedError(Exception):
    """The caller has changed its mind."""


@asynccontextmanager
async def undone(block: AbstractAsyncContextManager[None]) -> AsyncGenerator[None]:
    """The block of a transaction or savepoint, ended by an error."""
    with suppress(ChangedError):
        async with block:
            yield
            raise ChangedError


class Lender:
    """One connection of a driver.

    Attributes:
        lent: what is given to `send_message`.
        schema: of the queue's tables, with a dot.
    """

    lent: Any
    schema = "kvqueue."

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncGenerator["Lender"]:
        raise NotImplementedError
        yield

    async def run(self, statement: str) -> list[Any]:
        raise NotImplementedError

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None]:
        """Committed at the end of the block, rolled back when that raises."""
        raise NotImplementedError
        yield

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        await self.run("SAVEPOINT of_the_test")
        try:
            yield
        except BaseException:
            await self.run("ROLLBACK TO SAVEPOINT of_the_test")
            raise
        finally:
            await self.run("RELEASE SAVEPOINT of_the_test")

    async def order(self, number: int) -> None:
        await self.run(f"INSERT INTO orders (number) VALUES ({number})")


class Asyncpg(Lender):
    def __init__(self, connection: Any) -> None:
        self.lent = connection

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncGenerator[Lender]:
        connection = await asyncpg.connect(url)
        await connection.execute(CREATE)
        yield cls(connection)
        await connection.close()

    async def run(self, statement: str) -> list[Any]:
        return list(await self.lent.fetch(statement))

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None]:
        async with self.lent.transaction():
            yield

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        async with self.lent.transaction():
            yield


class AsyncpgPool(Asyncpg):
    """What a pool of asyncpg lends is a proxy."""

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncGenerator[Lender]:
        async with asyncpg.create_pool(url, min_size=1) as pool, pool.acquire() as connection:
            await connection.execute(CREATE)
            yield cls(connection)


class Psycopg(Lender):
    def __init__(self, connection: Any) -> None:
        self.lent = connection

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncGenerator[Lender]:
        # rows of its own, which are not ours
        connection: Any = await psycopg.AsyncConnection.connect(
            url, row_factory=psycopg.rows.dict_row
        )
        async with connection:
            lender = cls(connection)
            async with lender.transaction():
                await lender.run(CREATE)
            yield lender

    async def run(self, statement: str) -> list[Any]:
        cursor = await self.lent.execute(statement)
        rows = await cursor.fetchall() if cursor.description else []
        return [tuple(row.values()) for row in rows]

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None]:
        try:
            yield
        except BaseException:
            await self.lent.rollback()
            raise
        await self.lent.commit()

    async def order(self, number: int) -> None:
        await self.lent.execute("INSERT INTO orders (number) VALUES (%s)", (number,))

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        await self.run("SELECT 1")  # else the block is the transaction
        async with self.lent.transaction():
            yield


class PsycopgBlocks(Psycopg):
    """In autocommit, with transactions begun by hand."""

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncGenerator[Lender]:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute(CREATE)
            yield cls(connection)

    async def run(self, statement: str) -> list[Any]:
        cursor = await self.lent.execute(statement)
        return list(await cursor.fetchall()) if cursor.description else []

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None]:
        async with self.lent.transaction():
            yield


class Aiosqlite(Lender):
    schema = ""

    def __init__(self, connection: Any) -> None:
        self.lent = connection

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncGenerator[Lender]:
        async with aiosqlite.connect(url) as connection:
            # rows of its own, which are not ours
            connection.row_factory = _as_dict
            await connection.execute(CREATE)
            await connection.commit()
            yield cls(connection)

    async def run(self, statement: str) -> list[Any]:
        rows: Any = await self.lent.execute_fetchall(statement)
        return [tuple(row.values()) for row in rows]

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None]:
        try:
            yield
        except BaseException:
            await self.lent.rollback()
            raise
        await self.lent.commit()

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        if not self.lent.in_transaction:
            await self.run("BEGIN")  # else the savepoint is the transaction
        async with super().savepoint():
            yield


class AiosqliteBlocks(Aiosqlite):
    """In autocommit, with transactions begun by hand."""

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncGenerator[Lender]:
        async with aiosqlite.connect(url, isolation_level=None) as connection:
            connection.row_factory = _as_dict
            await connection.execute(CREATE)
            yield cls(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None]:
        await self.run("BEGIN IMMEDIATE")
        async with super().transaction():
            yield


class AlchemySession(Lender):
    driver = ""
    session_class: type[AsyncSession] = AsyncSession

    def __init__(self, session: Any) -> None:
        self.lent = session

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncGenerator[Lender]:
        engine = create_async_engine(with_driver(url, cls.driver))
        sessions = async_sessionmaker(engine, class_=cls.session_class)
        async with engine.begin() as connection:
            await connection.execute(text(CREATE))
        async with sessions() as session:
            yield cls(session)
        await engine.dispose()

    async def run(self, statement: str) -> list[Any]:
        connection: AsyncConnection = await self.lent.connection()
        result = await connection.execute(text(statement))
        return list(result.fetchall()) if result.returns_rows else []

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None]:
        async with self.lent.begin():
            yield

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        async with self.lent.begin_nested():
            yield


class SessionOnAsyncpg(AlchemySession):
    driver = "asyncpg"


class SessionOnPsycopg(AlchemySession):
    driver = "psycopg"
    session_class = SqlModelSession


class SessionOnAiosqlite(AlchemySession):
    driver = "aiosqlite"
    schema = ""
    session_class = SqlModelSession

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        await begin_on_sqlite(await self.lent.connection())
        async with super().savepoint():
            yield


class ScopedSession(AlchemySession):
    """Never begun by hand, and a scoped one."""

    driver = "psycopg_async"

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncGenerator[Lender]:
        engine = create_async_engine(with_driver(url, cls.driver))
        async with engine.begin() as connection:
            await connection.execute(text(CREATE))
        scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: 1)
        yield cls(scoped)
        await scoped.remove()
        await engine.dispose()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None]:
        try:
            yield
        except BaseException:
            await self.lent.rollback()
            raise
        await self.lent.commit()


class ConnectionOnAsyncpg(ScopedSession):
    """SQLAlchemy without its sessions, committed as one goes."""

    driver = "asyncpg"

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncGenerator[Lender]:
        engine = create_async_engine(with_driver(url, cls.driver))
        async with engine.begin() as connection:
            await connection.execute(text(CREATE))
        async with engine.connect() as connection:
            yield cls(connection)
        await engine.dispose()

    async def run(self, statement: str) -> list[Any]:
        result = await self.lent.execute(text(statement))
        return list(result.fetchall()) if result.returns_rows else []


class ConnectionOnAiosqlite(ConnectionOnAsyncpg):
    driver = "aiosqlite"
    schema = ""

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        await begin_on_sqlite(self.lent)
        async with super().savepoint():
            yield


async def begin_on_sqlite(connection: AsyncConnection) -> None:
    """Begin, because there only what writes does so by itself: else a savepoint is all of it."""
    driver: Any = (await connection.get_raw_connection()).driver_connection
    if not driver.in_transaction:
        await connection.execute(text("BEGIN"))


def with_driver(url: str, driver: str) -> str:
    """The URL as SQLAlchemy writes it."""
    if driver == "aiosqlite":
        return f"sqlite+aiosqlite:///{url}"
    return f"postgresql+{driver}://{url.partition('://')[2]}"


def _as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


ON_POSTGRES: tuple[type[Lender], ...] = (
    Asyncpg,
    AsyncpgPool,
    Psycopg,
    PsycopgBlocks,
    SessionOnAsyncpg,
    SessionOnPsycopg,
    ScopedSession,
    ConnectionOnAsyncpg,
)
ON_SQLITE: tuple[type[Lender], ...] = (
    Aiosqlite,
    AiosqliteBlocks,
    SessionOnAiosqlite,
    ConnectionOnAiosqlite,
)
