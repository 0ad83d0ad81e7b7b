"""A key of the key-value store, as bytes that sort as the key does.

Idea: the tuple layer of FoundationDB, as Deno KV uses it, byte for byte
(github.com/denoland/denokv, proto/codec.rs). Within a part: bytes < str < int < float < bool.
"""

import math
import re
import struct
from collections.abc import Callable, Sequence
from typing import Final

from kvqueue_fastapi.errors import InvalidKeyError, shown

KeyPart = bytes | str | int | float | bool
Key = Sequence[KeyPart]
"""A list or tuple of parts."""


class CommitVersionstamp:
    """What `commit_versionstamp()` gives."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "commit_versionstamp()"

    def __reduce__(self) -> tuple[Callable[[], "CommitVersionstamp"], tuple[()]]:
        # A copy is the same: keys are told by it.
        return commit_versionstamp, ()


SetKey = Sequence[KeyPart | CommitVersionstamp]
_COMMIT_VERSIONSTAMP: Final = CommitVersionstamp()

MAX_WRITE_KEY_BYTES: Final = 2048
MAX_READ_KEY_BYTES: Final = 2049
"""One more than a key that can be written, so that a bound can lie behind the last key."""

_BYTES: Final = 0x01
_STRING: Final = 0x02
_LONG_NEGATIVE: Final = 0x0B
_ZERO: Final = 0x14
_LONG_POSITIVE: Final = 0x1D
_DOUBLE: Final = 0x21
_FALSE: Final = 0x26
_TRUE: Final = 0x27

_VERSIONSTAMP: Final = re.compile("[0-9a-fA-F]{20}")

_NUL: Final = b"\x00"
_ESCAPED_NUL: Final = b"\x00\xff"
_MAX_SHORT_INT_BYTES: Final = 8
_MAX_INT_BYTES: Final = 255
_ALL_ONES: Final = 0xFF
_SIGN_BIT: Final = 1 << 63
_ALL_BITS: Final = (1 << 64) - 1
_QUIET_NAN_BITS: Final = 0x7FF8_0000_0000_0000


def encode_key(key: SetKey) -> bytes:
    """Encode a key of any length, also an empty one.

    `True`, `1` and `1.0` are three keys, and so are `-0.0` and `0.0`; every NaN of one sign is
    the same key. A lone surrogate becomes U+FFFD. `bytearray` and `memoryview` count as bytes.

    Args:
        key: a list or tuple. An int takes at most 255 bytes.

    Raises:
        InvalidKeyError: the key is no list or tuple, or a part is of another type.
    """
    if not isinstance(key, (list, tuple)):
        msg = (
            f"A key is a list or tuple of parts: received {shown(key)}. Write `(part, …)`, "
            "with a comma behind a single part."
        )
        raise InvalidKeyError(msg)
    return b"".join([_encode_part(part, index) for index, part in enumerate(key)])


def encode_key_for_write(key: SetKey) -> bytes:
    """Encode a key that is to be set, deleted or checked.

    Args:
        key: 1 part or more, at most 2,048 bytes encoded; else as for `encode_key`.

    Raises:
        InvalidKeyError: the key is empty, too large, or not a key at all.
    """
    encoded = encode_key(key)
    if not encoded:
        msg = f"key cannot be empty: received {key!r}. Give it at least one part."
        raise InvalidKeyError(msg)
    return _within(encoded, "write", MAX_WRITE_KEY_BYTES)


def encode_key_for_set(key: SetKey) -> tuple[bytes, bool]:
    """Encode a key that is to be set.

    Args:
        key: as for `encode_key_for_write`; `commit_versionstamp()` may be its last part.

    Returns:
        The encoded key, and whether a commit's versionstamp is to be added to it.

    Raises:
        InvalidKeyError: as `encode_key_for_write`.
    """
    if not isinstance(key, (list, tuple)) or not key or key[-1] is not _COMMIT_VERSIONSTAMP:
        return encode_key_for_write(key), False
    encoded = encode_key(key[:-1])
    _within(with_versionstamp(encoded, 0), "write", MAX_WRITE_KEY_BYTES)
    return encoded, True


def commit_versionstamp() -> CommitVersionstamp:
    """Stand for the versionstamp of the commit, as the last part of the key of a `set`.

    Such keys list in the order of their commits:

        await kv.set(("log", commit_versionstamp()), line)
    """
    return _COMMIT_VERSIONSTAMP


def encode_key_for_read(key: Key) -> bytes:
    """Encode a key that is to be read, or that bounds a list. It may be empty.

    Args:
        key: at most 2,049 bytes encoded; else as for `encode_key`.

    Raises:
        InvalidKeyError: the key is too large, or not a key at all.
    """
    return _within(encode_key(key), "read", MAX_READ_KEY_BYTES)


def decode_key(data: bytes) -> tuple[KeyPart, ...]:
    """Decode what `encode_key` made; encoding the result gives the same bytes again.

    Raises:
        InvalidKeyError: no key encodes to these bytes.
    """
    parts: list[KeyPart] = []
    at = 0
    while at < len(data):
        part, at = _decode_part(data, at)
        parts.append(part)
    return tuple(parts)


def versionstamp_of(version: int) -> str:
    """How a version is written: 20 hex digits, which sort as the commits did."""
    return f"{version:016x}0000"


def version_of(versionstamp: str) -> int:
    """The version that `versionstamp_of` wrote; -1, which nothing has, for any other text."""
    if not _VERSIONSTAMP.fullmatch(versionstamp) or not versionstamp.endswith("0000"):
        return -1
    return int(versionstamp[:16], 16)


def is_versionstamp(text: object) -> bool:
    """Whether it is 20 hex digits, in either case of letters."""
    return isinstance(text, str) and _VERSIONSTAMP.fullmatch(text) is not None


def with_versionstamp(encoded: bytes, version: int) -> bytes:
    """Add a commit's versionstamp to an encoded key, as its last part."""
    return encoded + _escaped(_STRING, versionstamp_of(version).encode())


def _within(encoded: bytes, use: str, limit_bytes: int) -> bytes:
    if len(encoded) > limit_bytes:
        msg = (
            f"Key too large for {use} (max {limit_bytes} bytes): it takes {len(encoded)} bytes. "
            "Shorten its parts, or use a digest of the longest."
        )
        raise InvalidKeyError(msg)
    return encoded


def _encode_part(part: object, index: int) -> bytes:
    # the usual part first, because keys are encoded at every call
    if type(part) is str and "\0" not in part and part.isascii():
        return b"\x02" + part.encode() + _NUL
    # bool before int, because it is one
    if isinstance(part, bool):
        return bytes([_TRUE if part else _FALSE])
    if isinstance(part, str):
        return _escaped(_STRING, _utf8(part))
    if isinstance(part, int):
        return _encode_int(part, index)
    if isinstance(part, float):
        return _encode_float(part)
    if isinstance(part, (bytes, bytearray, memoryview)):
        return _escaped(_BYTES, bytes(part))
    if part is _COMMIT_VERSIONSTAMP:
        msg = (
            f"commit_versionstamp() is at index {index} of a key. It stands for the versionstamp "
            "of a commit only as the last part of a key that is set."
        )
        raise InvalidKeyError(msg)
    msg = (
        "expected string, number, bigint, ArrayBufferView, boolean: "
        f"received {shown(part)} at index {index}. "
        "Use str, float, int, bytes or bool, such as `str(…)` of the part."
    )
    raise InvalidKeyError(msg)


def _escaped(tag: int, raw: bytes) -> bytes:
    return bytes([tag]) + raw.replace(_NUL, _ESCAPED_NUL) + _NUL


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # by way of UTF-16, because there two surrogates that belong together are one character
        units = text.encode("utf-16-le", "surrogatepass")
        return units.decode("utf-16-le", "replace").encode()


def _encode_int(number: int, index: int = 0) -> bytes:
    size = (number.bit_length() + 7) // 8
    if size > _MAX_INT_BYTES:
        msg = (
            "Invalid mutation: BigUint requires more than 255 bytes to be represented: "
            f"the int at index {index} takes {size} bytes. Use its bytes or a digest of them."
        )
        raise InvalidKeyError(msg)
    negative = number < 0
    if size <= _MAX_SHORT_INT_BYTES:
        head = bytes([_ZERO - size if negative else _ZERO + size])
    else:
        head = bytes([_LONG_NEGATIVE, 255 - size] if negative else [_LONG_POSITIVE, size])
    # one's complement, because then the larger magnitude sorts first
    magnitude = number + _complement(size) if negative else number
    return head + magnitude.to_bytes(size, "big")


def _complement(size: int) -> int:
    return (1 << 8 * size) - 1


def _encode_float(number: float) -> bytes:
    negative = math.copysign(1.0, number) < 0
    (bits,) = struct.unpack(">Q", struct.pack(">d", number))
    if math.isnan(number):
        bits = _QUIET_NAN_BITS | (_SIGN_BIT if negative else 0)
    return struct.pack(">BQ", _DOUBLE, bits ^ (_ALL_BITS if negative else _SIGN_BIT))


def _decode_part(data: bytes, at: int) -> tuple[KeyPart, int]:
    tag = data[at]
    if tag in (_BYTES, _STRING):
        return _decode_escaped(data, at)
    if _LONG_NEGATIVE <= tag <= _LONG_POSITIVE:
        return _decode_int(data, at)
    if tag == _DOUBLE:
        return _decode_float(data, at)
    if tag in (_FALSE, _TRUE):
        return tag == _TRUE, at + 1
    raise _malformed(data, at)


def _decode_escaped(data: bytes, at: int) -> tuple[bytes | str, int]:
    end = data.find(_NUL, at + 1)
    has_nul = False
    while end >= 0 and data.startswith(_ESCAPED_NUL, end):
        has_nul = True
        end = data.find(_NUL, end + len(_ESCAPED_NUL))
    if end < 0:
        raise _malformed(data, at)
    raw = data[at + 1 : end]
    if has_nul:
        raw = raw.replace(_ESCAPED_NUL, _NUL)
    if data[at] == _BYTES:
        return raw, end + 1
    try:
        return raw.decode(), end + 1
    except UnicodeDecodeError as exc:
        raise _malformed(data, at) from exc


def _decode_int(data: bytes, at: int) -> tuple[int, int]:
    size = abs(data[at] - _ZERO)
    start = at + 1
    negative = data[at] < _ZERO
    shortest = 0
    if size > _MAX_SHORT_INT_BYTES:
        if start == len(data):
            raise _malformed(data, at)
        size = 255 - data[start] if negative else data[start]
        start += 1
        shortest = _MAX_SHORT_INT_BYTES + 1
    end = start + size
    # refuses what was cut off, and zeros in front, which would make two keys of one
    if end > len(data) or size < shortest:
        raise _malformed(data, at)
    if size and data[start] == (_ALL_ONES if negative else 0):
        raise _malformed(data, at)
    number = int.from_bytes(data[start:end], "big")
    return (number - _complement(size) if negative else number), end


def _decode_float(data: bytes, at: int) -> tuple[float, int]:
    end = at + 9
    if end > len(data):
        raise _malformed(data, at)
    bits = int.from_bytes(data[at + 1 : end], "big")
    bits ^= _SIGN_BIT if bits & _SIGN_BIT else _ALL_BITS
    (number,) = struct.unpack(">d", struct.pack(">Q", bits))
    if _encode_float(number) != data[at:end]:
        raise _malformed(data, at)
    return number, end


def _malformed(data: bytes, at: int) -> InvalidKeyError:
    return InvalidKeyError(
        f"No key encodes to these bytes: {data.hex()!r:.80}, wrong from byte {at} on. "
        "Another program wrote them; delete the row."
    )
