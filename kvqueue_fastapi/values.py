"""What is kept under a key: value <-> stored bytes and their encoding."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from kvqueue_fastapi.codec import decode_payload, decode_u64, encode_payload, encode_u64, misfit
from kvqueue_fastapi.errors import InvalidOptionError, PayloadError, PayloadTooLargeError, shown
from kvqueue_fastapi.model import Encoding

MAX_U64: Final = (1 << 64) - 1
_MOST_SHOWN_BITS: Final = 256


@dataclass(frozen=True, slots=True, order=True)
class KvU64:
    """A counter: an unsigned 64-bit number, for `sum`, `min` and `max` without reading it first.

    It is a value of its own and no `int`, because it is stored otherwise; `int(counter)` and
    `counter.value` give the number.

    Args:
        value: a whole number from 0 to 2^64 - 1.

    Raises:
        InvalidOptionError: it is anything else.

    Idea: `Deno.KvU64`.
    """

    value: int

    def __post_init__(self) -> None:
        given: Any = self.value
        if isinstance(given, bool) or not isinstance(given, int):
            msg = f"Value must be a bigint: received {shown(given)}. Give an int."
            raise InvalidOptionError(msg)
        if self.value < 0:
            msg = f"Value must be a positive bigint: received {_shown(self.value)}. Give 0 or more."
            raise InvalidOptionError(msg)
        if self.value > MAX_U64:
            msg = (
                f"Value must fit in a 64-bit unsigned integer: received {_shown(self.value)}. "
                f"Give at most {MAX_U64}."
            )
            raise InvalidOptionError(msg)

    def __int__(self) -> int:
        return self.value

    def __index__(self) -> int:
        return self.value

    def __str__(self) -> str:
        return str(self.value)


def encode_value(value: Any, limit_bytes: int) -> tuple[bytes, Encoding]:
    """Encode a value.

    Args:
        value: bytes are kept as they are, a `KvU64` as a counter, and everything else as JSON,
            as a payload would be.
        limit_bytes: what it may take.

    Raises:
        PayloadError: it cannot be encoded as JSON.
        PayloadTooLargeError: it takes more than `limit_bytes`.
    """
    if isinstance(value, KvU64):
        return encode_u64(value.value), Encoding.U64
    if isinstance(value, bytes | bytearray | memoryview):
        raw = bytes(value)
        if len(raw) > limit_bytes:
            raise PayloadTooLargeError(len(raw), limit_bytes, "Value")
        return raw, Encoding.BYTES
    return encode_payload(value, limit_bytes, "Value").encode(), Encoding.JSON


def decode_value(value: bytes, encoding: int, adapter: TypeAdapter[Any] | None) -> Any:
    """Decode a value.

    Args:
        value: as it is stored.
        encoding: how.
        adapter: of the type that it is read as; None: what it is by itself, which is bytes,
            `KvU64` or what JSON holds.

    Raises:
        PayloadError: it cannot be read, or not as that type.
    """
    if encoding == Encoding.JSON:
        return decode_payload(value, adapter, "Value")
    if encoding == Encoding.BYTES:
        return value if adapter is None else _validated(adapter, value)
    number = decode_u64(value) if encoding == Encoding.U64 else None
    if number is not None:
        return _counter(number, adapter)
    msg = (
        f"Value of {len(value)} bytes has the encoding {encoding}, which is none. "
        "Another program wrote it; delete the key."
    )
    raise PayloadError(msg)


def adapter_of(kind: Any) -> TypeAdapter[Any] | None:
    """What checks a type, made once for each; None for None, which is no type.

    Raises:
        InvalidOptionError: pydantic cannot check it.
    """
    if kind is None:
        return None
    # Unions are equal whatever their order, which decides how they read.
    order = None if isinstance(kind, type) else repr(kind)
    try:
        return _cached_adapter(kind, order)
    except TypeError:  # it has no hash, such as Annotated[int, [1]]
        return _new_adapter(kind)


def _new_adapter(kind: Any, _order: str | None = None) -> TypeAdapter[Any]:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        # Names that are defined by now; what is left open raises.
        adapter.rebuild()
    except (PydanticUserError, NameError) as error:
        msg = (
            f"type is {shown(kind)}, which pydantic cannot check: {error!s:.300}. "
            "Give a model, a dataclass, or a type such as list[int]."
        )
        raise InvalidOptionError(msg) from error
    return adapter


_cached_adapter = lru_cache(maxsize=1024)(_new_adapter)


def _counter(number: int, adapter: TypeAdapter[Any] | None) -> Any:
    if adapter is None:
        return KvU64(number)
    try:
        return adapter.validate_python(KvU64(number))
    except ValueError:
        return _validated(adapter, number)


def _validated(adapter: TypeAdapter[Any], value: Any) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise misfit(error, "Value") from None
    except Exception as error:  # because a model's own validator may raise anything
        msg = f"Value cannot be read as its type: {type(error).__name__}: {error!s:.300}."
        raise PayloadError(msg) from error


def _shown(number: int) -> str:
    # Python refuses to print an int of more than 4,300 digits.
    bits = number.bit_length()
    return str(number) if bits <= _MOST_SHOWN_BITS else f"an int of {bits} bits"
