"""Opens a store by its URL: the only place that names an engine."""

from pathlib import Path
from types import ModuleType
from typing import Any, Final

from kvqueue_fastapi.errors import InvalidOptionError
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store.backups import Progress, StoreBackup
from kvqueue_fastapi.store.base import AnyStore, Clock
from kvqueue_fastapi.store.copies import CopySource, CopyTarget
from kvqueue_fastapi.store.surveys import StoreSurvey

__all__ = [
    "AnyStore",
    "back_up",
    "open_copy_source",
    "open_copy_target",
    "open_store",
    "restore",
    "survey_store",
]

POSTGRES_SCHEMES: Final = ("postgresql://", "postgres://")


async def open_store(url: str, settings: KvQueueSettings, clock: Clock | None = None) -> AnyStore:
    """Open the store that a URL names.

    Args:
        url: a path, `sqlite:///relative`, `sqlite:////absolute`, `:memory:` or `postgresql://…`.
        settings: the engine's own among them.
        clock: to read the time from; None: the engine's own.

    Raises:
        InvalidOptionError: the URL names no engine, or one that is not installed.
        StoreError: the database cannot be opened.
    """
    # When it is opened, because what one engine needs is of no use to who has another.
    given: Any = url
    if isinstance(given, str) and given.startswith(POSTGRES_SCHEMES):
        store: AnyStore = await _postgres().open(url, settings, clock)
        return store
    from kvqueue_fastapi.store.sqlite.engine import SqliteStore  # noqa: PLC0415

    return await SqliteStore.open(url, settings, clock)


async def open_copy_source(url: str, settings: KvQueueSettings) -> CopySource:
    """Open the store that a URL names for a copy to read; nothing in it changes.

    Raises:
        InvalidOptionError: the URL names no engine, or one that is not installed.
        StoreError: there is none, or it cannot be opened.
    """
    if url.startswith(POSTGRES_SCHEMES):
        _postgres()
        from kvqueue_fastapi.store.postgres.copies import PostgresSchema  # noqa: PLC0415

        return await PostgresSchema.open(url, settings)
    from kvqueue_fastapi.store.sqlite.copies import SqliteFile  # noqa: PLC0415

    return await SqliteFile.open(url)


async def open_copy_target(url: str, settings: KvQueueSettings) -> CopyTarget:
    """Open the store that a URL names for a copy to write, making it where needed.

    Raises:
        InvalidOptionError: the URL names no engine, or one that is not installed.
        StoreError: the database cannot be opened.
    """
    if url.startswith(POSTGRES_SCHEMES):
        _postgres()
        from kvqueue_fastapi.store.postgres.copies import PostgresTarget  # noqa: PLC0415

        return await PostgresTarget.open(url, settings)
    from kvqueue_fastapi.store.sqlite.copies import SqliteTarget  # noqa: PLC0415

    return await SqliteTarget.open_with(url, settings)


async def survey_store(url: str, settings: KvQueueSettings) -> StoreSurvey:
    """Look at the store that a URL names from outside: nothing is made, and nothing changes.

    Raises:
        InvalidOptionError: the URL names no engine, or ":memory:", or one that is not installed.
        StoreError: what is there cannot be read.
    """
    if url.startswith(POSTGRES_SCHEMES):
        _postgres()
        from kvqueue_fastapi.store.postgres.survey import survey as on_server  # noqa: PLC0415

        return await on_server(url, settings)
    from kvqueue_fastapi.store.sqlite.survey import survey as of_file  # noqa: PLC0415

    return await of_file(url)


def back_up(url: str, target: str | Path, progress: Progress) -> StoreBackup:
    """Copy the store that a URL names into a file, as it is at one moment. Blocks.

    Raises:
        InvalidOptionError: its engine has tools of its own for that; or there is a file already.
        StoreError: there is no store, or a file cannot be read or written.
    """
    made: StoreBackup = _backups(url).back_up(url, target, progress)
    return made


def restore(backup: str | Path, url: str, progress: Progress) -> StoreBackup:
    """Make a store out of a backup. Blocks.

    Raises:
        InvalidOptionError: as for `back_up`.
        StoreError: the backup is none, or is damaged; or a file cannot be read or written.
    """
    made: StoreBackup = _backups(url).restore(backup, url, progress)
    return made


def _backups(url: Any) -> ModuleType:
    if isinstance(url, str) and url.startswith(POSTGRES_SCHEMES):
        msg = (
            "PostgreSQL has tools of its own for backups. Use pg_dump and pg_restore with "
            "--schema, which is kvqueue by default; or copy_store into a SQLite file."
        )
        raise InvalidOptionError(msg)
    from kvqueue_fastapi.store.sqlite import backups  # noqa: PLC0415

    return backups


def _postgres() -> Any:
    try:
        from kvqueue_fastapi.store.postgres.engine import PostgresStore  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        msg = (
            "A postgresql:// URL needs asyncpg, which is not installed. Run "
            "pip install 'kvqueue_fastapi[postgres]'."
        )
        raise InvalidOptionError(msg) from error
    return PostgresStore
