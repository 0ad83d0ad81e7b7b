"""Opens the store, starts the listener, drains, closes: beside the app or without one."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
from typing import Any, Final, TypeAlias

from injector import Injector
from starlette.types import Lifespan

from kvqueue_fastapi.admin import KvQueueAdmin
from kvqueue_fastapi.drain import Drain
from kvqueue_fastapi.endings import to_the_end
from kvqueue_fastapi.errors import KvQueueError
from kvqueue_fastapi.handlers.consumers import collect_handlers
from kvqueue_fastapi.handlers.wiring import is_bound
from kvqueue_fastapi.health import HealthCheck
from kvqueue_fastapi.kv import Kv
from kvqueue_fastapi.listener import Listener
from kvqueue_fastapi.middleware import Hooks
from kvqueue_fastapi.opening import opened
from kvqueue_fastapi.queue import KvQueue
from kvqueue_fastapi.redaction import Redaction
from kvqueue_fastapi.sender import Sender
from kvqueue_fastapi.settings import KvQueueSettings, overruled
from kvqueue_fastapi.store.base import Clock
from kvqueue_fastapi.store.handle import StoreHandle
from kvqueue_fastapi.subscriptions import Subscriptions

log = logging.getLogger("kvqueue_fastapi")

STATE_KEY: Final = "kvqueue"
"""Where a connection's state has the `Runtime`."""

Choice: TypeAlias = Callable[[Sequence[str]], Iterable[str]]
"""Chooses message types among those that have a handler."""


class Runtime:
    """The objects of one queue in one container, and their life.

    Attributes:
        queue: the sender's face.
        kv: the caller's face of the key-value store.
        admin: the keeper's face.
        injector: the container that holds them.
        types: the message types that are handled here, once it has started.
    """

    def __init__(
        self,
        injector: Injector,
        settings: KvQueueSettings,
        consumers: Iterable[Any],
        redaction: Redaction,
        hooks: Hooks,
    ) -> None:
        handle = StoreHandle()
        sender = Sender(handle, settings, hooks.send)
        self.injector = injector
        self.queue = KvQueue(handle=handle, sender=sender)
        self._subscriptions = Subscriptions(handle, sender, redaction, hooks)
        self.kv = Kv(handle=handle, sender=sender, subscriptions=self._subscriptions)
        self.admin = KvQueueAdmin(handle=handle, sender=sender, redaction=redaction)
        self._handle = handle
        self._hooks = hooks
        self._redaction = redaction
        self._sender = sender
        self._settings = settings
        self._consumers = tuple(consumers)
        self.types: tuple[str, ...] = ()
        self._only: Choice | None = None

    @property
    def settings(self) -> KvQueueSettings:
        """What it runs by."""
        return self._settings

    def overrule(self, **chosen: Any) -> None:
        """Have it start by other values of some settings, in this process.

        Raises:
            pydantic.ValidationError: a value is outside the limits of its setting.
        """
        self._settings = overruled(self._settings, chosen)

    def handle_only(self, choose: Choice) -> None:
        """Have it start with the handlers of chosen message types alone, in this process.

        What others take is still checked when it is sent.

        Args:
            choose: gives them, of all that have a handler, once those are known.
        """
        self._only = choose

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

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Open the store and, if this process listens, listen; drain and close at the end."""
        async with self.opened(), self.listening():
            yield

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Open the store; close it at the end."""
        # A test's own clock, where one is bound.
        clock = self.injector.get(Clock) if is_bound(self.injector, Clock) else None  # type: ignore[type-abstract] # it is a key
        async with opened(self._handle, self._settings.url, self._settings, clock):
            try:
                yield
            finally:
                if not self._handle.is_inherited:
                    await to_the_end(asyncio.create_task(self._subscriptions.close()))

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[None]:
        """Find the handlers and, if this process listens, run them; drain at the end."""
        listens = self._settings.listen
        table = await collect_handlers(
            self.injector, self._consumers, self.queue.callbacks, warn=listens
        )
        self._handle.adapter_of = table.adapter_of
        if self._only is not None:
            table = table.only(self._only(table.types))
        self.types = table.types
        store = self._handle.store
        parts = (store, table, self._settings, self._sender, self._redaction, self._hooks)
        self._handle.drain = lambda: Drain(*parts).run()
        listener = Listener(*parts)
        is_listening = (lambda: listener.is_alive) if listens else None
        self._handle.check = HealthCheck(store, self._handle.admin, is_listening).run
        if listens:
            await listener.start()
        try:
            yield
        finally:
            # Also where this process does not listen by itself, somebody may have called
            # listen_queue; and the grace of both is one.
            if not self._handle.is_inherited:
                stops = [self._subscriptions.stop_listening()]
                if listens:
                    stops.append(listener.stop())
                await _stopped(*stops)


async def _stopped(*stops: Coroutine[Any, Any, None]) -> None:
    stopping = [asyncio.create_task(stop) for stop in stops]
    try:
        await to_the_end(asyncio.create_task(asyncio.wait(stopping)))
    finally:
        ended = [task for task in stopping if task.done() and not task.cancelled()]
        for error in filter(None, (task.exception() for task in ended)):
            # Raising here would skip the shutdown of the user's own resources.
            log.error("A listener could not stop cleanly; its messages come again", exc_info=error)


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
