"""Opens the store, starts the listener, drains, closes: beside the app or without one."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
from typing import Any, Final, TypeVar

from anyio import CancelScope
from injector import Injector
from starlette.types import Lifespan

from kvqueue_fastapi.admin import KvQueueAdmin
from kvqueue_fastapi.drain import Drain
from kvqueue_fastapi.errors import KvQueueError, KvQueueNotStartedError
from kvqueue_fastapi.handlers.consumers import collect_handlers
from kvqueue_fastapi.handlers.table import Handler
from kvqueue_fastapi.handlers.wiring import is_bound
from kvqueue_fastapi.listener import Listener
from kvqueue_fastapi.queue import KvQueue
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import AnyStore, open_store
from kvqueue_fastapi.store.base import Clock
from kvqueue_fastapi.store.handle import StoreHandle

log = logging.getLogger("kvqueue_fastapi")

T = TypeVar("T")

STATE_KEY: Final = "kvqueue"
"""Where a connection's state has the `Runtime`."""


class Runtime:
    """The objects of one queue in one container, and their life.

    Attributes:
        queue: the sender's face.
        admin: the keeper's face.
        injector: the container that holds them.
    """

    def __init__(
        self, injector: Injector, settings: KvQueueSettings, consumers: Iterable[Any]
    ) -> None:
        handle: StoreHandle[Handler] = StoreHandle()
        self.injector = injector
        self.queue = KvQueue(handle=handle, settings=settings)
        self.admin = KvQueueAdmin(handle=handle)
        self._handle = handle
        self._settings = settings
        self._consumers = tuple(consumers)
        self._life = _Life()

    def within(self, injector: Injector) -> "Runtime":
        """Give the same queue as seen from a container that may be a child of its own."""
        seen = copy(self)
        seen.injector = injector
        return seen

    def require_open(self) -> None:
        """Raise where the queue cannot be used now, or not on this event loop.

        Raises:
            KvQueueNotStartedError: it has not started, or another client of the app started it.
            KvQueueClosedError: it has ended.
        """
        _ = self._handle.store
        if self._life.loop is not asyncio.get_running_loop():
            raise KvQueueNotStartedError

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Open the store; close it at the end."""
        store = await self._open()
        try:
            self._handle.open(store, store.admin)
        except BaseException:
            await store.close()
            raise
        self._life.loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            self._handle.close()
            await self._close(store)

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[None]:
        """Find the handlers and, if this process listens, run them; drain at the end."""
        listens = self._settings.listen
        table = await collect_handlers(
            self.injector, self._consumers, self.queue.callbacks, warn=listens
        )
        store = self._handle.store
        self._handle.handler_of = table.get
        self._handle.drain = lambda: Drain(store, table, self._settings).run()
        if not listens:
            yield
            return
        listener = Listener(store, table, self._settings)
        await listener.start()
        try:
            yield
        finally:
            await self._stop(listener)

    async def _open(self) -> AnyStore:
        # A test's own clock, where one is bound.
        clock = self.injector.get(Clock) if is_bound(self.injector, Clock) else None  # type: ignore[type-abstract] # it is a key
        opening = asyncio.create_task(open_store(self._settings.url, self._settings, clock))
        try:
            return await _to_the_end(opening)
        except asyncio.CancelledError:
            if not opening.cancelled() and opening.exception() is None:
                await self._close(opening.result())
            raise

    async def _stop(self, listener: Listener) -> None:
        try:
            await _to_the_end(asyncio.create_task(listener.stop()))
        except Exception:
            # Raising here would skip the shutdown of the user's own resources.
            log.exception("The listener could not stop cleanly; its messages come again")

    async def _close(self, store: AnyStore) -> None:
        try:
            await _to_the_end(asyncio.create_task(store.close()))
        except Exception:
            log.exception("The store could not be closed cleanly; what was stored is safe")


class _Life:
    """What is shared by all views of one queue: the event loop that it runs on."""

    loop: asyncio.AbstractEventLoop | None = None


async def _to_the_end(task: asyncio.Task[T]) -> T:
    """Await all of it, also where whoever waits is cancelled.

    What is left half open would keep the process from exiting.
    """
    cancelled: asyncio.CancelledError | None = None
    # Within a cancelled scope anyio would cancel each wait anew.
    with CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled from task.exception()
    return task.result()


def around(runtime: Runtime, users: Lifespan[Any]) -> Lifespan[Any]:
    """Put a queue's life around and inside that of an app.

    The order is: the store opens, the user's start-up, the listener starts, the app serves,
    the listener drains, the user's shutdown, the store closes. So the user's code may send in
    both, and handlers run only while the user's resources are up.
    """

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncGenerator[Mapping[str, Any]]:
        """Run the user's lifespan within the queue's."""
        # Again, because it may have been attached after the install.
        refuse_other_injector(app, runtime.injector)
        failure: Exception | None = None
        try:
            async with runtime.opened(), users(app) as state, AsyncExitStack() as listening:
                try:
                    await listening.enter_async_context(runtime.listening())
                except Exception as error:  # noqa: BLE001 because it is raised below
                    # Not through the user's lifespan: code after its yield would not run.
                    failure = error
                else:
                    yield {**(state or {}), STATE_KEY: runtime}
        finally:
            if failure is not None:
                raise failure

    return lifespan


def refuse_other_injector(app: Any, injector: Injector) -> None:
    """Refuse an app whose routes would be given other services than its handlers.

    Raises:
        KvQueueError: another container is attached to it.
    """
    attached = getattr(getattr(app, "state", None), "injector", injector)
    if attached is not injector:
        msg = (
            "This app has another injector already, from fastapi_injector.attach_injector or "
            "app.state.injector. Make one with both modules, and give it to both."
        )
        raise KvQueueError(msg)
