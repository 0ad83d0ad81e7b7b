"""Messages that are committed with what the caller writes, in the caller's own transaction."""

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import aiosqlite

from kvqueue_fastapi.errors import InvalidOptionError, KvQueueError, StoreBusyError, StoreError
from kvqueue_fastapi.model import Send
from kvqueue_fastapi.store.base import Clock
from kvqueue_fastapi.store.borrowed import (
    alchemy_connection,
    closed,
    not_taken,
    outside_transaction,
    refuse_database,
)
from kvqueue_fastapi.store.sqlite import statements as sql
from kvqueue_fastapi.store.sqlite.connection import is_busy, store_error, text
from kvqueue_fastapi.store.sqlite.location import MEMORY
from kvqueue_fastapi.store.sqlite.sends import insert, insert_once

ACCEPTED: Final = (
    "an AsyncSession or AsyncConnection of SQLAlchemy (on aiosqlite), or a connection of aiosqlite"
)
_LEGACY: Final = -1
"""`autocommit` of a connection that begins before it writes; before Python 3.12 all do."""


class JointSends:
    """Sends through connections that callers lend.

    Args:
        path: of the queue's file.
        clock: gives the time of what is sent.
    """

    def __init__(self, path: str, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    async def send(self, connection: Any, sends: Sequence[Send]) -> list[int]:
        """Store messages in the transaction of a caller's connection; see `Store.send_within`."""
        try:
            driver: Any = await _driver(connection)
            raw = _raw(driver)
            # In its own thread, and in one hop: between two, the caller could write as well.
            ids: list[int] = await driver._execute(self._store, raw, sends)  # noqa: SLF001 because its own methods run one statement a hop
        except Exception as error:  # noqa: BLE001 because whatever it is, it is told as ours
            found = self._failure(error)
            raise found from found.__cause__
        return ids

    def _store(self, connection: sqlite3.Connection, sends: Sequence[Send]) -> list[int]:
        with _as_ours(connection):
            self._require_same_file(connection)
            with _begun(connection):
                return _insert(connection, sends, self._clock.wall_ms())

    def _require_same_file(self, connection: sqlite3.Connection) -> None:
        if self._path == MEMORY:
            msg = (
                "The queue is in memory, which no other connection can reach. Set KVQUEUE_URL to "
                "the file that the connection writes."
            )
            raise InvalidOptionError(msg)
        # What is attached has a transaction log of its own, which a crash may leave behind.
        (path,) = [row[2] for row in connection.execute(sql.DATABASES) if row[1] == "main"]
        if not path:
            refuse_database("a database in memory", self._path)
        if not Path(path).samefile(self._path):
            refuse_database(path, self._path)

    def _failure(self, error: Exception) -> KvQueueError:
        """What an error is to the caller, with the driver's own as its cause."""
        if isinstance(error, KvQueueError):
            return error
        # Not SQLAlchemy's own, of which the text shows the statement's values.
        cause = getattr(error, "orig", None) or error
        found: KvQueueError
        if not isinstance(cause, sqlite3.Error):
            found = StoreError(f"The connection that was given: {str(cause).rstrip('.')}.")
        elif is_busy(cause):
            found = StoreBusyError(
                f"{self._path}: the connection that was given did not get the lock to write "
                f"({cause}). Roll its transaction back, and do all of it again; BEGIN IMMEDIATE "
                "waits for the lock before anything is read."
            )
        else:
            found = store_error(cause, self._path)
        found.__cause__ = cause
        return found


async def _driver(connection: Any) -> aiosqlite.Connection:
    """The connection of aiosqlite in what a caller lends."""
    driver = connection
    if (alchemy := await alchemy_connection(connection)) is not None:
        if alchemy.dialect.name != "sqlite":
            refuse_database(f"a database of {alchemy.dialect.name}", "SQLite")
        if alchemy.closed:
            raise closed()
        if not alchemy.in_transaction():
            # Else its commit would find nothing to commit.
            await alchemy.begin()
        driver = (await alchemy.get_raw_connection()).driver_connection
    if not isinstance(driver, aiosqlite.Connection):
        raise not_taken(connection, ACCEPTED)
    return driver


def _raw(driver: Any) -> sqlite3.Connection:
    try:
        raw: sqlite3.Connection = driver._conn  # noqa: SLF001 because the thread's functions take it
    except ValueError as error:
        raise closed() from error
    return raw


@contextmanager
def _as_ours(connection: sqlite3.Connection) -> Generator[None]:
    """Rows and texts as this engine reads them, whatever the caller's own are made of."""
    theirs: tuple[Any, Any] = connection.row_factory, connection.text_factory
    connection.row_factory, connection.text_factory = None, text
    try:
        yield
    finally:
        connection.row_factory, connection.text_factory = theirs


@contextmanager
def _begun(connection: sqlite3.Connection) -> Generator[None]:
    """All of the block or nothing, in a transaction that the caller ends.

    Raises:
        InvalidOptionError: none has begun, and the connection begins none by itself.
    """
    begins = not connection.in_transaction
    if begins:
        if getattr(connection, "autocommit", _LEGACY) != _LEGACY:
            raise outside_transaction()
        if connection.isolation_level is None:
            raise outside_transaction()
        # As the driver does before INSERT, but not before a savepoint, which would be the whole
        # transaction then.
        connection.execute(sql.BEGIN_AS[connection.isolation_level])
    connection.execute(sql.SAVEPOINT_JOINT)
    try:
        yield
    except BaseException:
        if not connection.in_transaction:  # SQLite has ended it, as it does when the disk is full
            raise
        if begins:
            connection.execute(sql.ROLLBACK)
        else:
            connection.execute(sql.SAVEPOINT_JOINT_ROLLBACK)
            connection.execute(sql.SAVEPOINT_JOINT_RELEASE)
        raise
    connection.execute(sql.SAVEPOINT_JOINT_RELEASE)


def _insert(connection: sqlite3.Connection, sends: Sequence[Send], now_ms: int) -> list[int]:
    for kind in {send.type for send in sends}:
        connection.execute(sql.REMEMBER_TYPE, {"type": kind, "now_ms": now_ms})
    if all(send.idempotency is None for send in sends):
        return insert(connection, sends, now_ms)
    fresh: list[int] = []
    return [insert_once(connection, send, now_ms, fresh) for send in sends]
