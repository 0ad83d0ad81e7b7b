"""Opens a store by its URL: the only place that names an engine."""

from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store.base import AnyStore, Clock

__all__ = ["AnyStore", "open_store"]


async def open_store(url: str, settings: KvQueueSettings, clock: Clock | None = None) -> AnyStore:
    """Open the store that a URL names.

    Args:
        url: a path, `sqlite:///relative`, `sqlite:////absolute` or `:memory:`.
        settings: the engine's own among them.
        clock: to read the time from; None: the engine's own.

    Raises:
        InvalidOptionError: the URL names no engine.
        StoreError: the database cannot be opened.
    """
    # When it is opened, because what one engine needs is of no use to who has another.
    from kvqueue_fastapi.store.sqlite.engine import SqliteStore  # noqa: PLC0415

    return await SqliteStore.open(url, settings, clock)
