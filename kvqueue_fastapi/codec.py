"""What a message carries, and a value that is JSON, as the text that is stored, and back."""

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from kvqueue_fastapi.errors import InvalidOptionError, PayloadError, PayloadTooLargeError, shown
from kvqueue_fastapi.losses import loss_of
from kvqueue_fastapi.model import Options
from kvqueue_fastapi.settings import MAX_BACKOFF_STEP_S, MAX_BACKOFF_STEPS

MAX_HEADERS_BYTES: Final = 8 * 1024
U64_BYTES: Final = 8

_MAX_NESTING: Final = 200
"""What pydantic's JSON reader takes; its writer goes to 254."""
_REMEDIES: Final = {
    "Payload": "Send what its handler takes, or let the handler take it.",
    "Value": "Read it as what was set, or set it anew.",
}
_SHOWN_PROBLEMS: Final = 3
_MAX_DIGITS: Final = 4_300
"""Python reads no longer number from text."""
_LONG_NUMBER: Final = re.compile(rb"[0-9]{%d}" % (_MAX_DIGITS + 1))
_SHOWN_CHARS: Final = 300

_StepMs = Annotated[int, Field(ge=0, le=MAX_BACKOFF_STEP_S * 1000)]


class _StoredOptions(BaseModel):
    # a newer version may store options that this one does not know
    model_config = ConfigDict(strict=True, extra="ignore", defer_build=True)

    headers: dict[str, str] = Field(default_factory=dict)
    backoff_schedule_ms: list[_StepMs] | None = Field(default=None, max_length=MAX_BACKOFF_STEPS)
    keys_if_undelivered: list[str] = Field(default_factory=list)


def encode_payload(data: Any, limit_bytes: int, what: str = "Payload") -> str:
    """Encode a payload as JSON, which a `TypeAdapter` of its type reads back.

    Models go in by alias and without computed fields. Keys of a dict become strings. Bytes have
    to be UTF-8, unless their field is a pydantic `Base64Bytes`. A float that is NaN or
    infinite is kept (`NaN`), but inside a model only where the model says
    `ser_json_inf_nan="constants"`, because pydantic would make null of it.

    Args:
        data: models, dataclasses, dicts, lists, and whatever else pydantic serialises.
        limit_bytes: what the payload may take as UTF-8 JSON.
        what: it is called in an error.

    Raises:
        PayloadError: the data cannot be encoded, is nested more than 200 deep, or would lose
            something: two keys of a dict that are written alike, a NaN that becomes null.
        PayloadTooLargeError: it takes more than `limit_bytes`.
    """
    try:
        encoded = to_json(data, round_trip=True, by_alias=True)
    except Exception as exc:  # because a model's own serialiser may raise anything
        raise _unencodable(data, str(exc), what) from exc
    if len(encoded) > limit_bytes:
        raise PayloadTooLargeError(len(encoded), limit_bytes, what)
    if len(encoded) > _MAX_NESTING and _may_be_unreadable(encoded):
        _refuse_unreadable(data, encoded, what)
    _refuse_loss(data, encoded, what)
    return encoded.decode()


def decode_payload(
    text: str | bytes, adapter: TypeAdapter[Any] | None, what: str = "Payload"
) -> Any:
    """Decode a payload and check it.

    Args:
        text: stored JSON.
        adapter: of the type that the handler takes; None: whatever the JSON holds.
        what: it is called in an error.

    Raises:
        PayloadError: it is no JSON, or not what the adapter takes; at most three of the
            problems are named.
    """
    try:
        return from_json(text) if adapter is None else adapter.validator.validate_json(text)
    except ValidationError as exc:
        # Not its cause: a log shows causes, and the text of this one has values of the payload.
        raise misfit(exc, what) from None
    except Exception as exc:  # because a model's own validator may raise anything
        msg = (
            f"{what} cannot be decoded: {type(exc).__name__}: {exc!s:.{_SHOWN_CHARS}}. "
            f"{_REMEDIES[what]}"
        )
        raise PayloadError(msg) from exc


def misfit(error: ValidationError, what: str) -> PayloadError:
    """What a reader is told of a payload or value that is not of his type."""
    msg = f"{what} does not fit {error.title}: {_problems(error)}. {_REMEDIES[what]}"
    return PayloadError(msg)


def encode_u64(number: int) -> bytes:
    """Encode a counter as 8 bytes, the lowest first."""
    return number.to_bytes(U64_BYTES, "little")


def decode_u64(raw: bytes) -> int | None:
    """Decode what `encode_u64` made; None: another program wrote something else."""
    return int.from_bytes(raw, "little") if len(raw) == U64_BYTES else None


def canonical_digest(payload: str) -> bytes:
    """Digest a payload so that the order of its keys and its white space do not count.

    Args:
        payload: JSON; any other text is digested as it is.

    Returns:
        SHA-256, 32 bytes.
    """
    try:
        canonical = json.dumps(json.loads(payload), sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        canonical = payload
    return sha256(canonical.encode("utf-8", "surrogatepass")).digest()


def checked_headers(value: Mapping[str, str] | None) -> dict[str, str]:
    """Check the headers of a message and copy them.

    Args:
        value: names, not empty, and values; together at most 8,192 bytes of UTF-8.

    Raises:
        InvalidOptionError: they are no mapping of str to str, or too large.
    """
    if value is None:
        return {}
    size_bytes = sum(_header_bytes(*item) for item in _items(value))
    if size_bytes > MAX_HEADERS_BYTES:
        msg = (
            f"Headers take {size_bytes} bytes, the limit is {MAX_HEADERS_BYTES}. "
            "Put the larger ones into the payload."
        )
        raise InvalidOptionError(msg)
    return dict(value)


def encode_options(options: Options) -> str | None:
    """Encode as a JSON object what is given; None: nothing is.

    An empty backoff schedule is given, since it means no retry; an absent one is None.
    """
    stored: dict[str, Any] = {}
    if options.headers:
        stored["headers"] = options.headers
    if options.backoff_schedule_ms is not None:
        stored["backoff_schedule_ms"] = options.backoff_schedule_ms
    if options.keys_if_undelivered:
        stored["keys_if_undelivered"] = [key.hex() for key in options.keys_if_undelivered]
    return to_json(stored).decode() if stored else None


def decode_options(text: str | None) -> Options:
    """Decode what `encode_options` made. Options of a newer version are ignored.

    Raises:
        PayloadError: another program stored something else.
    """
    if text is None:
        return Options()
    try:
        stored = _StoredOptions.model_validate_json(text)
        keys = tuple(bytes.fromhex(key) for key in stored.keys_if_undelivered)
    except ValueError as exc:
        problem = _problems(exc) if isinstance(exc, ValidationError) else str(exc)
        msg = f"Options of a message cannot be decoded: {problem}. Set the column to NULL."
        raise PayloadError(msg) from None
    steps_ms = stored.backoff_schedule_ms
    return Options(stored.headers, None if steps_ms is None else tuple(steps_ms), keys)


def envelope(message_type: str, data: str) -> str:
    """What `keys_if_undelivered` hold of a message: JSON that enqueues it again.

    Args:
        message_type: its type.
        data: its payload as it is stored; what is no JSON becomes a string.
    """
    kind = json.dumps(message_type, ensure_ascii=False)
    return f'{{"type":{kind},"data":{json_text(data)}}}'


def is_envelope(value: Any) -> bool:
    """Whether it is a mapping with exactly the keys `type`, a str, and `data`."""
    if not isinstance(value, Mapping) or set(value) != {"type", "data"}:
        return False
    return isinstance(value["type"], str)


def json_text(data: str) -> str:
    """A stored payload as JSON; what is none becomes a string."""
    try:
        from_json(data)
    except ValueError:
        return json.dumps(data)
    return data


def _unencodable(data: object, problem: str, what: str) -> PayloadError:
    return PayloadError(
        f"{what} of type {type(data).__qualname__} cannot be encoded as JSON: "
        f"{problem:.{_SHOWN_CHARS}}. "
        "Send models, dataclasses, dicts, lists, str, numbers, bool or None."
    )


def _may_be_unreadable(encoded: bytes) -> bool:
    # counted and searched first, because reading back costs more than writing
    if encoded.count(b"[") + encoded.count(b"{") > _MAX_NESTING:
        return True
    return len(encoded) > _MAX_DIGITS and _LONG_NUMBER.search(encoded) is not None


def _refuse_unreadable(data: object, encoded: bytes, what: str) -> None:
    try:
        from_json(encoded)
    except ValueError as exc:
        problem = (
            f"nobody could read it: {exc}; {_MAX_NESTING} levels are the limit, and "
            f"{_MAX_DIGITS} digits of a number"
        )
        raise _unencodable(data, problem, what) from exc


def _refuse_loss(data: object, encoded: bytes, what: str) -> None:
    try:
        loss = loss_of(data, encoded)
    except Exception as exc:  # because a model's own serialiser may raise anything
        raise _unencodable(data, str(exc), what) from exc
    if loss is not None:
        raise _unencodable(data, loss, what)


def _problems(error: ValidationError) -> str:
    """Where and what, without the values, because these may be nobody's business in a log."""
    found = error.errors(include_url=False, include_input=False)
    named = [
        f"{'.'.join(map(str, problem['loc']))}: {_problem(problem)}".removeprefix(": ")
        for problem in found[:_SHOWN_PROBLEMS]
    ]
    more = len(found) - len(named)
    text = "; ".join(named)[:_SHOWN_CHARS]
    return f"{text} (and {more} more)" if more else text


def _problem(found: ErrorDetails) -> str:
    if found["type"] != "union_tag_invalid":  # the one message of pydantic's that has a value
        return found["msg"]
    context = found.get("ctx", {})
    return f"{context.get('discriminator')} is none of {context.get('expected_tags')}"


def _items(value: object) -> list[tuple[object, object]]:
    if isinstance(value, Mapping):
        return list(value.items())
    msg = (
        f"Headers must be a mapping of str to str: received {shown(value)}. "
        'Write `{"name": "value"}`.'
    )
    raise InvalidOptionError(msg)


def _header_bytes(name: object, value: object) -> int:
    if not isinstance(name, str) or not isinstance(value, str) or not name:
        msg = (
            f"Header {shown(name)} has the value {shown(value)}: names are str and not empty, "
            "values are str. Convert them with `str(…)`."
        )
        raise InvalidOptionError(msg)
    try:
        return len(name.encode()) + len(value.encode())
    except UnicodeEncodeError as exc:
        msg = f"Header {name!r:.80} is no valid text: {exc}. Leave out lone surrogates."
        raise InvalidOptionError(msg) from exc
