"""Reads beside the writing thread."""

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import aiosqlite

from kvqueue_fastapi.errors import KvQueueClosedError
from kvqueue_fastapi.store.sqlite.connection import store_error, text
from kvqueue_fastapi.store.sqlite.database_thread import DatabaseThread
from kvqueue_fastapi.store.sqlite.location import MEMORY

Values = Mapping[str, Any] | Sequence[Any]
"""Of a statement's parameters, by name or by position."""


class Reader(Protocol):
    """Reads whole results, each of one moment."""

    async def fetch_all(self, statement: str, values: Values) -> list[Any]:
        """All rows of a query."""
        ...

    async def close(self) -> None:
        """Let go of the database."""
        ...


class FileReader:
    """A connection of its own, so that a long read holds up no write."""

    def __init__(self, connection: aiosqlite.Connection, path: str) -> None:
        self._connection = connection
        self._path = path
        self._closed = False

    @classmethod
    async def open(cls, path: str) -> "FileReader":
        """Open the file for reading."""
        opening = aiosqlite.connect(
            Path(path).as_uri() + "?mode=rw", uri=True, isolation_level=None, timeout=5
        )
        # A daemon, because a process whose event loop ended without us must still exit.
        thread: Any = getattr(opening, "_thread", opening)
        thread.daemon = True
        try:
            connection = await opening
        except sqlite3.Error as error:
            raise store_error(error, path) from error
        reader = cls(connection, path)
        connection.text_factory = text
        try:
            await reader.fetch_all("PRAGMA query_only = ON", {})
        except BaseException:
            await reader.close()
            raise
        return reader

    async def fetch_all(self, statement: str, values: Values) -> list[Any]:
        """All rows of a query, in one hop: a cursor left open would block a checkpoint."""
        if self._closed:
            raise KvQueueClosedError
        try:
            return list(await self._connection.execute_fetchall(statement, values))
        except sqlite3.Error as error:
            raise store_error(error, self._path) from error

    async def close(self) -> None:
        """Close the connection and its thread, which would keep the process alive."""
        self._closed = True
        await self._connection.close()


class ThreadReader:
    """Reads on the writing thread: a database in memory has only one connection."""

    def __init__(self, thread: DatabaseThread) -> None:
        self._thread = thread

    async def fetch_all(self, statement: str, values: Values) -> list[Any]:
        """All rows of a query."""
        try:
            return await self._thread.run(
                lambda connection: connection.execute(statement, values).fetchall()
            )
        except sqlite3.Error as error:
            raise store_error(error, MEMORY) from error

    async def close(self) -> None:
        """Nothing to let go of."""
