"""One claim: decode, validate, hand it to its handler, and say how it ended."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import cached_property
from types import TracebackType
from typing import Any, Final, NoReturn

from anyio import CapacityLimiter

from kvqueue_fastapi.codec import decode_options, decode_payload
from kvqueue_fastapi.endings import to_the_end
from kvqueue_fastapi.errors import (
    HandlerError,
    InvalidOptionError,
    KvQueueClosedError,
    PayloadError,
    Reject,
    RetryLater,
)
from kvqueue_fastapi.handlers.table import Handler, HandlerTable
from kvqueue_fastapi.message import Hold, Message
from kvqueue_fastapi.middleware import NO_HOOKS, Hooks
from kvqueue_fastapi.model import Claim, Failure, Options, Outcome, Settlement
from kvqueue_fastapi.redaction import (
    EVERYTHING,
    Raised,
    Redaction,
    cut_text,
    cut_trace,
    error_text,
    error_trace,
)
from kvqueue_fastapi.retry import MAX_DELAY_S, duration_ms, next_delay_ms, schedule_of
from kvqueue_fastapi.sender import Sender
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.threads import ThreadCall

log = logging.getLogger("kvqueue_fastapi")

_PACKAGE: Final = __name__.partition(".")[0] + "."
_PLAIN: Final = Options()
_NO_HEADERS: Final[Mapping[str, str]] = _PLAIN.headers

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
        self._jitter = settings.retry_jitter
        self._schedule_ms = tuple(round(step * 1000) for step in settings.backoff_schedule_s)
        self._sender = sender
        self._settle_late = settle_late
        self._is_stopping = is_stopping
        self._redaction = redaction
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
            return self._unhandled(hold)
        try:
            options = _PLAIN if claim.options is None else decode_options(claim.options)
            payload = decode_payload(claim.data, handler.adapter)
        except PayloadError as error:
            # Trying again would read the same bytes.
            hold.refuse(error)
            return self._dead(claim, error, "cannot be read")
        # A thread cannot await a commit, and would drop it unseen.
        sender = self._sender if handler.is_async else None
        message = Message(hold, payload, options.headers or _NO_HEADERS, sender)
        ended = True
        try:
            if self._around is not None:
                ended = await self._handle_through(handler, hold, message, options)
            elif handler.is_async and handler.timeout_s is None and not handler.asks_container:
                # what most handlers are: each call in between would cost more than they do
                await self._await(handler, payload, message)
            else:
                ended = await self._run(handler, hold, message, options)
        except BaseException as error:
            if isinstance(error, GeneratorExit) and _loop_is_gone():
                raise
            # No handler may stop the listener, whatever it raises.
            await _settling_ended(hold)
            return self._ended_by(error, handler, hold, options)
        if hold.settling is not None:
            await _settling_ended(hold)
        return _done(claim) if ended and not hold.settled else None

    def _ended_by(
        self, error: BaseException, handler: Handler, hold: Hold, options: Options
    ) -> Settlement | None:
        hold.error = error = _meant(error, handler)
        is_ours = self._is_stopping() and _comes_of_cancelling(error)
        if not hold.settled:
            if is_ours:
                return self._given_back(hold.claim, error)
            return self._verdict(handler, hold.claim, options, error)
        if not is_ours:
            how = "was settled by its own message.atomic(); what it raised changes nothing"
            self._log(logging.ERROR, hold.claim, error, how)
        return None

    async def _handle_through(
        self, handler: Handler, hold: Hold, message: Message[Any], options: Options
    ) -> bool:
        assert self._around is not None  # noqa: S101 because the caller has looked
        ended = True

        async def call(message: Message[Any]) -> None:
            nonlocal ended
            ended = await self._run(handler, hold, message, options)

        await self._around(message, call)
        return ended

    async def _run(
        self, handler: Handler, hold: Hold, message: Message[Any], options: Options
    ) -> bool:
        scope = self._table.request_scope if handler.asks_container else None
        if scope is None:
            return await self._call(handler, hold, message, options)
        async with scope():
            return await self._call(handler, hold, message, options)

    async def _call(
        self, handler: Handler, hold: Hold, message: Message[Any], options: Options
    ) -> bool:
        if not handler.is_async:
            return await self._run_in_thread(handler, hold, message, options)
        if handler.timeout_s is None:
            await self._await(handler, message.data, message)
        else:
            await self._run_in_time(handler, handler.timeout_s, message)
        return True

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
    ) -> bool:
        def late(error: BaseException | None) -> None:
            hold.end()
            if error is None:
                self._settle_late(hold, _done(hold.claim))
            elif ended := self._ended_by(error, handler, hold, options):
                self._settle_late(hold, ended)

        def work() -> None:
            try:
                handler.call(message.data, message, self._table.resolve)
            finally:
                if os.getpid() != self._pid:
                    _end_child(handler)

        return await ThreadCall(work, late=late).run(self._threads)

    def _verdict(
        self, handler: Handler, claim: Claim, options: Options, error: BaseException
    ) -> Settlement:
        if isinstance(error, Reject):
            return self._dead(claim, error, "was rejected")
        if isinstance(error, RetryLater):
            try:
                delay_ms = duration_ms(error.delay, name="RetryLater", limit_s=MAX_DELAY_S)
            except InvalidOptionError as wrong:
                error = wrong
            else:
                return Settlement(
                    claim.id,
                    claim.token,
                    Outcome.LATER,
                    delay_ms,
                    ordering_key=claim.ordering_key,
                )
        if handler.give_up_on and isinstance(error, handler.give_up_on):
            return self._dead(claim, error, "is given up at once")
        schedule = schedule_of(
            options.backoff_schedule_ms, handler.backoff_schedule_ms, self._schedule_ms
        )
        return self._failed(claim, error, schedule)

    def _unhandled(self, hold: Hold) -> Settlement:
        claim = hold.claim
        msg = (
            f"No handler takes {claim.type!r} in this process, and KVQUEUE_UNHANDLED=fail. "
            "Add its consumer, or leave such messages to other processes."
        )
        options = _PLAIN
        if claim.options is not None:
            try:
                options = decode_options(claim.options)
            except PayloadError as error:
                return self._dead(claim, error, "cannot be read")
        schedule = schedule_of(options.backoff_schedule_ms, None, self._schedule_ms)
        reason = HandlerError(msg)
        hold.refuse(reason)
        return self._failed(claim, reason, schedule)

    def _failed(
        self, claim: Claim, error: BaseException, schedule_ms: tuple[int, ...]
    ) -> Settlement:
        # A delivery that a crash cut off spends none of the retries.
        failures = max(1, claim.attempt - claim.crashes)
        delay_ms = next_delay_ms(failures, schedule_ms, jitter=self._jitter)
        if delay_ms is None:
            return self._dead(claim, error, f"failed for the last time ({failures})")
        how = "failed in attempt %d; again in %g s"
        self._log(logging.ERROR, claim, error, how, claim.attempt, delay_ms / 1000)
        return Settlement(
            claim.id,
            claim.token,
            Outcome.RETRY,
            delay_ms,
            failure_of(error),
            claim.ordering_key,
        )

    def _dead(self, claim: Claim, error: BaseException, how: str) -> Settlement:
        self._log(logging.ERROR, claim, error, f"{how}; it is a dead letter now")
        return Settlement(
            claim.id,
            claim.token,
            Outcome.DEAD,
            failure=failure_of(error),
            ordering_key=claim.ordering_key,
        )

    def _given_back(self, claim: Claim, error: BaseException) -> Settlement:
        if not isinstance(error, asyncio.CancelledError):
            self._log(logging.WARNING, claim, error, "failed when it was cancelled")
        return Settlement(claim.id, claim.token, Outcome.RELEASE, ordering_key=claim.ordering_key)

    def _log(
        self, level: int, claim: Claim, error: BaseException, how: str, *figures: object
    ) -> None:
        told = self._redaction.of_error(claim.type, _as_raised(error))
        args = (claim.type, claim.id, *figures, told.text)
        line = f"%.255s %d {how}: %s"
        with suppress(Exception):  # no log that fails may end the listener
            log.log(level, line, *args, exc_info=told.exc_info, extra=_record(claim))


async def _settling_ended(hold: Hold) -> None:
    """Wait for a commit that a task of the handler has begun, and that may settle the message."""
    if hold.settling is not None:
        with suppress(Exception, asyncio.CancelledError):
            await to_the_end(hold.settling)


def failure_of(error: BaseException) -> Failure:
    """What is kept of an error: its type and text, and both ends of its traceback."""
    text, trace = error_text(error), error_trace(_as_raised(error))
    return Failure(_storable(cut_text(text)), _storable(cut_trace(trace)))


def _meant(error: BaseException, handler: Handler) -> BaseException:
    """The verdict that is alone in a group: a TaskGroup puts even one error into a group."""
    lone = error
    while isinstance(lone, BaseExceptionGroup) and len(lone.exceptions) == 1:
        lone = lone.exceptions[0]
    return lone if isinstance(lone, (Reject, RetryLater, *handler.give_up_on)) else error


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


def _as_raised(error: BaseException) -> Raised:
    """The error with its traceback from the handler on: how it was called is no news."""
    frames = error.__traceback__
    while frames is not None and _is_ours(frames):
        frames = frames.tb_next
    return type(error), error, frames or error.__traceback__


def _is_ours(frames: TracebackType) -> bool:
    return str(frames.tb_frame.f_globals.get("__name__", "")).startswith(_PACKAGE)


def _done(claim: Claim) -> Settlement:
    return Settlement(claim.id, claim.token, ordering_key=claim.ordering_key)


def _record(claim: Claim) -> dict[str, Any]:
    return {
        "message_id": claim.id,
        "message_type": claim.type,
        "attempt": claim.attempt,
    }


def _storable(text: str) -> str:
    # Lone surrogates, which a file name may bring into an error, are no UTF-8.
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def _comes_of_cancelling(error: BaseException) -> bool:
    # Also where being cancelled made the handler fail.
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and not isinstance(found, TimeoutError | Reject | RetryLater):
        if id(found) in seen:  # somebody has made a ring of them
            return False
        seen.add(id(found))
        # What still uses the store then has failed by our closing it.
        if isinstance(found, asyncio.CancelledError | KvQueueClosedError):
            return True
        found = found.__context__
    return False


def _loop_is_gone() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False
