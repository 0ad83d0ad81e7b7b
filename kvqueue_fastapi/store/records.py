"""What is stored, as its keeper sees it, the same for every engine.

A foreign program may have stored anything; what can be shown of it is shown.
"""

from collections.abc import Sequence
from typing import Any, Final

import pydantic_core

from kvqueue_fastapi.codec import decode_options
from kvqueue_fastapi.errors import PayloadError
from kvqueue_fastapi.keeper import AttemptError, MessageRecord, State
from kvqueue_fastapi.model import Options, Send

STATES: Final = (
    State.READY,
    State.DELAYED,
    State.BLOCKED,
    State.RUNNING,
    State.QUARANTINED,
    State.ISOLATED,
    State.DEAD,
)
"""By the number that is stored."""


def record_of(row: Sequence[Any]) -> MessageRecord:
    """A message or dead letter, from the columns that both engines select for it."""
    options = _options(row[4])
    return MessageRecord(
        id=row[0],
        type=row[1],
        data=_json(row[2]),
        state=state_of(row[3]),
        headers=options.headers,
        priority=row[5],
        ordering_key=row[6],
        attempt=row[7],
        crashes=row[8],
        sent_at_ms=row[9],
        due_at_ms=row[10],
        errors=_errors(row[11]),
        reason=row[12],
        requeued_from=row[13],
        deferrals=row[14],
    )


def send_of(row: Sequence[Any], data: str | None = None) -> Send:
    """What sends a message once more, from its type, data, priority, ordering key and options.

    Args:
        row: these columns.
        data: another payload.
    """
    message_type, stored, priority, ordering_key, options = row
    return Send(
        message_type,
        stored if data is None else data,
        priority=priority,
        ordering_key=ordering_key,
        options=options,
    )


def state_of(number: int) -> State:
    """The state that a number stands for."""
    # A foreign program may have stored any number; what is no state is never claimed.
    return STATES[number] if 0 <= number < len(STATES) else State.BLOCKED


def _options(text: str | None) -> Options:
    try:
        return decode_options(text)
    except PayloadError:  # a foreign program wrote it; the rest is still worth showing
        return Options()


def _json(text: str) -> Any:
    try:
        return pydantic_core.from_json(text)
    except ValueError:
        return text


def _errors(text: str | None) -> tuple[AttemptError, ...]:
    entries = _json(text or "[]")
    if not isinstance(entries, list):
        return ()
    return tuple(filter(None, map(_error, entries)))


def _error(entry: Any) -> AttemptError | None:
    try:
        error = AttemptError(**entry)
    except TypeError:  # a foreign program wrote it
        return None
    kinds = [type(one) for one in (error.attempt, error.at_ms, error.text, error.trace)]
    return error if kinds == [int, int, str, str] else None


def types_of(text: str) -> tuple[str, ...]:
    """What a listener handles, where it is stored as JSON."""
    types = _json(text)
    return tuple(one for one in types if isinstance(one, str)) if isinstance(types, list) else ()
