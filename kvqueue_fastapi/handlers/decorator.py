"""`@on_queue_message`, which makes a function or method the handler of a message type."""

import math
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

from kvqueue_fastapi.errors import HandlerError, InvalidOptionError
from kvqueue_fastapi.handlers.marks import (
    Mark,
    add_mark,
    describe,
    inner_function,
    is_function,
    marks_of,
    refuse_unfit,
)
from kvqueue_fastapi.model import type_problem
from kvqueue_fastapi.retry import backoff_schedule_ms

F = TypeVar("F", bound="Callable[..., Any] | classmethod[Any, ..., Any] | staticmethod[..., Any]")

_REMEDY: Final = 'Write @on_queue_message("order.created") above a function or method.'


def on_queue_message(
    message_type: str,
    *,
    concurrency: int | None = None,
    timeout: float | timedelta | None = None,
    backoff_schedule: Sequence[float | timedelta] | None = None,
    give_up_on: Sequence[type[Exception]] = (),
) -> Callable[[F], F]:
    """Mark a function or method as the handler of a message type.

    The function itself is returned, so it can be called as before. Several decorators on one
    function make it the handler of several types. A method that overrides a handler keeps its
    type, unless it is decorated itself; `name = None` in a subclass switches it off. A plain
    function around an `async def` one (`functools.wraps`) counts as async: it must hand back
    what the inner one returns. A `def` handler runs in a thread.

    Idea: Danet's `@OnQueueMessage` (docs.danet.land).

    Args:
        message_type: 1 to 255 characters, none of them a control character.
        concurrency: how many of these messages one process handles at a time, at least 1;
            None: only the setting `concurrency` limits them.
        timeout: seconds or a `timedelta`, above 0; then the handler is cancelled and the
            attempt has failed. Not for `def` handlers: a thread cannot be cancelled.
        backoff_schedule: how long to wait before each retry, in seconds or as `timedelta`s;
            `[]` means no retry; None: the setting `backoff_schedule_s`.
        give_up_on: exceptions that make the message a dead letter at once.

    Raises:
        HandlerError: an option is outside its limits, or this is no function.
    """
    mark = _read_mark(message_type, concurrency, timeout, backoff_schedule, give_up_on)

    def decorate(function: F) -> F:
        inner = inner_function(function)
        _refuse_no_function(inner)
        refuse_unfit(inner, mark)
        if any(known.message_type == mark.message_type for known in marks_of(inner)):
            msg = f"{describe(inner)} is marked twice for {mark.message_type!r}. Keep one."
            raise HandlerError(msg)
        add_mark(inner, mark)
        return function

    return decorate


def _refuse_no_function(function: Any) -> None:
    name = describe(function)
    if isinstance(function, type):
        msg = f"{name} is a class. {_REMEDY}"
        raise HandlerError(msg)
    if not is_function(function):
        msg = f"{name} is no function. {_REMEDY}"
        raise HandlerError(msg)


def _read_mark(
    message_type: Any, concurrency: Any, timeout: Any, backoff_schedule: Any, give_up_on: Any
) -> Mark:
    if callable(message_type) or isinstance(message_type, (staticmethod, classmethod)):
        name = describe(inner_function(message_type))
        msg = f"@on_queue_message stands without a message type on {name}. {_REMEDY}"
        raise HandlerError(msg)
    return Mark(
        _read_type(message_type),
        _read_concurrency(concurrency),
        _read_timeout(timeout),
        _read_backoff(backoff_schedule),
        _read_exceptions(give_up_on),
    )


def _read_type(value: Any) -> str:
    problem = type_problem(value)
    if problem:
        raise HandlerError(problem)
    return str(value)


def _read_concurrency(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        msg = (
            f"concurrency is {value!r}, allowed is a whole number from 1. "
            "Leave it out to have no limit of its own."
        )
        raise HandlerError(msg)
    return value


def _read_timeout(value: Any) -> float | None:
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not number or not math.isfinite(seconds) or seconds <= 0:
        msg = (
            f"timeout is {value!r}, allowed are seconds above 0 or a timedelta. "
            "Leave it out to have none."
        )
        raise HandlerError(msg)
    return float(seconds)


def _read_backoff(value: Any) -> tuple[int, ...] | None:
    try:
        return None if value is None else backoff_schedule_ms(value)
    except InvalidOptionError as exc:
        msg = f"backoff_schedule of a handler: {exc}"
        raise HandlerError(msg) from exc


def _read_exceptions(value: Any) -> tuple[type[Exception], ...]:
    entries: tuple[Any, ...] = tuple(value) if isinstance(value, Sequence) else (None,)
    if not all(isinstance(entry, type) and issubclass(entry, Exception) for entry in entries):
        msg = (
            f"give_up_on is {value!r}, allowed is a sequence of classes of Exception. "
            "Write give_up_on=(ValueError,)."
        )
        raise HandlerError(msg)
    return entries
