"""A connection as this engine needs it, and the way to the write lock."""

import contextlib
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, TypeVar

from kvqueue_fastapi.errors import StoreBusyError, StoreError
from kvqueue_fastapi.store.outages import Outages
from kvqueue_fastapi.store.sqlite.location import MEMORY, refuse_no_file
from kvqueue_fastapi.store.sqlite.statements import BEGIN, COMMIT, ROLLBACK

R = TypeVar("R")

OLDEST_SQLITE: Final = (3, 38, 0)
HURRY_S: Final = 1.0
"""How long a process waits for a lock that is about to stop."""
_SHORTEST_WAIT_S: Final = 0.0005
_LONGEST_WAIT_S: Final = 0.002
_WAL_CEILING_BYTES: Final = 64 * 1024 * 1024
_OWNER_ONLY: Final = 0o600
_INCREMENTAL: Final = 2
_creating: Final = threading.Lock()


class Patience:
    """How long to wait for a lock that another program holds.

    Args:
        lease_s: how long a lease lasts. Beyond a third, waiting would cost us our leases.

    Attributes:
        seconds: may become less while somebody waits, and then holds for him, too.
        outages: when waiting, or whatever else, kept this process from writing.
    """

    def __init__(self, lease_s: float) -> None:
        self.seconds = lease_s / 3
        self.outages = Outages(lease_s)

    def hurry(self) -> None:
        """Wait no longer than `HURRY_S` from now on."""
        self.seconds = min(self.seconds, HURRY_S)


def connect(path: str, *, synchronous: str, patience: Patience) -> sqlite3.Connection:
    """Open the database for writing.

    Args:
        path: of the file, or ":memory:".
        synchronous: FULL, NORMAL or EXTRA: how a commit reaches the disk.
        patience: with other programs' locks.

    Raises:
        StoreError: it cannot be opened or is no database.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        msg = f"SQLite is {sqlite3.sqlite_version}, 3.38 or newer is needed. Upgrade Python."
        raise StoreError(msg)
    if path != MEMORY:
        refuse_no_file(path)
        _create(path)
    try:
        connection = sqlite3.connect(
            path, isolation_level=None, timeout=0, check_same_thread=False, cached_statements=256
        )
    except sqlite3.Error as error:
        raise store_error(error, path) from error
    try:
        _prepare(connection, synchronous, patience)
    except sqlite3.Error as error:
        connection.close()
        raise store_error(error, path) from error
    except BaseException:
        connection.close()
        raise
    return connection


def store_error(error: sqlite3.Error, path: str) -> StoreError:
    """What a database's own error is to a caller."""
    if is_busy(error):
        return StoreBusyError(f"{path}: another program holds the database ({error}).")
    remedy = _REMEDIES.get(_error_code(error), "")
    return StoreError(f"{path}: {error}.{remedy}")


_REMEDIES: Final = {
    sqlite3.SQLITE_CANTOPEN: " Check that its directory exists and may be written to, and so may "
    "the file, its -wal and its -shm.",
    sqlite3.SQLITE_READONLY: " Give this user the right to write the file and its directory.",
    sqlite3.SQLITE_FULL: " Make room on the disk; what was stored is safe.",
    sqlite3.SQLITE_IOERR: " Check the disk: it may be full, gone or damaged.",
    sqlite3.SQLITE_NOTADB: " Point KVQUEUE_URL at a file of its own; if this was one, restore a "
    "backup.",
    sqlite3.SQLITE_CORRUPT: " Stop, keep a copy, and restore a backup, without "
    "the -wal and -shm of another file beside it, or use sqlite3's .recover.",
}


_OF_THE_DISK: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY)


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection holds a lock that we need."""
    code = _error_code(error)
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _error_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def patiently(attempt: Callable[[], R], patience: Patience) -> R:
    """Try until the lock is free.

    SQLite's own busy timeout backs off so far that a second process starves beside one that
    commits back to back; short waits with jitter share the lock fairly.

    Raises:
        StoreBusyError: it was not free in time.
    """
    began = time.monotonic()
    while True:
        try:
            return attempt()
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise
            if time.monotonic() - began >= patience.seconds:
                msg = (
                    f"Another program has held the database's lock for {patience.seconds:g} s. "
                    "Look for a long transaction in another process."
                )
                raise StoreBusyError(msg) from error
        time.sleep(random.uniform(_SHORTEST_WAIT_S, _LONGEST_WAIT_S))  # noqa: S311 because it is no secret


class WriteTransaction:
    """All of the block in one transaction, or nothing.

    A class and no generator, because every batch begins one.
    """

    __slots__ = ("_changes", "_connection", "_patience")

    def __init__(self, connection: sqlite3.Connection, patience: Patience) -> None:
        self._connection = connection
        self._patience = patience

    def __enter__(self) -> None:
        try:
            self._begin()
        except sqlite3.OperationalError:
            patiently(self._begin, self._patience)
        self._patience.outages.has_lock()
        self._changes = self._connection.total_changes

    def __exit__(
        self, kind: object, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._end(error)
            return
        try:
            patiently(self._commit, self._patience)
        except BaseException as failure:
            self._end(failure)
            raise
        if self._connection.total_changes > self._changes:
            self._patience.outages.has_written()

    def _begin(self) -> None:
        self._connection.execute(BEGIN)

    def _commit(self) -> None:
        self._connection.execute(COMMIT)

    def _end(self, error: BaseException) -> None:
        if isinstance(error, sqlite3.Error) and _error_code(error) in _OF_THE_DISK:
            self._patience.outages.has_failed()
        if self._connection.in_transaction:
            self._connection.execute(ROLLBACK)


def _create(path: str) -> None:
    """Make the file for its owner alone; SQLite gives -wal and -shm the rights of the file."""
    # Where a link leads, because exclusive creation does not follow it.
    target = os.path.realpath(path)
    # One at a time: closing a file drops the locks that this process has on it.
    with _creating, contextlib.suppress(OSError):  # it is there, or SQLite says what is wrong
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, _OWNER_ONLY))


def _prepare(connection: sqlite3.Connection, synchronous: str, patience: Patience) -> None:
    # Bytes that are no UTF-8 in one row that a foreign program wrote must not stop a claim.
    connection.text_factory = text
    (vacuum,) = patiently(lambda: connection.execute("PRAGMA auto_vacuum").fetchone(), patience)
    if vacuum != _INCREMENTAL:  # because to set it takes the write lock, which readers do without
        patiently(lambda: connection.execute("PRAGMA auto_vacuum = INCREMENTAL"), patience)
    # This one ignores the busy timeout, which fails cold starts of several workers.
    patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"), patience)
    connection.execute(_SYNCHRONOUS[synchronous])
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_CEILING_BYTES}")
    # Else the journal of a large statement goes to a temporary directory, which may be full.
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA trusted_schema = OFF")


def text(raw: bytes) -> str:
    """Read stored text; what is no UTF-8 in it is replaced."""
    return raw.decode("utf-8", "replace")


_SYNCHRONOUS: Final = {
    "NORMAL": "PRAGMA synchronous = NORMAL",
    "FULL": "PRAGMA synchronous = FULL",
    "EXTRA": "PRAGMA synchronous = EXTRA",
}
