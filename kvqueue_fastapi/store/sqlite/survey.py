"""Looks at a file from outside."""

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from kvqueue_fastapi.endings import in_own_thread
from kvqueue_fastapi.errors import InvalidOptionError, StoreError
from kvqueue_fastapi.store.migrations import load_migrations
from kvqueue_fastapi.store.sqlite import statements as sql
from kvqueue_fastapi.store.sqlite.connection import Patience, patiently, store_error
from kvqueue_fastapi.store.sqlite.location import (
    MEMORY,
    path_of,
    refuse_network,
    refuse_no_file,
)
from kvqueue_fastapi.store.sqlite.schema import PACKAGE, the_row
from kvqueue_fastapi.store.surveys import StoreSurvey

_PATIENCE_OF_S: Final = 30.0
"""Of a process with such leases."""
_OTHERS: Final = stat.S_IRWXO


async def survey(url: str) -> StoreSurvey:
    """Look at the file that a URL names, and at nothing in it but its schema's number.

    Raises:
        InvalidOptionError: the URL is no path, or ":memory:", which only its own process has.
        StoreError: it lies on a network file system, or cannot be read as a database.
    """
    path = path_of(url)
    if path == MEMORY:
        msg = (
            "A store in memory is known to its own process alone. Give the path of a file, or a "
            "postgresql:// URL."
        )
        raise InvalidOptionError(msg)
    refuse_network(path)
    return await in_own_thread(lambda: _survey(path))


def _survey(path: str) -> StoreSurvey:
    refuse_no_file(path)
    schema = _schema_of(path) if _size_of(path) else 0
    return StoreSurvey(
        where=path,
        engine="SQLite",
        version=sqlite3.sqlite_version,
        is_there=schema > 0,
        schema=schema,
        known_schema=load_migrations(PACKAGE)[-1].number,
        lacking=tuple(_lacking(path)),
        is_open_to_others=_mode_of(path) & _OTHERS != 0,
        is_place_there=Path(path).parent.exists(),
        wal_bytes=_size_of(f"{path}-wal"),
    )


def _schema_of(path: str) -> int:
    try:
        # Not "rw", because the last to close such a connection moves the -wal into the file.
        with closing(sqlite3.connect(f"{Path(path).as_uri()}?mode=ro", uri=True)) as connection:
            return patiently(lambda: _applied(connection), Patience(_PATIENCE_OF_S))
    except sqlite3.Error as error:
        raise store_error(error, path) from error


def _applied(connection: sqlite3.Connection) -> int:
    if not connection.execute(sql.HAS_SCHEMA).fetchone():
        return 0
    applied: int = the_row(connection.execute(sql.READ_SCHEMA).fetchone())[0]
    return applied


def _lacking(path: str) -> Iterator[str]:
    directory = Path(path).parent
    if not directory.exists():  # there is no store, and whoever makes one makes it first
        return
    if not os.access(directory, os.W_OK | os.X_OK):
        yield f"to write in {directory}, where SQLite keeps its -wal and -shm"
    for file in (path, f"{path}-wal", f"{path}-shm"):
        if Path(file).exists() and not os.access(file, os.R_OK | os.W_OK):
            yield f"to read and write {file}"


def _size_of(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        msg = f"{path} cannot be looked at: {error.strerror}. Give this user the right to."
        raise StoreError(msg) from error


def _mode_of(path: str) -> int:
    try:
        return Path(path).stat().st_mode
    except OSError:
        return 0
