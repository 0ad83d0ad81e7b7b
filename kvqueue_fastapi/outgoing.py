"""A message on its way in: what the sender asked for, checked, as a record to store."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from kvqueue_fastapi.codec import (
    canonical_digest,
    checked_headers,
    decode_payload,
    encode_options,
    encode_payload,
    is_envelope,
)
from kvqueue_fastapi.errors import InvalidOptionError, shown
from kvqueue_fastapi.keys import Key, encode_key_for_write
from kvqueue_fastapi.model import BARE_TYPE, Idempotency, Options, Send, type_problem
from kvqueue_fastapi.retry import MAX_DELAY_S, backoff_schedule_ms, deliver_at_ms, duration_ms
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store.handle import AdapterOf

MAX_UNDELIVERED_KEYS: Final = 10
MAX_NAME_CHARACTERS: Final = 255
MAX_PRIORITY: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SendOptions:
    """Everything that a sender may ask for beside type and payload; see `KvQueue.send_message`."""

    delay: float | timedelta = 0
    deliver_at: datetime | None = None
    backoff_schedule: Sequence[float | timedelta] | None = None
    keys_if_undelivered: Sequence[Key] = ()
    idempotency_key: str | None = None
    ordering_key: str | None = None
    priority: int = 0
    headers: Mapping[str, str] | None = None


PLAIN: Final = SendOptions()


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """One of several messages for `KvQueue.send_messages`.

    Args:
        type: the message type.
        data: the payload.
        options: what else is asked for.
    """

    type: str
    data: Any = None
    options: SendOptions = field(default=PLAIN)


CallSend = Callable[[Sequence[OutgoingMessage]], Awaitable[list[int]]]
"""Commits messages, and gives their ids."""


def prepare(
    message_type: str,
    data: Any,
    options: SendOptions,
    settings: KvQueueSettings,
    adapter_of: AdapterOf,
) -> Send:
    """Check a message and make it a record to store.

    Args:
        message_type: as its sender gave it, like the next two.
        data: the payload.
        options: `PLAIN` where nothing is asked for.
        settings: the limits.
        adapter_of: what takes a type, where that is in this process: a payload that it would
            not take is refused here, in the request, and not when nobody is there to see it.

    Raises:
        InvalidOptionError: an option is of the wrong type or outside its limits.
        InvalidKeyError: one of `keys_if_undelivered` cannot be a key.
        PayloadError: the payload cannot be encoded, is too large or not what its handler takes.
    """
    _check_type(message_type)
    adapter = adapter_of(message_type)
    text = encode_payload(data, settings.max_payload_bytes)
    if adapter is not None:
        decode_payload(text, adapter)
    if options is PLAIN:
        return Send(message_type, text)
    return with_options(message_type, text, options, settings)


def addressed(value: Any) -> tuple[str, Any]:
    """Tell under which type, and as which payload, a value is sent that is enqueued.

    The one rule: a mapping with exactly the keys `type`, a str, and `data` is an envelope: a
    message of that type, for its `@on_queue_message` handler. Anything else is a message of
    type "kv.enqueue", for `Kv.listen_queue`.
    """
    return (value["type"], value["data"]) if is_envelope(value) else (BARE_TYPE, value)


def with_options(
    message_type: str, data: str, options: SendOptions, settings: KvQueueSettings
) -> Send:
    """Make a message of which type and payload are checked a record to store.

    Raises:
        InvalidOptionError: an option is of the wrong type or outside its limits.
        InvalidKeyError: one of `keys_if_undelivered` cannot be a key.
    """
    delay_ms = _delay_ms(options.delay)
    at_ms = None
    if options.deliver_at is not None:
        if delay_ms:
            msg = (
                f"delay={options.delay!r} and deliver_at={options.deliver_at!r} are both given. "
                "Give one of them."
            )
            raise InvalidOptionError(msg)
        # By this process's clock, because the limit is against typing errors only.
        at_ms = deliver_at_ms(options.deliver_at, now_ms=time.time_ns() // 1_000_000)
    idempotency = None
    if options.idempotency_key is not None:
        idempotency = Idempotency(
            _name(options.idempotency_key, "idempotency_key"),
            canonical_digest(data),
            round(settings.idempotency_window_s * 1000),
        )
    return Send(
        message_type,
        data,
        delay_ms,
        at_ms,
        _priority(options.priority),
        None if options.ordering_key is None else _name(options.ordering_key, "ordering_key"),
        _stored_options(options),
        idempotency,
    )


def _delay_ms(delay: Any) -> int:
    # None is 0, as in Deno.
    return 0 if delay is None else duration_ms(delay, name="Delay", limit_s=MAX_DELAY_S)


def _stored_options(options: SendOptions) -> str | None:
    schedule = options.backoff_schedule
    return encode_options(
        Options(
            headers=checked_headers(options.headers),
            backoff_schedule_ms=None if schedule is None else backoff_schedule_ms(schedule),
            keys_if_undelivered=_keys(options.keys_if_undelivered),
        )
    )


def _keys(keys: Any) -> tuple[bytes, ...]:
    if isinstance(keys, str | bytes) or not isinstance(keys, Sequence):
        msg = (
            f"keys_if_undelivered is {shown(keys)}, allowed is a list of keys. "
            'Write [("failed", order_id)].'
        )
        raise InvalidOptionError(msg)
    if len(keys) > MAX_UNDELIVERED_KEYS:
        msg = (
            f"Too many keys_if_undelivered (max {MAX_UNDELIVERED_KEYS}): received {len(keys)}. "
            "Write one, and let its reader write the others."
        )
        raise InvalidOptionError(msg)
    return tuple(encode_key_for_write(key) for key in keys)


def _check_type(message_type: object) -> None:
    # What is no string may have no hash, which the cache needs.
    known = _type_problem if isinstance(message_type, str) else type_problem
    if problem := known(message_type):
        raise InvalidOptionError(problem)


_type_problem = lru_cache(maxsize=4096)(type_problem)


def _priority(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_PRIORITY:
        msg = (
            f"priority is {shown(value)}, allowed is a whole number from -{MAX_PRIORITY} to "
            f"{MAX_PRIORITY}. Higher goes first, 0 is usual."
        )
        raise InvalidOptionError(msg)
    return value


def _name(value: object, option: str) -> str:
    if (
        not isinstance(value, str)
        or not 1 <= len(value) <= MAX_NAME_CHARACTERS
        or not value.isprintable()
    ):
        msg = (
            f"{option} is {shown(value)}, allowed are 1 to {MAX_NAME_CHARACTERS} printable "
            "characters. Use an id or a digest."
        )
        raise InvalidOptionError(msg)
    return value
