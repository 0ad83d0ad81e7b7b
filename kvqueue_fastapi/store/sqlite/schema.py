"""Brings a database up to this code's schema, once, whoever starts first."""

import sqlite3
from collections.abc import Iterator
from typing import Final, TypeVar

from kvqueue_fastapi.errors import StoreError
from kvqueue_fastapi.store.copies import unfinished
from kvqueue_fastapi.store.migrations import Migration, load_migrations, pending
from kvqueue_fastapi.store.sqlite import statements as sql
from kvqueue_fastapi.store.sqlite.connection import Patience, WriteTransaction, patiently

T = TypeVar("T")

PACKAGE: Final = "kvqueue_fastapi.store.sqlite"


def migrate(
    connection: sqlite3.Connection,
    patience: Patience,
    migrations: tuple[Migration, ...] | None = None,
) -> None:
    """Apply what is missing, under the write lock.

    Raises:
        SchemaTooNewError: the database asks for newer code.
    """
    known = migrations or load_migrations(PACKAGE)
    # Even a read can find the file locked, while another process closes or recovers it.
    if patiently(lambda: _is_current(connection, known), patience):
        return
    with WriteTransaction(connection, patience):
        if not connection.execute(sql.HAS_SCHEMA).fetchone():
            connection.execute(sql.CREATE_SCHEMA)
            connection.execute(sql.INSERT_SCHEMA)
        for migration in _missing(connection, known):
            # Not executescript, because that commits first.
            for statement in _statements(migration.sql):
                connection.execute(statement)
            names = {"applied": migration.number, "oldest_code": migration.oldest_code}
            connection.execute(sql.UPDATE_SCHEMA, names)


def require_whole(connection: sqlite3.Connection, patience: Patience, path: str) -> None:
    """Refuse a database into which another store is copied, or was in part.

    Raises:
        StoreError: what to do then.
    """
    rows = patiently(lambda: connection.execute(sql.READ_COPYING).fetchone(), patience)
    if (mark := the_row(rows)[0]) is not None:
        raise unfinished(path, mark, emptying(path))


def emptying(path: str) -> str:
    """What empties a database, in words."""
    return f"remove {path}, {path}-wal and {path}-shm, or drop its kvqueue_ tables if it has others"


def the_row(found: T | None) -> T:
    """The only row of kvqueue_schema.

    Raises:
        StoreError: another program has removed it.
    """
    if found is None:
        msg = (
            "The table kvqueue_schema has no row: another program has removed it. Restore a "
            "backup, because it held the last version of a key."
        )
        raise StoreError(msg)
    return found


def _is_current(connection: sqlite3.Connection, migrations: tuple[Migration, ...]) -> bool:
    return bool(connection.execute(sql.HAS_SCHEMA).fetchone()) and not _missing(
        connection, migrations
    )


def _missing(connection: sqlite3.Connection, migrations: tuple[Migration, ...]) -> list[Migration]:
    applied, oldest_code = the_row(connection.execute(sql.READ_SCHEMA).fetchone())
    return pending(migrations, applied, oldest_code)


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement
