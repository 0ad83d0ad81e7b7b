"""What a sum, minimum or maximum makes of a stored number, the same for every engine.

Idea: Deno KV's mutations of `Deno.KvU64`, and its sums of plain numbers.
"""

import math
from typing import Final

from kvqueue_fastapi.codec import decode_payload, decode_u64, encode_payload, encode_u64
from kvqueue_fastapi.errors import InvalidOptionError, PayloadError
from kvqueue_fastapi.model import Arithmetic, Encoding, KvArithmetic

U64_VALUES: Final = 1 << 64
_MAX_NUMBER_BYTES: Final = 65_536

Number = tuple[bytes, int]
"""A stored value and its encoding."""


def combined(stored: Number | None, mutation: KvArithmetic) -> tuple[bytes, Encoding]:
    """What is stored after a mutation.

    Args:
        stored: what was there; None: the key was absent.
        mutation: a sum of unsigned 64-bit numbers wraps at 2^64.

    Raises:
        InvalidOptionError: what was there, or the operand, cannot be combined with the other.
    """
    if mutation.encoding is Encoding.U64:
        return _u64(_combined_u64(stored, mutation))
    return _summed(stored, mutation)


def _combined_u64(stored: Number | None, mutation: KvArithmetic) -> int:
    operand = int(mutation.operand)
    if stored is None:
        return operand
    before = _stored_u64(stored)
    if before is None:
        raise _not_u64(mutation, "value in the database", "Use a key that only counts.")
    match mutation.arithmetic:
        case Arithmetic.SUM:
            return (before + operand) % U64_VALUES
        case Arithmetic.MIN:
            return min(before, operand)
        case Arithmetic.MAX:
            return max(before, operand)


def _summed(stored: Number | None, mutation: KvArithmetic) -> tuple[bytes, Encoding]:
    operand = mutation.operand
    if mutation.arithmetic is not Arithmetic.SUM:
        raise _not_u64(mutation, "operand", "Give a KvU64.")
    if stored is None:
        return _json(operand)
    before = _stored_u64(stored)
    if before is None:
        return _json(_sum(_stored_number(stored), operand))
    if isinstance(operand, float) or not 0 <= operand < U64_VALUES:
        msg = f"Cannot sum KvU64 with Number: received {operand!r}. Give a KvU64."
        raise InvalidOptionError(msg)
    return _u64((before + operand) % U64_VALUES)


def _sum(before: float, operand: float) -> float:
    try:
        return before + operand
    except OverflowError:  # one is a float, and the other an int beyond every float
        number, beyond = (before, operand) if isinstance(before, float) else (operand, before)
        if not math.isfinite(number):
            return number
        return math.inf if beyond > 0 else -math.inf


def _u64(number: int) -> tuple[bytes, Encoding]:
    return encode_u64(number), Encoding.U64


def _json(number: float) -> tuple[bytes, Encoding]:
    return encode_payload(number, _MAX_NUMBER_BYTES).encode(), Encoding.JSON


def _stored_u64(stored: Number) -> int | None:
    value, encoding = stored
    return decode_u64(value) if encoding == Encoding.U64 else None


def _stored_number(stored: Number) -> int | float:
    value, encoding = stored
    number = None
    if encoding == Encoding.JSON:
        try:
            number = decode_payload(value, None)
        except PayloadError:  # another program wrote it
            number = None
    if isinstance(number, bool) or not isinstance(number, int | float):
        msg = (
            "unsupported value type: a sum needs a number, and the value in the database is "
            "none. Use a key that only counts."
        )
        raise InvalidOptionError(msg)
    return number


def _not_u64(mutation: KvArithmetic, what: str, remedy: str) -> InvalidOptionError:
    return InvalidOptionError(
        f"Failed to perform '{mutation.arithmetic}' mutation on a non-U64 {what}. {remedy}"
    )
