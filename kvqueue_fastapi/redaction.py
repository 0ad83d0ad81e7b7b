"""What may be shown or logged of a message: what its app lets through, cut to a limit."""

import inspect
import json
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, NamedTuple, TypeVar

from kvqueue_fastapi.errors import InvalidOptionError, shown
from kvqueue_fastapi.keeper import AttemptError, MessageRecord

log = logging.getLogger("kvqueue_fastapi")

T = TypeVar("T")

Redact = Callable[[str, Any], Any]
"""Called, in any thread, with a message type and a value; gives what may be shown in its place.

The value is a decoded payload, headers as a dict of str, or the text or traceback of an error. Of
a payload, JSON is shown: an object that is none by its `repr`.
"""

Raised = tuple[type[BaseException], BaseException, TracebackType | None]
"""An error as `logging` takes it."""

MAX_TEXT_CHARACTERS: Final = 1_000
MAX_TRACE_CHARACTERS: Final = 8_000


class Told(NamedTuple):
    """What a log record says of an error.

    Attributes:
        text: its type and text, with the traceback where `exc_info` is none.
        exc_info: the error itself, where all of it may be logged.
    """

    text: str
    exc_info: Raised | None


class Redaction:
    """Lets through what may be seen.

    Args:
        hook: the app's own; None: everything may be shown. Where it raises, or gives for a
            payload what cannot be written as JSON, nothing of the value is shown.

    Raises:
        InvalidOptionError: the hook is no plain function.
    """

    def __init__(self, hook: Redact | None = None) -> None:
        if hook is not None and (not callable(hook) or _is_async(hook)):
            msg = (
                f"redact is {shown(hook)}, allowed is a plain function of a message type and a "
                "value. Write `def redact(message_type, value): …`."
            )
            raise InvalidOptionError(msg)
        self._hook = hook
        self._reported: set[str] = set()

    @property
    def hides(self) -> bool:
        """Whether anything may be hidden."""
        return self._hook is not None

    def of_record(self, record: MessageRecord) -> MessageRecord:
        """A message as it may be shown."""
        if self._hook is None:
            return record
        kind = record.type
        data = self._through(kind, record.data, _as_json)
        return replace(
            record,
            data=data,
            is_redacted=_written(data) != _written(record.data),
            headers=self._headers(kind, record.headers),
            errors=tuple(self._error(kind, error) for error in record.errors),
            reason=record.reason and self._text(kind, record.reason),
        )

    def of_error(self, message_type: str, raised: Raised) -> Told:
        """An error as it may be logged."""
        error = raised[1]
        text = error_text(error)
        if self._hook is None and _is_short(error):
            return Told(text, raised)
        # Before it is cut, because half an address is no address to the hook.
        text = cut_text(self._text(message_type, text))
        trace = cut_trace(self._text(message_type, error_trace(raised)))
        return Told(f"{text}\n{trace}", None)

    def _error(self, kind: str, error: AttemptError) -> AttemptError:
        text, trace = self._text(kind, error.text), self._text(kind, error.trace)
        return replace(error, text=text, trace=trace)

    def _headers(self, kind: str, headers: dict[str, str]) -> dict[str, str]:
        seen = self._through(kind, headers, _as_headers) if headers else headers
        return seen if isinstance(seen, dict) else {"headers": seen}

    def _text(self, kind: str, text: str) -> str:
        return self._through(kind, text, str) if text else text

    def _through(self, kind: str, value: Any, shape: Callable[[Any], T]) -> T | str:
        if self._hook is None:
            return shape(value)
        try:
            # A copy, because a hook may change what it is given.
            return shape(self._hook(kind, deepcopy(value)))
        except BaseException as error:  # noqa: BLE001 because no hook may stop the listener
            self._report(error)
            return f"redaction failed: {type(error).__name__}"

    def _report(self, error: BaseException) -> None:
        # Neither its text nor its traceback as text, because these may show the value.
        name = type(error).__name__
        if name in self._reported:
            return
        self._reported.add(name)
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "nowhere"
        log.error("redact raised %s in %s, so that the value is not shown at all", name, where)


EVERYTHING: Final = Redaction()
"""Hides nothing."""


def error_text(error: BaseException) -> str:
    """The type and text of an error, at full length."""
    # Whatever an error does while it is shown, its message must be settled.
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001 because it is the error's own __str__ that fails
        return type(error).__name__


def error_trace(raised: Raised) -> str:
    """The traceback of an error, with its causes, at full length."""
    try:
        return "".join(traceback.format_exception(*raised))
    except BaseException:  # noqa: BLE001 because it is what hangs on the error that cannot be shown
        return "".join(traceback.format_tb(raised[2])) + error_text(raised[1])


def cut_text(text: str) -> str:
    """The beginning of a text."""
    return text[:MAX_TEXT_CHARACTERS]


def cut_trace(trace: str) -> str:
    """Both ends of a traceback: where it began, and what it came to."""
    if len(trace) <= MAX_TRACE_CHARACTERS:
        return trace
    gap = "\n[…]\n"
    half = (MAX_TRACE_CHARACTERS - len(gap)) // 2
    return trace[:half] + gap + trace[-half:]


def _is_short(error: BaseException) -> bool:
    """Whether an error, its causes and its notes can be logged as they are."""
    size = 0
    for one in _with_causes(error):
        try:
            notes = getattr(one, "__notes__", None)
        except BaseException:  # noqa: BLE001 because it is the error's own attribute that fails
            return False
        texts = [error_text(one), *(notes if isinstance(notes, list) else ())]
        size += sum(len(text) for text in texts if isinstance(text, str))
        if size > MAX_TEXT_CHARACTERS:
            return False
    return True


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        left.append(one.__cause__)
        left.append(None if one.__suppress_context__ else one.__context__)
        if isinstance(one, BaseExceptionGroup):
            left.extend(one.exceptions)


def _is_async(hook: Any) -> bool:
    return any(map(inspect.iscoroutinefunction, (hook, type(hook).__call__)))


def _as_json(value: Any) -> Any:
    # Written and read, because only that tells whether it can be shown.
    return json.loads(json.dumps(value, default=repr))


def _written(data: Any) -> str:
    # As text, because 1 == True == 1.0, and each is another payload.
    return json.dumps(data, sort_keys=True)


def _as_headers(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        msg = "what is given for headers must be a mapping"
        raise TypeError(msg)
    return {str(name): str(text) for name, text in value.items()}
