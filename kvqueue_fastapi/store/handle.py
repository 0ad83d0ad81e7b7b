"""What the faces hold, from before the store is open until after it is closed."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import TypeAdapter

from kvqueue_fastapi.errors import KvQueueClosedError, KvQueueError, KvQueueNotStartedError
from kvqueue_fastapi.keeper import Health
from kvqueue_fastapi.store.base import Store, StoreAdmin

AdapterOf = Callable[[str], TypeAdapter[Any] | None]
"""What a payload of a message type must pass, where that is known."""

Drain = Callable[[], Awaitable[int]]

Check = Callable[[float | None], Awaitable[Health]]


class StoreHandle:
    """Gives the store while it is open, and says what is wrong while it is not.

    Attributes:
        adapter_of: what the handlers of this process take, once they are known.
        drain: handles what is due in the caller's task, once the handlers are known.
        check: looks whether the queue is well.
    """

    def __init__(self) -> None:
        self._store: Store | None = None
        self._admin: StoreAdmin | None = None
        self._was_open = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self.adapter_of: AdapterOf = _nobody
        self.drain: Drain = _no_drain
        self.check: Check = _no_check

    @property
    def store(self) -> Store:
        """The open store, on the event loop on which it was opened.

        Raises:
            KvQueueNotStartedError: it was never opened, or on another event loop, or in the
                process that this one was forked from.
            KvQueueClosedError: it is closed again.
        """
        if self._store is None:
            raise self._not_open()
        # At a glance first, because every send looks.
        if self._pid != os.getpid() or _running_loop() is not self._loop:
            self.require_here()
        return self._store

    def require_open(self) -> None:
        """Raise as `store` does where there is none; also without an event loop."""
        if self._store is None:
            raise self._not_open()
        self.require_own_process()

    def require_here(self) -> None:
        """Raise on another event loop than that of the open store, or in a forked child.

        Raises:
            KvQueueNotStartedError: there it would be written to, and the answer never come.
        """
        self.require_own_process()
        if _running_loop() is not self._loop:
            raise KvQueueNotStartedError(is_elsewhere=True)

    def require_own_process(self) -> None:
        """Raise where the open store is that of the process that this one was forked from.

        Raises:
            KvQueueNotStartedError: it is; nothing here would ever answer.
        """
        if self.is_inherited:
            raise KvQueueNotStartedError(is_forked=True)

    @property
    def admin(self) -> StoreAdmin:
        """The open store's verbs of the keeper; raises as `store` does."""
        if self._admin is None:
            raise self._not_open()
        self.require_here()
        return self._admin

    @property
    def is_open(self) -> bool:
        """Whether there is a store now."""
        return self._store is not None

    @property
    def is_inherited(self) -> bool:
        """Whether the open store is that of the process that this one was forked from."""
        return self._store is not None and self._pid != os.getpid()

    def open(self, store: Store, admin: StoreAdmin) -> None:
        """Hand the store out from now on."""
        if self._store is not None and not self.is_inherited:
            msg = (
                "This queue is running already. Give each app a KvQueueModule of its own, "
                "and use `running()` outside a running app."
            )
            raise KvQueueError(msg)
        self._store, self._admin, self._was_open = store, admin, True
        self._loop, self._pid = asyncio.get_running_loop(), os.getpid()

    def close(self) -> None:
        """Hand the store out no longer."""
        self._store = self._admin = self._loop = None
        self.adapter_of, self.drain, self.check = _nobody, _no_drain, _no_check

    def _not_open(self) -> KvQueueError:
        return KvQueueClosedError() if self._was_open else KvQueueNotStartedError()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:  # no event loop, or none of asyncio
        return None


def _nobody(_message_type: str) -> None:
    return None


async def _no_drain() -> int:
    raise KvQueueNotStartedError


async def _no_check(_max_age_s: float | None) -> Health:
    raise KvQueueNotStartedError
