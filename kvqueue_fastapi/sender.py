"""What every face of a queue sends through: the checks, the limit on what waits, the commit."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from kvqueue_fastapi.errors import KvQueueError, QueueFullError, shown
from kvqueue_fastapi.model import AtomicWrite, Committed, Send
from kvqueue_fastapi.outgoing import CallSend, OutgoingMessage, SendOptions, prepare, with_options
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store.base import Store
from kvqueue_fastapi.store.handle import StoreHandle

COUNT_AGE_S: Final = 0.1
"""How old the count may be that `max_pending` is held against."""
SMALL_LIMIT: Final = 10_000
"""Counting so far is quick: near such a limit the count is taken more often."""


Around = Callable[[Sequence[OutgoingMessage], CallSend], Awaitable[list[int]]]
"""What is called around a commit that sends; see `Middleware.send`."""


class Sender:
    """Checks what is to be stored, and stores it.

    Args:
        handle: gives the store while it is open.
        settings: the limits.
        around: is called around each commit that sends; None: nobody is.
    """

    def __init__(
        self, handle: StoreHandle, settings: KvQueueSettings, around: Around | None = None
    ) -> None:
        self.settings = settings
        self._handle = handle
        self._around = around
        self._pending = None if settings.max_pending is None else _Pending(settings.max_pending)

    def prepare(self, message_type: str, data: Any, options: SendOptions) -> Send:
        """Check a message and make it a record to store; see `outgoing.prepare`."""
        return prepare(message_type, data, options, self.settings, self._handle.adapter_of)

    @property
    def is_hooked(self) -> bool:
        """Whether sends go through `send_through`, and not straight to `commit`."""
        return self._around is not None

    async def send_through(
        self,
        messages: Sequence[OutgoingMessage],
        sends: Sequence[Send],
        commit: Callable[[Sequence[Send]], Awaitable[Sequence[int]]],
    ) -> list[int]:
        """Send by way of the hook.

        Args:
            messages: as their sender gave them.
            sends: the same, prepared.
            commit: stores those that the hook hands on, and gives their ids.

        Raises:
            KvQueueError: the hook handed on another number of messages, or none.
            Exception: what it raised, or the commit.
        """
        assert self._around is not None  # noqa: S101 because callers look at `is_hooked`

        async def store(given: Sequence[OutgoingMessage]) -> list[int]:
            if (wrong := _no_message(given)) is not None:
                msg = (
                    f"Middleware handed on {shown(wrong)}, allowed is a list of OutgoingMessage. "
                    "Hand on those that it was given, or dataclasses.replace of them."
                )
                raise KvQueueError(msg)
            if len(given) != len(messages):
                msg = (
                    f"Middleware handed on {len(given)} messages, allowed are as many as it was "
                    f"given: {len(messages)}. Raise to send nothing."
                )
                raise KvQueueError(msg)
            ready = [self._again(*three) for three in zip(messages, sends, given, strict=True)]
            return list(await commit(ready))

        once = _Once(store)
        try:
            await self._around(messages, once.call)
        finally:
            once.is_over = True
        return once.result()

    def _again(self, old: OutgoingMessage, send: Send, new: OutgoingMessage) -> Send:
        if new is old:
            return send
        if new.type == old.type and new.data is old.data:
            # As it was when it was given, whatever has become of it since.
            return with_options(send.type, send.data, new.options, self.settings)
        return self.prepare(new.type, new.data, new.options)

    def commit(self, write: AtomicWrite) -> Awaitable[Committed]:
        """Write all of it durably, or nothing; for the caller to await.

        Raises:
            QueueFullError: it sends something, and `max_pending` messages wait.
            KvQueueError: what else keeps it from being written.
        """
        store = self._handle.store
        if self._pending is not None and write.sends:
            return self._pending.commit(store, write)
        return store.commit(write)

    async def commit_within(self, connection: Any, sends: Sequence[Send]) -> list[int]:
        """Write messages in a transaction of the caller's. Returns their ids, in order.

        Raises:
            QueueFullError: `max_pending` messages wait.
            KvQueueError: what else keeps them from being written; see `Store.send_within`.
        """
        store = self._handle.store
        if self._pending is not None:
            await self._pending.admit(store, len(sends))
        return await store.send_within(connection, sends)


class _Once:
    """The rest of the way of a send, which no middleware can go twice."""

    def __init__(self, store: CallSend) -> None:
        self._store = store
        self._has_begun = False
        self._ids: list[int] | None = None
        self.is_over = False

    async def call(self, given: Sequence[OutgoingMessage]) -> list[int]:
        """Be the `call_next` of the innermost middleware."""
        if self.is_over:
            msg = "Middleware awaited call_next after its send had returned. Await it within."
            raise KvQueueError(msg)
        if self._has_begun:
            msg = "Middleware awaited call_next twice, which would send twice. Await it once."
            raise KvQueueError(msg)
        self._has_begun = True
        try:
            self._ids = await self._store(given)
        except Exception:
            # As a sender may who hears of it. Where it was cut off, nobody has heard.
            self._has_begun = False
            raise
        return list(self._ids)

    def result(self) -> list[int]:
        """The ids, once the middleware has returned.

        Raises:
            KvQueueError: it has not waited for them.
        """
        if self._ids is not None:
            return self._ids
        if self._has_begun:
            msg = (
                "Middleware returned before call_next(messages) had, or has cut it off: they may "
                "be stored all the same. Await it to its end, or raise."
            )
            raise KvQueueError(msg)
        msg = "Middleware did not await call_next(messages), so nothing was sent. Raise instead."
        raise KvQueueError(msg)


def _no_message(given: Any) -> object:
    """What is wrong with what a middleware handed on; None: nothing is."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        return given
    wrong = (one for one in given if not isinstance(one, OutgoingMessage))
    return next(wrong, None)


class _Pending:
    """The count that `max_pending` is held against: shared by all callers, seldom taken."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest_s = 0.0 if self._limit <= SMALL_LIMIT else COUNT_AGE_S
        self._counted = 0
        self._counted_at = float("-inf")
        self._sent = 0
        self._counting: asyncio.Future[None] | None = None

    async def commit(self, store: Store, write: AtomicWrite) -> Committed:
        """Refuse where the limit is reached; else take note of what is sent, and commit."""
        await self.admit(store, len(write.sends))
        return await store.commit(write)

    async def admit(self, store: Store, count: int) -> None:
        """Take note of so many that are about to be sent.

        Raises:
            QueueFullError: the limit is reached.
        """
        while self._is_due():
            if self._counting is None:
                self._counting = asyncio.ensure_future(self._count(store))
            await asyncio.shield(self._counting)
        if self._counted >= self._limit:
            raise QueueFullError(self._counted, self._limit)
        self._sent += count

    def _is_due(self) -> bool:
        # Our own sends since the last count may have reached the limit: only a count can tell.
        seems_full = self._sent > 0 and self._counted + self._sent >= self._limit
        return time.monotonic() - self._counted_at > (self._rest_s if seems_full else COUNT_AGE_S)

    async def _count(self, store: Store) -> None:
        sent = self._sent
        try:
            # To the limit and no further, so that it never costs more than the limit.
            self._counted = await store.count_pending(most=self._limit)
            self._counted_at = time.monotonic()
            self._sent -= sent
        finally:
            self._counting = None
