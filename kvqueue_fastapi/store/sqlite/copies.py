"""A SQLite database as the source or the target of a copy."""

import json
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from kvqueue_fastapi.endings import in_own_thread
from kvqueue_fastapi.errors import StoreError
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store.copies import (
    MESSAGES,
    SLICE_BYTES,
    TABLES,
    Inventory,
    Mark,
    Row,
    Table,
    described,
    other_mark,
)
from kvqueue_fastapi.store.migrations import load_migrations, require_copyable
from kvqueue_fastapi.store.sqlite import copy_statements as sql
from kvqueue_fastapi.store.sqlite import statements
from kvqueue_fastapi.store.sqlite.connection import (
    Patience,
    WriteTransaction,
    connect,
    patiently,
    store_error,
)
from kvqueue_fastapi.store.sqlite.database_thread import DatabaseThread
from kvqueue_fastapi.store.sqlite.listeners import has_died
from kvqueue_fastapi.store.sqlite.location import (
    MEMORY,
    SameFile,
    boot_id,
    path_of,
    refuse_network,
    refuse_no_file,
)
from kvqueue_fastapi.store.sqlite.presence import has_stopped
from kvqueue_fastapi.store.sqlite.schema import PACKAGE, emptying, migrate, the_row

R = TypeVar("R")

MARKED_FROM: Final = 2
"""The schema in which a mark can be kept."""
_PATIENCE_OF_S: Final = 30.0
"""Of a process with such leases."""


class Run(Protocol):
    """Runs a function on a connection, in the thread that owns it."""

    async def __call__(self, work: Callable[[sqlite3.Connection], R]) -> R:
        """Run it and return what it returns."""
        ...


class SqliteSource:
    """The rows of a database, read as they are.

    Args:
        run: on a connection that reads.
        path: of the file, or ":memory:".
    """

    def __init__(self, run: Run, path: str) -> None:
        self.url = path
        self._run = run
        # By one name, because others may have opened the file through a link.
        self._path = path if path == MEMORY else str(Path(path).resolve())
        self._patience = Patience(_PATIENCE_OF_S)

    async def inventory(self) -> Inventory:
        """Look what there is."""
        return await self._patiently(self._look)

    async def live_listeners(self) -> list[str]:
        """The processes that listen now, in words."""
        rows = await self._patiently(
            lambda connection: connection.execute(sql.LISTENERS).fetchall()
        )
        return [
            described(host, pid, since, listener_id)
            for listener_id, boot, pid, host, since, _ in rows
            if not self._has_died(listener_id, boot, pid)
        ]

    async def read(self, table: Table, after: Row | None, limit: int) -> list[Row]:
        """The rows behind a primary key, in its order; fewer than `limit` if they are large."""

        def work(connection: sqlite3.Connection) -> list[Row]:
            names = {**_bounds(table, after), "limit": limit}
            with _as_written(connection):
                if table is MESSAGES:
                    names["stopped"] = json.dumps(self._stopped(connection))
                return _slice(connection, table, names)

        return await self._patiently(work)

    async def close(self) -> None:
        """Nothing to let go of: the connection is somebody else's."""

    async def _patiently(self, work: Callable[[sqlite3.Connection], R]) -> R:
        return await self._run(
            lambda connection: patiently(lambda: work(connection), self._patience)
        )

    def _look(self, connection: sqlite3.Connection) -> Inventory:
        if not connection.execute(statements.HAS_SCHEMA).fetchone():
            msg = f"{self.url} holds no store of kvqueue_fastapi. Check the source's URL."
            raise StoreError(msg)
        applied, oldest_code = the_row(connection.execute(statements.READ_SCHEMA).fetchone())
        require_copyable(load_migrations(PACKAGE), applied, oldest_code, self.url)
        mark = None
        if applied >= MARKED_FROM:
            mark = connection.execute(statements.READ_COPYING).fetchone()[0]
        database_id, version, *ids = connection.execute(sql.COUNTERS).fetchone()
        counts = connection.execute(sql.COUNT_ROWS).fetchone()
        return Inventory(
            database_id,
            mark,
            {table.name: count for table, count in zip(TABLES, counts, strict=True)},
            max(0, *(one or 0 for one in ids)) + 1,
            any(ids),
            version,
        )

    def _has_died(self, listener_id: int, boot: str, pid: int) -> bool:
        # Those of a database in memory are in this very process.
        return self._path != MEMORY and has_died(self._path, listener_id, boot, pid, boot_id())

    def _stopped(self, connection: sqlite3.Connection) -> list[int]:
        """The listeners that had stopped in good order, with something still in their hands."""
        return [
            row[0]
            for row in connection.execute(sql.LISTENERS).fetchall()
            if row[5] or (self._path != MEMORY and has_stopped(self._path, row[0]))
        ]


class SqliteFile(SqliteSource):
    """A file that a copy has opened for itself."""

    def __init__(self, path: str, connection: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(self._on_thread, path)
        self._thread = DatabaseThread(connection, check=SameFile(path).require)

    @classmethod
    async def open(cls, url: str) -> "SqliteFile":
        """Open a file that is there, only to read."""
        path = path_of(url)
        refuse_network(path)
        if not Path(path).exists():  # noqa: ASYNC240 because it is once, before anything begins
            msg = f"{path} does not exist, so there is nothing to copy. Check the source's URL."
            raise StoreError(msg)
        refuse_no_file(path)
        return cls(path, lambda: _connect_to_read(path))

    async def close(self) -> None:
        """Close the connection, and end its thread."""
        await in_own_thread(self._thread.close)

    async def _on_thread(self, work: Callable[[sqlite3.Connection], R]) -> R:
        try:
            return await self._thread.run(work)
        except sqlite3.Error as error:
            raise store_error(error, self.url) from error


class SqliteTarget(SqliteFile):
    """A file that takes whole rows."""

    def __init__(self, path: str, connection: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(path, connection)
        self.emptying = emptying(path)

    @classmethod
    async def open_with(cls, url: str, settings: KvQueueSettings) -> "SqliteTarget":
        """Open the file, making it or bringing its schema up to date where needed."""
        path = path_of(url)
        refuse_network(path)
        patience = Patience(_PATIENCE_OF_S)
        synchronous = settings.sqlite_synchronous
        target = cls(path, lambda: connect(path, synchronous=synchronous, patience=patience))
        try:
            await target._on_thread(lambda connection: migrate(connection, patience))
        except BaseException:
            await target.close()
            raise
        return target

    async def mark(self, before: Mark | None, after: Mark | None) -> None:
        """Set or take away the mark that keeps others out."""
        await self._transact(lambda connection: self._move(connection, before, after))

    async def raise_counters(self, next_id: int, last_version: int) -> None:
        """Let ids and versions that are given from now on be larger than those of the source."""

        def work(connection: sqlite3.Connection) -> None:
            names = {"last_id": next_id - 1, "version": last_version}
            for statement in (sql.RAISE_ID, sql.FIRST_ID, sql.RAISE_VERSION):
                connection.execute(statement, names)

        await self._transact(work)

    async def write(self, table: Table, rows: list[Row], before: Mark, after: Mark) -> None:
        """Store rows, and move the mark. Rows that are there already stay as they are."""

        def work(connection: sqlite3.Connection) -> None:
            self._move(connection, before, after)
            try:
                connection.executemany(sql.WRITE_ROWS[table.name], rows)
            except UnicodeEncodeError:
                connection.executemany(sql.WRITE_ROWS[table.name], map(_as_bytes, rows))

        await self._transact(work)

    async def _transact(self, work: Callable[[sqlite3.Connection], None]) -> None:
        def durably(connection: sqlite3.Connection) -> None:
            with WriteTransaction(connection, self._patience):
                work(connection)

        await self._on_thread(durably)

    def _move(
        self, connection: sqlite3.Connection, before: Mark | None, after: Mark | None
    ) -> None:
        names = {
            "before": before and before.as_text(),
            "after": after and after.as_text(),
            "oldest_code": max(one.oldest_code for one in load_migrations(PACKAGE)),
        }
        if connection.execute(sql.SET_MARK, names).rowcount != 1:
            raise other_mark(self.url)


def _connect_to_read(path: str) -> sqlite3.Connection:
    # Not "rw", because the last to close such a connection moves the -wal into the file.
    return sqlite3.connect(
        Path(path).as_uri() + "?mode=ro",
        uri=True,
        isolation_level=None,
        timeout=0,
        check_same_thread=False,
    )


@contextmanager
def _as_written(connection: sqlite3.Connection) -> Generator[None]:
    """Have text come as it is, also where a foreign program wrote what is no UTF-8."""
    usual = connection.text_factory
    connection.text_factory = _text
    try:
        yield
    finally:
        connection.text_factory = usual


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _as_bytes(row: Row) -> Row:
    return tuple(
        one.encode("utf-8", "surrogateescape") if isinstance(one, str) else one for one in row
    )


def _bounds(table: Table, after: Row | None) -> dict[str, Any]:
    first = table.least if after is None else after
    names: dict[str, Any] = dict(zip(("first", "second"), first, strict=False))
    return {**names, **dict(zip(("past", "past_second"), after or (None, None), strict=False))}


def _slice(connection: sqlite3.Connection, table: Table, names: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    room = SLICE_BYTES
    with closing(connection.execute(sql.READ_ROWS[table.name], names)) as cursor:
        for row in cursor:
            rows.append(row)
            for place in table.large:
                room -= len(row[place] or "")
            if room <= 0:
                break
    return rows
