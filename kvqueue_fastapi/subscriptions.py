"""What a `Kv` has under way beside single calls: watches, and listeners of `listen_queue`."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from pydantic import TypeAdapter

from kvqueue_fastapi.endings import to_the_end
from kvqueue_fastapi.entries import KvEntry, entry_of
from kvqueue_fastapi.errors import HandlerError, KvQueueClosedError, KvQueueError
from kvqueue_fastapi.handlers.consumers import handler_of_callback
from kvqueue_fastapi.handlers.table import HandlerTable
from kvqueue_fastapi.listener import Listener
from kvqueue_fastapi.middleware import NO_HOOKS, Hooks
from kvqueue_fastapi.model import BARE_TYPE
from kvqueue_fastapi.redaction import EVERYTHING, Redaction
from kvqueue_fastapi.sender import Sender
from kvqueue_fastapi.store.base import Store
from kvqueue_fastapi.store.handle import StoreHandle
from kvqueue_fastapi.watch import Watches

log = logging.getLogger("kvqueue_fastapi")


class Subscriptions:
    """The watches and listeners of one store, from its opening to its closing.

    Args:
        handle: gives the store while it is open.
        sender: for the handlers of the listeners.
        redaction: what may be logged of their errors.
        hooks: what is called around them.
    """

    def __init__(
        self,
        handle: StoreHandle,
        sender: Sender,
        redaction: Redaction = EVERYTHING,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        self._hooks = hooks
        self._handle = handle
        self._redaction = redaction
        self._sender = sender
        self._settings = sender.settings.model_copy(update={"unhandled": "leave"})
        self._watched: Store | None = None
        self._watches: Watches | None = None
        self._listenings: set[_Listening] = set()
        self._silenced: Store | None = None
        self._closing: Store | None = None

    async def watch(
        self, keys: Sequence[bytes], adapter: TypeAdapter[Any] | None
    ) -> AsyncGenerator[list[KvEntry[Any]]]:
        """Follow what is under these keys; see `Watches.follow`."""
        store = self._handle.store
        if store is self._closing:
            raise KvQueueClosedError
        if self._watches is None or self._watched is not store:
            self._watched, self._watches = store, Watches(store)
        async with aclosing(self._watches.follow(keys)) as snapshots:
            async for snapshot in snapshots:
                yield [
                    entry_of(key, found, adapter) for key, found in zip(keys, snapshot, strict=True)
                ]

    async def listen(self, callback: Callable[..., Any]) -> None:
        """Hand bare values to a function until the store closes or the caller is cancelled.

        Raises:
            HandlerError: the function cannot be a handler.
        """
        store = self._handle.store
        if store is self._silenced:
            raise KvQueueClosedError
        handler = handler_of_callback(BARE_TYPE, callback)
        if handler.parameters.injected:
            msg = (
                f"{handler.name} asks the container for something, which listen_queue has not. "
                f'List it as a consumer, marked with @on_queue_message("{BARE_TYPE}").'
            )
            raise HandlerError(msg)
        table = HandlerTable()
        table.add(handler)
        listening = _Listening(
            Listener(store, table, self._settings, self._sender, self._redaction, self._hooks)
        )
        self._listenings.add(listening)
        try:
            await listening.run()
        finally:
            self._listenings.discard(listening)

    def refuse_to_wait_for_caller(self) -> None:
        """Raise where the caller is a handler that the end of its listener would wait for.

        Raises:
            KvQueueError: it is.
        """
        caller = asyncio.current_task()
        if any(listening.listener.is_handling_in(caller) for listening in self._listenings):
            msg = (
                "close() was called by a handler that it would wait for. Let the handler return, "
                "and close from outside, such as asyncio.create_task(kv.close())."
            )
            raise KvQueueError(msg)

    async def stop_listening(self) -> None:
        """Drain every listener, and let its `listen` return. None begins any more."""
        self._silenced = self._handle.store
        stops = (listening.stop(is_last=True) for listening in tuple(self._listenings))
        await asyncio.gather(*stops)

    async def close(self) -> None:
        """End everything that is under way. Nothing begins any more."""
        self._closing = self._handle.store
        await self.stop_listening()
        if self._watches is not None:
            await self._watches.close()
        self._watched = self._watches = None


class _Listening:
    """One listener, which its caller or the closing of the store stops."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._starting = asyncio.get_running_loop().create_task(listener.start())
        self._stopping: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Listen until `stop`, or until the caller is cancelled."""
        try:
            await to_the_end(self._starting)
            await self._stopped.wait()
        finally:
            await self.stop()

    async def stop(self, *, is_last: bool = False) -> None:
        """Drain; fine to call twice."""
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop(is_last=is_last))
        await to_the_end(self._stopping)

    async def _stop(self, *, is_last: bool) -> None:
        await asyncio.wait([self._starting])
        try:
            if not self._starting.cancelled() and self._starting.exception() is None:
                await self.listener.stop(is_last=is_last)
        except Exception:
            # Raising here would close the store under the other listeners.
            log.exception("A listener could not stop cleanly; its messages come again")
        finally:
            self._stopped.set()
