"""Opens a store by its URL: the only place that names an engine."""

from typing import Any, Final

from kvqueue_fastapi.errors import InvalidOptionError
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store.base import AnyStore, Clock

__all__ = ["AnyStore", "open_store"]

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
