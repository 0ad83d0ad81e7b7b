"""A backup of a SQLite database while it is in use, and the way back."""

import os
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from kvqueue_fastapi.errors import InvalidOptionError, StoreError
from kvqueue_fastapi.store.backups import BackupProgress, Progress, StoreBackup
from kvqueue_fastapi.store.migrations import load_migrations, pending
from kvqueue_fastapi.store.sqlite import statements as sql
from kvqueue_fastapi.store.sqlite.connection import Patience, patiently, store_error
from kvqueue_fastapi.store.sqlite.location import (
    MEMORY,
    path_of,
    refuse_network,
    refuse_no_file,
)
from kvqueue_fastapi.store.sqlite.schema import PACKAGE, require_whole, the_row
from kvqueue_fastapi.urls import shown_url

STEP_PAGES: Final = 2_000
_PATIENCE_OF_S: Final = 30.0
"""Of a process with such leases."""
_SIDE_FILES: Final = ("-wal", "-shm", "-journal")
_UNFINISHED: Final = ".unfinished"
_SERVERS: Final = ("postgresql://", "postgres://")
AHEAD: Final = 1_000_000
"""By so much ids and versions go on behind those of a backup: the messages and keys that came
after it may be known outside by theirs."""


def back_up(url: str, target: str | Path, progress: Progress) -> StoreBackup:
    """Copy a database as it is at this moment, while others write to it. Blocks.

    What was in hand waits again in the copy, and nobody listens there.

    Raises:
        InvalidOptionError: there is a file already, or what SQLite would read with it; or the
            source is in memory, or the target is no path.
        StoreError: there is no store, or a file cannot be read or written.
    """
    source, file = _file(url), _file(target)
    _require_free(file)
    with _read_only(source) as origin, _unfinished(file) as path:
        _require_store(origin, str(source))
        with _written(path) as copy:
            _copy(origin, copy, progress)
            copy.execute(sql.BEGIN)
            copy.execute(sql.RELEASE_ALL)
            copy.execute(sql.DELETE_LISTENERS)
            copy.execute(sql.COMMIT)
            # One file, that can be put anywhere.
            copy.execute(sql.JOURNAL_IN_PLACE)
        return _described(path, file)


def restore(backup: str | Path, url: str, progress: Progress) -> StoreBackup:
    """Make a database out of a backup. Blocks.

    Raises:
        InvalidOptionError: there is a database already, or one of both is no path.
        StoreError: the backup is none, or is damaged, or has a log beside it; or a file cannot
            be read or written.
    """
    source, file = _file(backup), _file(url)
    refuse_network(str(file))
    _require_free(file)
    _require_alone(source)
    with _read_only(source) as origin, _unfinished(file) as path:
        _require_store(origin, str(source))
        with _written(path) as copy:
            _copy(origin, copy, progress)
            _require_sound(copy, source)
            copy.execute(sql.BEGIN)
            copy.execute(sql.RELEASE_ALL)
            copy.execute(sql.DELETE_LISTENERS)
            copy.execute(sql.SEED_IDS)
            copy.execute(sql.SKIP_IDS, {"ahead": AHEAD})
            copy.execute(sql.SKIP_VERSIONS, {"ahead": AHEAD})
            copy.execute(sql.COMMIT)
        return _described(path, file)


def _file(place: str | Path) -> Path:
    """The absolute path of a file: a relative one that begins with "file:" is a URI to SQLite."""
    given: Any = str(place) if isinstance(place, Path) else place
    if given == "":
        msg = "The path of a file is empty. Give one, such as backup.db."
        raise InvalidOptionError(msg)
    if isinstance(given, str) and given.startswith(_SERVERS):
        msg = f"{shown_url(given)!r} is a server's, allowed is a file. Give its path."
        raise InvalidOptionError(msg)
    path = path_of(given)
    if path == MEMORY:
        msg = "A store in memory has no file. Use copy_store with its open Kv instead."
        raise InvalidOptionError(msg)
    try:
        # the longest name beside it that is asked for
        Path(f"{path}{_UNFINISHED}{_SIDE_FILES[-1]}").exists()
    except OSError as error:
        msg = f"{path}: {error.strerror}. Give another path."
        raise StoreError(msg) from error
    return Path(path)


def _require_free(target: Path) -> None:
    # What lies beside it of another database would be played into it by the next who opens it.
    _require_new(target)
    for side in _sides(target):
        _require_new(side)


def _sides(path: Path) -> list[Path]:
    return [path.with_name(path.name + side) for side in _SIDE_FILES]


def _require_alone(backup: Path) -> None:
    """Refuse a backup with a log, which is its own or that of an earlier file of this name.

    Nobody can tell which: with it, another store may be read than was backed up; without it,
    what somebody has written since would be missing, or half of it. An empty log says nothing,
    and a -shm is made anew by whoever opens the file first.
    """
    # As SQLite does, which looks for it beside what a link leads to.
    file = backup.resolve()
    for side in ("-wal", "-journal"):
        log = file.with_name(file.name + side)
        if log.exists() and log.stat().st_size:
            msg = (
                f"{log} is there: a process uses the backup, or was killed at it, or it is of an "
                "earlier file of this name. Stop that process. If the log is still there and is "
                f"not of this backup, move it away; if it is, run `kvqueue backup --url {file} "
                "NEW`, and restore that."
            )
            raise StoreError(msg)


def _require_new(target: Path) -> None:
    if target.is_dir():
        msg = f"{target} is a directory. Give the path of a file in it."
        raise InvalidOptionError(msg)
    if target.exists() or target.is_symlink():
        msg = f"{target} is there already, and would be lost. Move it away, or give another path."
        raise InvalidOptionError(msg)


@contextmanager
def _read_only(path: Path) -> Generator[sqlite3.Connection]:
    refuse_no_file(str(path))
    if not path.is_file():
        msg = f"{path}: there is no such file. Check the path."
        raise StoreError(msg)
    address = f"{path.as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
            # Here, so that what is wrong with it is not told of the file that is made of it.
            patiently(
                lambda: connection.execute(sql.HAS_SCHEMA).fetchone(), Patience(_PATIENCE_OF_S)
            )
            yield connection
    except sqlite3.Error as error:
        raise store_error(error, str(path)) from error


@contextmanager
def _unfinished(target: Path) -> Generator[Path]:
    """Make a file of another name, which has its own name when all is done."""
    path = target.with_name(target.name + _UNFINISHED)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError as error:
        msg = (
            f"{path} is there: another backup makes it, or was killed. If none does, remove it and "
            f"{path}-journal."
        )
        raise InvalidOptionError(msg) from error
    except OSError as error:
        msg = (
            f"{path} cannot be written: {error.strerror}. Give a directory that can be written to."
        )
        raise StoreError(msg) from error
    try:
        yield path
        _take_name(path, target)
        with suppress(OSError):  # not every system can
            _sync(target.parent)
    finally:
        for left in (path, *_sides(path)):  # a disk that was full leaves a journal
            with suppress(OSError):
                left.unlink(missing_ok=True)


@contextmanager
def _written(path: Path) -> Generator[sqlite3.Connection]:
    """Give a connection; what was written by it is on the disk in the end."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise store_error(error, str(path)) from error
    _sync(path)


def _take_name(path: Path, target: Path) -> None:
    _require_free(target)
    try:
        # No rename, which would replace what somebody has put there meanwhile.
        os.link(path, target)
    except FileExistsError:
        _require_new(target)
    except OSError:  # a file system without links
        path.rename(target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_store(connection: sqlite3.Connection, name: str) -> None:
    patience = Patience(_PATIENCE_OF_S)
    if not patiently(lambda: connection.execute(sql.HAS_SCHEMA).fetchone(), patience):
        msg = f"{name} holds no store of kvqueue_fastapi. Check its path."
        raise StoreError(msg)
    applied, oldest_code = the_row(connection.execute(sql.READ_SCHEMA).fetchone())
    pending(load_migrations(PACKAGE), applied, oldest_code)
    require_whole(connection, patience, name)


def _copy(origin: sqlite3.Connection, copy: sqlite3.Connection, progress: Progress) -> None:
    # Within one read, so that the copy is of one moment: else each write of another process
    # would begin it anew. Nobody waits for it, but the -wal grows meanwhile.
    origin.execute(sql.BEGIN_AS["DEFERRED"])
    origin.execute(sql.READ_SCHEMA).fetchone()
    origin.backup(
        copy,
        pages=STEP_PAGES,
        progress=lambda _, left, total: progress(BackupProgress(total - left, total)),
    )
    origin.execute(sql.COMMIT)


def _require_sound(copy: sqlite3.Connection, backup: Path) -> None:
    ((answer,), *_) = copy.execute(sql.QUICK_CHECK).fetchall()
    if answer != "ok":
        msg = f"{backup} is damaged: {answer}. Restore an older backup."
        raise StoreError(msg)


def _described(path: Path, target: Path) -> StoreBackup:
    """Count in the file itself, so that nothing is told of that is not there."""
    try:
        with _read_only(path) as made:
            counts = made.execute(sql.COUNT_BACKUP).fetchone()
            return StoreBackup(target, path.stat().st_size, *counts)
    except (StoreError, OSError) as error:
        msg = f"{path} was written, but not to be read again ({error}). Make it again."
        raise StoreError(msg) from error
