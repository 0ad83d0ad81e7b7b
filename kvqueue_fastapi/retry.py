"""When to try a message again, and when to give it up."""

import math
import random
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from kvqueue_fastapi.errors import InvalidOptionError, shown
from kvqueue_fastapi.settings import MAX_BACKOFF_STEP_S, MAX_BACKOFF_STEPS

MAX_DELAY_S: Final = 30 * 86_400

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_SPANS: Final = ((86_400, "days"), (3_600, "hours"))


def duration_ms(value: float | timedelta, *, name: str, limit_s: float) -> int:
    """Read a duration in seconds; fractions are rounded up, so that nothing comes early.

    Args:
        value: at least 0 and at most `limit_s`, in seconds or as a `timedelta`.
        name: what the value is called in an error, such as "Delay".
        limit_s: in seconds.

    Returns:
        Whole milliseconds.

    Raises:
        InvalidOptionError: the value is no duration, or outside its limits.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else _seconds(value, name)
    if seconds < 0:
        msg = f"{name} must be >= 0: received {seconds}. Give 0 for at once."
        raise InvalidOptionError(msg)
    if seconds > limit_s:
        msg = (
            f"{name} cannot be greater than {_span(limit_s)}: received {seconds}. "
            "The unit is seconds, not milliseconds."
        )
        raise InvalidOptionError(msg)
    # rounded first, because 0.069 * 1000 is a trace above 69
    return math.ceil(round(seconds * 1000, 6))


def deliver_at_ms(value: datetime, *, now_ms: int | None = None) -> int:
    """Read a point in time; a past one is fine and means now.

    Args:
        value: an aware `datetime`.
        now_ms: where it is known, `value` may be at most 30 days after it.

    Returns:
        UTC milliseconds since 1970, rounded up.

    Raises:
        InvalidOptionError: the value is no `datetime`, is naive, or is too far ahead.
    """
    if not _is_aware(value):
        msg = (
            f"deliver_at must be a datetime with a time zone: received {shown(value)}. "
            "Write `datetime(…, tzinfo=UTC)` or `datetime.now(UTC) + timedelta(…)`."
        )
        raise InvalidOptionError(msg)
    at_ms = -(-(value - _EPOCH) // _MILLISECOND)
    if now_ms is not None and at_ms - now_ms > MAX_DELAY_S * 1000:
        msg = (
            f"deliver_at cannot be more than 30 days ahead: received {value!r}. "
            "Send it later, or let a handler send it on."
        )
        raise InvalidOptionError(msg)
    return at_ms


def backoff_schedule_ms(schedule: Sequence[float | timedelta]) -> tuple[int, ...]:
    """Read the delays before each retry.

    Args:
        schedule: at most 20 steps, each 0 to 24 hours, in seconds or as a `timedelta`; a message
            with five steps is delivered six times, one with none once.

    Returns:
        Whole milliseconds, in the same order.

    Raises:
        InvalidOptionError: the schedule is no list or tuple, too long, or has a wrong step,
            which the error names by its index.
    """
    _refuse_no_schedule(schedule)
    if len(schedule) > MAX_BACKOFF_STEPS:
        msg = (
            f"Invalid backoffSchedule, max {MAX_BACKOFF_STEPS} intervals allowed: received "
            f"{len(schedule)}. Drop some, or raise `RetryLater` in the handler."
        )
        raise InvalidOptionError(msg)
    return tuple(_step_ms(step, index) for index, step in enumerate(schedule))


def schedule_of(
    message_ms: tuple[int, ...] | None,
    handler_ms: tuple[int, ...] | None,
    settings_ms: tuple[int, ...],
) -> tuple[int, ...]:
    """Choose the schedule: the message's own, else its handler's, else that of the settings.

    An empty schedule is one too: no retry.
    """
    if message_ms is not None:
        return message_ms
    return settings_ms if handler_ms is None else handler_ms


def next_delay_ms(
    failures: int,
    schedule_ms: tuple[int, ...],
    *,
    jitter: float = 0.0,
    random: Callable[[], float] = random.random,
) -> int | None:
    """How long to wait after a failed attempt; None: give the message up.

    Args:
        failures: how many attempts have failed, this one included.
        schedule_ms: the delays before each retry.
        jitter: the share of the delay, 0 to 1, up to which chance adds to it.
        random: gives the chance, at least 0 and below 1.
    """
    if failures > len(schedule_ms):
        return None
    step_ms = schedule_ms[failures - 1]
    return step_ms + round(step_ms * jitter * random()) if jitter else step_ms


def _step_ms(step: float | timedelta, index: int) -> int:
    try:
        return duration_ms(step, name="It", limit_s=MAX_BACKOFF_STEP_S)
    except InvalidOptionError as exc:
        msg = f"Invalid backoffSchedule, interval at index {index} is invalid: {exc}"
        raise InvalidOptionError(msg) from exc


def _refuse_no_schedule(value: object) -> None:
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview)):
        return
    msg = (
        "Invalid backoffSchedule, a list or tuple of seconds is expected: received "
        f"{shown(value)}. Write `(0.1, 1, 5)`, or `()` for no retry."
    )
    raise InvalidOptionError(msg)


def _is_aware(value: object) -> bool:
    return isinstance(value, datetime) and value.utcoffset() is not None


def _seconds(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        msg = (
            f"{name} must be seconds or a timedelta: received {shown(value)}. "
            "Give an int, a float or a `timedelta`."
        )
        raise InvalidOptionError(msg)
    if abs(value) > sys.float_info.max:
        # because Python refuses to print an int of more than 4,300 digits
        return math.inf if value > 0 else -math.inf
    if math.isnan(value):
        msg = f"{name} cannot be NaN. Give seconds of 0 or more."
        raise InvalidOptionError(msg)
    return value


def _span(seconds: float) -> str:
    for unit_s, unit in _SPANS:
        if seconds > unit_s and seconds % unit_s == 0:
            return f"{seconds // unit_s:g} {unit}"
    return f"{seconds:g} seconds"
