"""Opens a store for the faces that share it, and closes it, whoever is cancelled meanwhile."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from kvqueue_fastapi.endings import to_the_end
from kvqueue_fastapi.errors import KvQueueError
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import AnyStore, open_store
from kvqueue_fastapi.store.base import Clock
from kvqueue_fastapi.store.handle import StoreHandle

log = logging.getLogger("kvqueue_fastapi")


class Closable(Protocol):
    """What an `Opening` opens."""

    async def close(self) -> None:
        """Close it; fine to call twice."""
        ...


T = TypeVar("T", bound=Closable)


class Opening(Generic[T]):
    """What is opened when it is awaited, or opened and closed when it is entered."""

    def __init__(self, open_it: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._open_it = open_it
        self._opened: T | None = None

    def __await__(self) -> Generator[Any, None, T]:
        return self._open_it().__await__()

    async def __aenter__(self) -> T:
        if self._opened is not None:
            msg = "This was entered already. Call open once for each `async with`."
            raise KvQueueError(msg)
        self._opened = await self._open_it()
        return self._opened

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._opened is not None:
            await self._opened.close()


@asynccontextmanager
async def opened(
    handle: StoreHandle, url: str, settings: KvQueueSettings, clock: Clock | None
) -> AsyncGenerator[None]:
    """Have a handle give the store that a URL names; see `open_store`."""
    store = await _open(url, settings, clock)
    try:
        handle.open(store, store.admin)
    except BaseException:
        await store.close()
        raise
    try:
        yield
    finally:
        if handle.is_inherited:
            log.warning(
                "A forked child leaves the block in which its parent runs the queue. What is open "
                "there is its parent's, the event loop above all: let a child end by os._exit."
            )
        else:
            handle.close()
            await _close(store)


async def _open(url: str, settings: KvQueueSettings, clock: Clock | None) -> AnyStore:
    opening = asyncio.create_task(open_store(url, settings, clock))
    try:
        return await to_the_end(opening)
    except asyncio.CancelledError:
        if not opening.cancelled() and opening.exception() is None:
            await _close(opening.result())
        raise


async def _close(store: AnyStore) -> None:
    try:
        await to_the_end(asyncio.create_task(store.close()))
    except Exception:
        log.exception("The store could not be closed cleanly; what was stored is safe")
