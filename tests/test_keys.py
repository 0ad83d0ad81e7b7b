"""Keys as bytes: equal to Deno's, in the order of the keys, and back."""

import json
import struct
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvqueue_fastapi.errors import InvalidKeyError
from kvqueue_fastapi.keys import (
    KeyPart,
    decode_key,
    encode_key,
    encode_key_for_read,
    encode_key_for_write,
)

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "vectors" / "deno_keys.json").read_text(encoding="utf-8")
)
READ_PART: dict[str, Callable[[Any], KeyPart]] = {
    "bytes": bytes.fromhex,
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
}

texts = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.floats(allow_nan=False)
integers = st.one_of(st.integers(), st.integers(-(2**2040) + 1, 2**2040 - 1))
parts = st.one_of(st.binary(), texts, integers, numbers, st.booleans())
keys = st.lists(parts, max_size=4).map(tuple)


def read_key(vector: dict[str, Any]) -> tuple[KeyPart, ...]:
    return tuple(READ_PART[kind](raw) for part in vector["key"] for kind, raw in part.items())


def sort_key(key: tuple[KeyPart, ...]) -> list[tuple[int, Any]]:
    return [(rank(part), bits_in_order(part)) for part in key]


def rank(part: KeyPart) -> int:
    return [bytes, str, int, float, bool].index(type(part))


def bits_in_order(part: KeyPart) -> Any:
    if not isinstance(part, float):
        return part
    (bits,) = struct.unpack(">q", struct.pack(">d", part))
    return bits if bits >= 0 else -(bits & (2**63 - 1)) - 1


@pytest.mark.case(1)
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["hex"])
def test_golden_keys_of_deno_encode_and_decode_alike(vector: dict[str, Any]) -> None:
    key = read_key(vector)

    encoded = encode_key(key)

    assert encoded.hex() == vector["hex"]
    assert encode_key(decode_key(encoded)) == encoded


def test_golden_keys_sort_as_deno_lists_them() -> None:
    encoded = [encode_key(read_key(vector)) for vector in VECTORS]

    assert len(encoded) == 44
    assert sorted(encoded) == encoded


@settings(deadline=None)
@given(keys)
def test_any_key_comes_back_with_the_types_of_its_parts(key: tuple[KeyPart, ...]) -> None:
    decoded = decode_key(encode_key(key))

    assert decoded == key
    assert [type(part) for part in decoded] == [type(part) for part in key]


@settings(deadline=None)
@given(keys, keys)
def test_bytes_sort_as_the_keys_do(left: tuple[KeyPart, ...], right: tuple[KeyPart, ...]) -> None:
    keys_in_order = sort_key(left) < sort_key(right)

    bytes_in_order = encode_key(left) < encode_key(right)

    assert bytes_in_order == keys_in_order


@settings(deadline=None)
@given(st.binary(max_size=40) | st.lists(st.sampled_from(b"\0\1\2\x0b\x14\x1d\x21\xff")).map(bytes))
def test_any_bytes_are_one_key_or_refused(data: bytes) -> None:
    encoded = data
    with suppress(InvalidKeyError):
        encoded = encode_key(decode_key(data))

    assert encoded == data


@pytest.mark.parametrize(
    "malformed",
    [
        "00", "03", "20", "28", "ff",       # no such tag
        "01", "0261", "0161ff", "0100ff",   # no end
        "02ff00", "02eda08000",             # no UTF-8
        "16", "1601", "0c7f", "0b", "1d", "1d09", "1dff01", "0bf6fe",  # cut off
        "1500", "13ff", "160001", "1d0101", "1d08ffffffffffffffff",    # not the shortest
        "21", "21bff00000000000", "21fff8000000000001",  # cut off; a NaN of another kind
    ],
)  # fmt: skip
def test_malformed_bytes_are_refused(malformed: str) -> None:
    with pytest.raises(InvalidKeyError, match="wrong from byte"):
        decode_key(bytes.fromhex(malformed))


def test_sizes_of_ints_change_at_the_powers_of_256() -> None:
    encoded = [encode_key([number]).hex() for number in (2**64 - 1, 2**64, -(2**64) + 1, -(2**64))]

    assert encoded == [
        "1cffffffffffffffff",
        "1d09010000000000000000",
        "0c0000000000000000",
        "0bf6feffffffffffffffff",
    ]


@pytest.mark.parametrize("number", [2**2040, -(2**2040)])
def test_int_of_more_than_255_bytes_is_refused(number: int) -> None:
    largest = encode_key([number - 1 if number > 0 else number + 1])

    with pytest.raises(InvalidKeyError, match=r"BigUint requires more than 255 bytes.*index 1"):
        encode_key(["a", number])

    assert len(largest) == 257


def test_nan_is_one_key_whatever_its_bits_and_zero_is_two() -> None:
    (odd_nan,) = struct.unpack(">d", bytes.fromhex("7ff8000000000123"))

    nans = {encode_key([nan]) for nan in (float("nan"), odd_nan, -float("-nan"))}
    zeros = [encode_key([zero]) for zero in (-0.0, 0.0)]

    assert nans == {bytes.fromhex("21fff8000000000000")}
    assert zeros[0] < zeros[1]


def test_negative_nan_sorts_before_all_numbers() -> None:
    numbers_in_order = [-float("nan"), float("-inf"), -1.0, 0.0, float("inf"), float("nan")]

    encoded = [encode_key([number]) for number in numbers_in_order]

    assert sorted(encoded) == encoded
    assert encode_key(decode_key(encoded[0])) == encoded[0]


def test_true_1_and_1_0_are_three_keys_in_the_order_of_their_types() -> None:
    in_order: list[KeyPart] = [b"z", "z", 10**30, float("nan"), False, True]

    encoded = [encode_key([part]) for part in in_order]

    assert sorted(encoded) == encoded
    assert len({encode_key([part]) for part in (True, 1, 1.0)}) == 3


def test_nul_and_ff_come_back_and_keep_the_order() -> None:
    in_order: list[list[KeyPart]] = [[b"\0"], [b"\0", b"a"], [b"\0\xff"], [b"\0\xff\xff"], [b"\1"]]

    encoded = [encode_key(key) for key in in_order]

    assert sorted(encoded) == encoded
    assert [list(decode_key(data)) for data in encoded] == in_order
    assert decode_key(encode_key(["a\0b"])) == ("a\0b",)


def test_lone_surrogates_become_replacement_characters() -> None:
    decoded = decode_key(encode_key(["a\ud800b", "\udc00", "\ud83d", "\ud83d\ude00", "\ud83dé"]))

    assert decoded == ("a\ufffdb", "\ufffd", "\ufffd", "😀", "\ufffdé")


def test_other_byte_strings_count_as_bytes() -> None:
    key: list[Any] = [bytearray(b"a\0"), memoryview(b"xbx")[1:2]]

    assert decode_key(encode_key(key)) == (b"a\0", b"b")


@pytest.mark.parametrize(
    "part", [None, {}, ["a"], ("a",), object(), datetime(2026, 1, 1, tzinfo=UTC), 1j]
)
def test_part_of_another_type_is_named_with_its_index(part: Any) -> None:
    with pytest.raises(InvalidKeyError) as caught:
        encode_key(["users", part])

    assert isinstance(caught.value, TypeError)
    assert str(caught.value).startswith(
        "expected string, number, bigint, ArrayBufferView, boolean: received "
    )
    assert f"{part!r:.80} at index 1. Use str" in str(caught.value)


@pytest.mark.parametrize("key", ["users", b"users", None, 5, {"a": 1}, {"a"}, iter("a")])
def test_key_that_is_no_list_or_tuple_is_refused(key: Any) -> None:
    with pytest.raises(InvalidKeyError, match="A key is a list or tuple of parts: received"):
        encode_key(key)


def test_error_bears_a_part_that_python_refuses_to_print() -> None:
    unprintable: Any = [10**5000]

    with pytest.raises(InvalidKeyError, match="received a list at index 0"):
        encode_key([unprintable])


def test_empty_key_can_be_read_but_not_written() -> None:
    with pytest.raises(InvalidKeyError, match=r"^key cannot be empty: received"):
        encode_key_for_write(())

    assert encode_key_for_read(()) == b""
    assert decode_key(b"") == ()


def test_key_that_is_too_large_is_refused_with_its_size() -> None:
    largest = encode_key_for_write([b"a" * 2046])
    bound = encode_key_for_read([b"a" * 2047])

    with pytest.raises(InvalidKeyError, match=r"^Key too large for write \(max 2048 bytes\).*2049"):
        encode_key_for_write([b"a" * 2047])
    with pytest.raises(InvalidKeyError, match=r"^Key too large for read \(max 2049 bytes\).*2050"):
        encode_key_for_read([b"a" * 2048])

    assert (len(largest), len(bound)) == (2048, 2049)
