"""One claim: decode, validate, hand it to its handler, and say how it ended."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, Final, NoReturn

from anyio import CapacityLimiter

from kvqueue_fastapi.codec import decode_payload
from kvqueue_fastapi.endings import loop_is_gone, to_the_end
from kvqueue_fastapi.errors import KvQueueError, PayloadError
from kvqueue_fastapi.handlers.table import Handler, HandlerTable
from kvqueue_fastapi.message import Hold, Message
from kvqueue_fastapi.middleware import NO_HOOKS, Hooks
from kvqueue_fastapi.model import Options, Settlement
from kvqueue_fastapi.redaction import EVERYTHING, Redaction
from kvqueue_fastapi.sender import Sender
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.threads import ThreadCall
from kvqueue_fastapi.verdicts import Verdicts, comes_of_cancelling, done, meant, options_of

log = logging.getLogger("kvqueue_fastapi")

_NO_HEADERS: Final[Mapping[str, str]] = Options().headers

SettleLate = Callable[[Hold, Settlement], None]
"""Settles a message whose thread outlived the listener; called in that thread."""


class Dispatcher:
    """Hands claims to their handlers.

    Args:
        table: the handlers of this process.
        settings: the limits and the schedule that hold where nothing else is said.
        sender: what handlers commit through with `message.atomic()`.
        settle_late: for `def` handlers that outlive the shutdown.
        is_stopping: whether it is we who cancel handlers now; else a handler that is cancelled
            has failed, be it by its own hand.
        redaction: what may be logged of errors.
        hooks: what is called around handlers, and whether anybody asks how long they take.
    """

    def __init__(
        self,
        table: HandlerTable,
        settings: KvQueueSettings,
        sender: Sender,
        settle_late: SettleLate,
        is_stopping: Callable[[], bool],
        redaction: Redaction = EVERYTHING,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        self._table = table
        self._around = hooks.handle
        self._is_timed = bool(hooks.settled)
        self._sender = sender
        self._settle_late = settle_late
        self._is_stopping = is_stopping
        self._verdicts = Verdicts(settings, redaction)
        self._sync_concurrency = settings.sync_concurrency
        self._pid = os.getpid()

    @cached_property
    def _threads(self) -> CapacityLimiter:
        # Not before it is needed, because anyio's part for asyncio takes 10 ms to load.
        return CapacityLimiter(self._sync_concurrency)

    @property
    def handle(self) -> Callable[[Hold], Coroutine[Any, Any, Settlement | None]]:
        """What handles one message; see `handle_untimed`."""
        return self._handle_timed if self._is_timed else self.handle_untimed

    async def _handle_timed(self, hold: Hold) -> Settlement | None:
        hold.begin()
        try:
            return await self.handle_untimed(hold)
        finally:
            hold.end()

    async def handle_untimed(self, hold: Hold) -> Settlement | None:
        """Handle one message.

        Returns:
            How it ended; None: its handler has settled it by `message.atomic()`, or its thread
            goes on beyond our own shutdown and will say so to `settle_late`.
        """
        claim = hold.claim
        handler = self._table.get(claim.type)
        if handler is None:
            return self._verdicts.unhandled(hold)
        try:
            options = options_of(claim)
            payload = decode_payload(claim.data, handler.adapter)
        except PayloadError as error:
            return self._verdicts.unreadable(hold, error)
        # A thread cannot await a commit, and would drop it unseen.
        sender = self._sender if handler.is_async else None
        message = Message(hold, payload, options.headers or _NO_HEADERS, sender)
        try:
            if self._around is not None:
                await self._handle_through(handler, hold, message, options)
            elif handler.is_async and handler.timeout_s is None and not handler.asks_container:
                # what most handlers are: each call in between would cost more than they do
                await self._await(handler, payload, message)
            else:
                await self._run(handler, hold, message, options)
        except BaseException as error:
            if isinstance(error, GeneratorExit) and loop_is_gone():
                raise
            # No handler may stop the listener, whatever it raises.
            await _settling_ended(hold)
            return None if hold.abandoned else self._ended_by(error, handler, hold, options)
        if hold.settling is not None:
            await _settling_ended(hold)
        return None if hold.abandoned or hold.settled else done(claim)

    def _ended_by(
        self, error: BaseException, handler: Handler, hold: Hold, options: Options
    ) -> Settlement | None:
        hold.error = error = meant(error, handler)
        is_ours = self._is_stopping() and comes_of_cancelling(error)
        if not hold.settled:
            if is_ours:
                return self._verdicts.given_back(hold.claim, error)
            return self._verdicts.of(error, handler, hold.claim, options)
        if not is_ours:
            self._verdicts.too_late(hold.claim, error)
        return None

    async def _handle_through(
        self, handler: Handler, hold: Hold, message: Message[Any], options: Options
    ) -> None:
        assert self._around is not None  # noqa: S101 because the caller has looked
        may_call = True
        running: asyncio.Task[Any] | None = None

        async def call(message: Message[Any]) -> None:
            nonlocal may_call, running
            if not may_call:
                msg = (
                    "Middleware awaited call_next again, which would handle the message twice. "
                    "Await it once, or again when it has raised."
                )
                raise KvQueueError(msg)
            may_call = False
            running = asyncio.current_task()
            try:
                await self._run(handler, hold, message, options)
            except BaseException:
                may_call = True
                raise
            finally:
                running = None

        try:
            await self._around(message, call)
        finally:
            # In a task of its own, as of a gather or a shield, it may be left behind.
            if running is not None and not loop_is_gone():
                await _cancelled(running)

    async def _run(
        self, handler: Handler, hold: Hold, message: Message[Any], options: Options
    ) -> None:
        scope = self._table.request_scope if handler.asks_container else None
        if scope is None:
            await self._call(handler, hold, message, options)
            return
        async with scope():
            await self._call(handler, hold, message, options)

    async def _call(
        self, handler: Handler, hold: Hold, message: Message[Any], options: Options
    ) -> None:
        if not handler.is_async:
            await self._run_in_thread(handler, hold, message, options)
        elif handler.timeout_s is None:
            await self._await(handler, message.data, message)
        else:
            await self._run_in_time(handler, handler.timeout_s, message)

    async def _run_in_time(self, handler: Handler, timeout_s: float, message: Message[Any]) -> None:
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit:
                await self._await(handler, message.data, message)
        except TimeoutError as error:
            if limit.expired():
                msg = f"{handler.name} took longer than its timeout of {timeout_s:g} s"
                raise TimeoutError(msg) from error
            raise

    async def _await(self, handler: Handler, payload: Any, message: Message[Any]) -> None:
        try:
            await handler.call(payload, message, self._table.resolve)
        finally:
            if os.getpid() != self._pid:
                _end_child(handler)

    async def _run_in_thread(
        self, handler: Handler, hold: Hold, message: Message[Any], options: Options
    ) -> None:
        def late(error: BaseException | None) -> None:
            hold.end()
            if error is None:
                self._settle_late(hold, done(hold.claim))
            elif ended := self._ended_by(error, handler, hold, options):
                self._settle_late(hold, ended)

        def work() -> None:
            try:
                handler.call(message.data, message, self._table.resolve)
            finally:
                if os.getpid() != self._pid:
                    _end_child(handler)

        call = ThreadCall(work, late, self._is_stopping)
        hold.abandoned = not await call.run(self._threads)


async def _cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and wait for its end."""
    while not task.done():
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])


async def _settling_ended(hold: Hold) -> None:
    """Wait for a commit that a task of the handler has begun, and that may settle the message."""
    if hold.settling is not None:
        with suppress(Exception, asyncio.CancelledError):
            await to_the_end(hold.settling)


def _end_child(handler: Handler) -> NoReturn:
    """End a child that its handler has forked and that came back from it.

    It would go on as a second listener, without threads, on the event loop of its parent.
    """
    error = sys.exception()
    status = 1
    try:
        if isinstance(error, SystemExit):
            code = error.code
            status = code & 0xFF if isinstance(code, int) else int(code is not None)
        else:
            log.critical(
                "%s has forked, and its child came back from it. The child is ended here: let it "
                "end by os._exit within the handler.",
                handler.name,
                exc_info=error,
            )
    finally:
        os._exit(status)
