"""What becomes of a message whose handler did not simply return."""

import asyncio
import logging
from contextlib import suppress
from types import TracebackType
from typing import Any, Final

from kvqueue_fastapi.codec import decode_options
from kvqueue_fastapi.errors import (
    HandlerError,
    InvalidOptionError,
    KvQueueClosedError,
    PayloadError,
    Reject,
    RetryLater,
)
from kvqueue_fastapi.handlers.table import Handler
from kvqueue_fastapi.message import Hold
from kvqueue_fastapi.model import Claim, Failure, Options, Outcome, Settlement
from kvqueue_fastapi.redaction import (
    Raised,
    Redaction,
    cut_text,
    cut_trace,
    error_text,
    error_trace,
)
from kvqueue_fastapi.retry import MAX_DELAY_S, duration_ms, next_delay_ms, schedule_of
from kvqueue_fastapi.settings import KvQueueSettings

log = logging.getLogger("kvqueue_fastapi")

_PACKAGE: Final = __name__.partition(".")[0] + "."
_PLAIN: Final = Options()


class Verdicts:
    """Says how a delivery ends that failed, and logs it.

    Args:
        settings: the schedule that holds where nothing else is said.
        redaction: what may be logged of errors.
    """

    def __init__(self, settings: KvQueueSettings, redaction: Redaction) -> None:
        self._jitter = settings.retry_jitter
        self._schedule_ms = tuple(round(step * 1000) for step in settings.backoff_schedule_s)
        self._redaction = redaction

    def of(
        self, error: BaseException, handler: Handler, claim: Claim, options: Options
    ) -> Settlement:
        """Of what the handler raised: later, a retry or a dead letter."""
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

    def unreadable(self, hold: Hold, error: PayloadError) -> Settlement:
        """A dead letter, because trying again would read the same bytes."""
        hold.refuse(error)
        return self._dead(hold.claim, error, "cannot be read")

    def unhandled(self, hold: Hold) -> Settlement:
        """Of a type that no handler takes, where that is a failure."""
        claim = hold.claim
        msg = (
            f"No handler takes {claim.type!r} in this process, and KVQUEUE_UNHANDLED=fail. "
            "Add its consumer, or leave such messages to other processes."
        )
        try:
            options = options_of(claim)
        except PayloadError as error:
            return self.unreadable(hold, error)
        schedule = schedule_of(options.backoff_schedule_ms, None, self._schedule_ms)
        reason = HandlerError(msg)
        hold.refuse(reason)
        return self._failed(claim, reason, schedule)

    def given_back(self, claim: Claim, error: BaseException) -> Settlement:
        """Of a handler that we have cancelled."""
        if not isinstance(error, asyncio.CancelledError):
            self._log(logging.WARNING, claim, error, "failed when it was cancelled")
        return Settlement(claim.id, claim.token, Outcome.RELEASE, ordering_key=claim.ordering_key)

    def too_late(self, claim: Claim, error: BaseException) -> None:
        """Of a handler that has settled its message itself: that stays so."""
        how = "was settled by its own message.atomic(); what it raised changes nothing"
        self._log(logging.ERROR, claim, error, how)

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
            _failure_of(error),
            claim.ordering_key,
        )

    def _dead(self, claim: Claim, error: BaseException, how: str) -> Settlement:
        self._log(logging.ERROR, claim, error, f"{how}; it is a dead letter now")
        return dead(claim, error)

    def _log(
        self, level: int, claim: Claim, error: BaseException, how: str, *figures: object
    ) -> None:
        told = self._redaction.of_error(claim.type, _as_raised(error))
        args = (claim.type, claim.id, *figures, told.text)
        line = f"%.255s %d {how}: %s"
        with suppress(Exception):  # no log that fails may end the listener
            log.log(level, line, *args, exc_info=told.exc_info, extra=_record(claim))


def options_of(claim: Claim) -> Options:
    """What its sender asked for.

    Raises:
        PayloadError: it cannot be read.
    """
    return _PLAIN if claim.options is None else decode_options(claim.options)


def done(claim: Claim) -> Settlement:
    """Of a handler that returned."""
    return Settlement(claim.id, claim.token, ordering_key=claim.ordering_key)


def dead(claim: Claim, error: BaseException) -> Settlement:
    """A dead letter, with the error's type and text, and both ends of its traceback."""
    failure = _failure_of(error)
    return Settlement(
        claim.id, claim.token, Outcome.DEAD, failure=failure, ordering_key=claim.ordering_key
    )


def meant(error: BaseException, handler: Handler) -> BaseException:
    """The verdict that is alone in a group: a TaskGroup puts even one error into a group."""
    lone = error
    while isinstance(lone, BaseExceptionGroup) and len(lone.exceptions) == 1:
        lone = lone.exceptions[0]
    return lone if isinstance(lone, (Reject, RetryLater, *handler.give_up_on)) else error


def _failure_of(error: BaseException) -> Failure:
    text, trace = error_text(error), error_trace(_as_raised(error))
    return Failure(_storable(cut_text(text)), _storable(cut_trace(trace)))


def _as_raised(error: BaseException) -> Raised:
    """The error with its traceback from the handler on: how it was called is no news."""
    frames = error.__traceback__
    while frames is not None and _is_ours(frames):
        frames = frames.tb_next
    return type(error), error, frames or error.__traceback__


def _is_ours(frames: TracebackType) -> bool:
    return str(frames.tb_frame.f_globals.get("__name__", "")).startswith(_PACKAGE)


def _record(claim: Claim) -> dict[str, Any]:
    return {
        "message_id": claim.id,
        "message_type": claim.type,
        "attempt": claim.attempt,
    }


def _storable(text: str) -> str:
    # Lone surrogates, which a file name may bring into an error, are no UTF-8.
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def comes_of_cancelling(error: BaseException) -> bool:
    """Whether a handler was cancelled, or failed because it was."""
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
