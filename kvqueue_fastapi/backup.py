"""Backups of a store while it is in use, and the way back."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from kvqueue_fastapi.endings import in_own_thread, to_the_end
from kvqueue_fastapi.store import back_up, restore
from kvqueue_fastapi.store.backups import BackupProgress, Progress, StoreBackup


async def backup_store(
    source: str, target: str | Path, *, progress: Progress | None = None
) -> StoreBackup:
    """Copy a SQLite store into a file, as it is at one moment, while it is in use.

    Nobody waits for it. What handlers had in hand at that moment waits in the copy, with no
    attempt spent. The file can be opened as it is; `restore_store` does more. Cancelled, it ends
    with the next 2,000 pages, and leaves no file.

    Args:
        source: the URL of the store, a path or `sqlite:///…`.
        target: a path, or `sqlite:///…`, at which there is nothing yet, and no -wal, -shm or
            -journal of an earlier file either. Until all of it is on the disk, its name ends in
            ".unfinished".
        progress: is told after each 2,000 pages, in another thread; what it raises ends the
            backup.

    Raises:
        InvalidOptionError: there is a file already, or one of both is no SQLite file.
        StoreError: there is no store, or a file cannot be read or written.
    """
    return await _in_thread(lambda told: back_up(source, target, told), progress)


async def restore_store(
    backup: str | Path, target: str, *, progress: Progress | None = None
) -> StoreBackup:
    """Make a store out of a backup, for an app to start on.

    What was handled after the backup is handled again, and what was sent after it is not there.
    New messages and keys have ids and versionstamps a million ahead of the backup's, so that
    none is given again that was known outside.

    Args:
        backup: the path, or `sqlite:///…`, of what `backup_store` made. One with a -wal or
            -journal that is not empty is refused, because that may be of an earlier file of this
            name.
        target: the URL of the store, at which there is nothing yet: move an old database away,
            with its -wal and -shm, when nobody uses it any more.
        progress: as for `backup_store`.

    Raises:
        InvalidOptionError: there is a database already, or one of both is no SQLite file.
        StoreError: the backup is none, is damaged, or has a log beside it; or a file cannot be
            read or written.
        SchemaTooNewError: newer code has made it.
    """
    return await _in_thread(lambda told: restore(backup, target, told), progress)


async def _in_thread(
    work: Callable[[Progress], StoreBackup], progress: Progress | None
) -> StoreBackup:
    cancelled = threading.Event()

    def told(so_far: BackupProgress) -> None:
        if cancelled.is_set():
            raise InterruptedError
        if progress is not None:
            progress(so_far)

    # To its end, because what is unfinished is to be gone when a cancelled caller goes on.
    working = asyncio.create_task(in_own_thread(lambda: work(told)))
    return await to_the_end(working, hasten=cancelled.set)
