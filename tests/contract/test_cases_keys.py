"""Cases 1 to 9: what a key is, how keys sort, and what is none."""

import enum
import math
import struct
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest

from kvqueue_fastapi import InvalidKeyError, Key, Kv, KvU64, commit_versionstamp
from tests.test_keys import VECTORS, read_key

WRITES: list[Callable[[Kv, Any], Awaitable[Any]]] = [
    lambda kv, key: kv.set(key, 1),
    lambda kv, key: kv.delete(key),
    lambda kv, key: kv.atomic().check(key, None).commit(),
    lambda kv, key: kv.atomic().sum(key, 1).commit(),
    lambda kv, key: kv.atomic().mutate({"type": "set", "key": key, "value": 1}).commit(),
    lambda kv, key: kv.enqueue("x", keys_if_undelivered=[key]),
]
WRITE_NAMES = ["set", "delete", "check", "sum", "mutate", "undelivered"]
READS: list[Callable[[Kv, Any], Awaitable[Any]]] = [
    lambda kv, key: kv.get(key),
    lambda kv, key: kv.get_many([("a",), key]),
    lambda kv, key: anext(aiter(kv.list(prefix=key))),
    lambda kv, key: anext(aiter(kv.watch([key]))),
]


class Number(enum.IntEnum):
    SEVEN = 7


class Text(enum.StrEnum):
    RED = "red"


class Route(NamedTuple):
    name: str
    stop: int


class Indexed:
    def __index__(self) -> int:
        return 7


async def listed(kv: Kv, *prefix: Any) -> list[tuple[Any, ...]]:
    return [entry.key async for entry in kv.list(prefix=prefix)]


def shown(keys: list[Any]) -> list[str]:
    """In a form in which 1, 1.0 and True differ, and a NaN equals itself."""
    return [repr(tuple(key)) for key in keys]


@pytest.mark.case(1)
@pytest.mark.case(2)
async def test_golden_keys_list_in_the_order_of_deno(kv: Kv) -> None:
    keys = [read_key(vector) for vector in VECTORS]
    for place, key in reversed(list(enumerate(keys))):
        await kv.set(key, place)

    entries = [entry async for entry in kv.list(prefix=())]

    assert len(keys) == 44
    assert [entry.value for entry in entries] == list(range(44))
    assert shown([entry.key for entry in entries]) == shown(keys)


@pytest.mark.case(2)
async def test_golden_keys_list_backwards_and_in_small_batches(kv: Kv) -> None:
    keys = [read_key(vector) for vector in VECTORS]
    for key in keys:
        await kv.set(key, None)

    forwards = [entry.key async for entry in kv.list(prefix=(), batch_size=3)]
    backwards = [entry.key async for entry in kv.list(prefix=(), batch_size=3, reverse=True)]

    assert shown(forwards) == shown(keys)
    assert shown(backwards) == shown(keys[::-1])


@pytest.mark.case(3)
@pytest.mark.parametrize(
    "key",
    [
        ("a",), ("a", "b"), ("a", "b", "c"), ("",),
        (1.0,), ("a", 1.0), ("a", 1.0, "b"), (math.inf,), (5e-324,),
        (1,), ("a", 1), ("a", 1, "b"), (0,), (-1,), (2**64 - 1,), (-(2**64),), (2**2040 - 1,),
        (True,), ("a", True), ("a", False, "b"),
        (b"\1\2\3",), ("a", b"\1\2\3"), ("a", b"\1\2\3", "b"), (b"",),
        (1.0, 1, True, b"\1\2\3", "a"),
    ],
    ids=lambda key: f"{key!r:.40}",
)  # fmt: skip
async def test_each_shape_of_key_is_set_got_and_listed(kv: Kv, key: Key) -> None:
    await kv.set(key, "b")

    entry = await kv.get(key)

    assert (shown([entry.key]), entry.value) == (shown([key]), "b")
    assert shown(await listed(kv)) == shown([key])


@pytest.mark.case(3)
async def test_list_and_tuple_are_the_same_key(kv: Kv) -> None:
    await kv.set(["users", 1], "Ada")

    entry = await kv.get(("users", 1))

    assert entry.value == "Ada"
    assert (await kv.get(["users", 1])).key == ("users", 1)


@pytest.mark.case(3)
@pytest.mark.parametrize(
    ("part", "plain"),
    [
        (Number.SEVEN, 7),
        (Text.RED, "red"),
        (bytearray(b"a\0"), b"a\0"),
        (memoryview(b"xa\0y")[1:3], b"a\0"),
        (memoryview(b"axbx")[::2], b"ab"),
        (memoryview(b"abcdefgh").cast("I"), b"abcdefgh"),
    ],
    ids=["IntEnum", "StrEnum", "bytearray", "a slice", "every second byte", "of ints"],
)
async def test_kin_of_the_five_types_is_the_same_key_as_the_plain_one(
    kv: Kv, part: Any, plain: Any
) -> None:
    await kv.set((part,), 1)

    assert (await kv.get((plain,))).value == 1
    assert (await kv.get((part,))).value == 1
    assert shown(await listed(kv)) == shown([(plain,)])


@pytest.mark.case(3)
async def test_named_tuple_is_a_key(kv: Kv) -> None:
    await kv.set(Route("u5", 3), "Zoo")

    assert await listed(kv, "u5") == [("u5", 3)]


@pytest.mark.case(3)
async def test_key_that_changes_after_set_was_called_is_written_as_it_was(kv: Kv) -> None:
    key: list[Any] = ["a", bytearray(b"x")]
    operation = kv.atomic().set(key, 1).check(key, None).sum(["n", key[1]], 1).delete(key[:1])

    key[1][:] = b"changed"
    key.append("b")
    await operation.commit()

    assert await listed(kv) == [("a", b"x"), ("n", b"x")]


@pytest.mark.case(3)
async def test_entry_keeps_its_key_when_the_caller_changes_what_he_asked_with(kv: Kv) -> None:
    buffer = bytearray(b"x")
    await kv.set((buffer,), 1)
    entry = await kv.get((buffer,))
    (one_of_many,) = await kv.get_many([[buffer]])

    buffer[:] = b"y"

    assert (entry.key, one_of_many.key) == ((b"x",), (b"x",))
    assert (await kv.atomic().check(entry, one_of_many).commit()).ok


@pytest.mark.case(4)
@pytest.mark.parametrize(
    "part",
    [
        None, {}, ["a"], ("a", "b"), (), datetime(2026, 1, 1, tzinfo=UTC), object(), 1j, {"a"},
        KvU64(1), Indexed(), Number, str,
    ],
    ids=lambda part: type(part).__name__,
)  # fmt: skip
async def test_part_of_another_type_writes_nothing(kv: Kv, part: Any) -> None:
    text = r"^expected string, number, bigint, ArrayBufferView, boolean: .* at index 1"
    for write in WRITES:
        with pytest.raises(TypeError, match=text):
            await write(kv, ["a", part])

    assert await listed(kv) == []


@pytest.mark.case(4)
@pytest.mark.parametrize("key", ["users", b"users", None, 5, {"a": 1}, {"a"}, iter("a"), range(3)])
async def test_key_that_is_no_list_or_tuple_is_refused(kv: Kv, key: Any) -> None:
    for use in (*WRITES, *READS):
        with pytest.raises(TypeError):
            await use(kv, key)

    assert await listed(kv) == []


@pytest.mark.case(4)
async def test_one_bad_key_leaves_the_operation_as_it_was(kv: Kv) -> None:
    operation = kv.atomic().set(("a",), 1)

    bad: Any
    for bad in (("b", None), (), "b", ("b" * 2048,)):
        with pytest.raises(InvalidKeyError):
            operation.set(bad, 2)
    await operation.commit()

    assert await listed(kv) == [("a",)]


@pytest.mark.case(5)
@pytest.mark.parametrize("key", [(), []])
async def test_empty_key_cannot_be_written(kv: Kv, key: Key) -> None:
    for write in WRITES:
        with pytest.raises(TypeError, match=r"^key cannot be empty"):
            await write(kv, key)

    assert await listed(kv) == []


@pytest.mark.case(5)
async def test_empty_key_can_be_read_and_is_absent(kv: Kv) -> None:
    await kv.set(("a",), 1)

    entry = await kv.get([])

    assert (entry.key, entry.value, entry.versionstamp) == ((), None, None)


@pytest.mark.case(6)
@pytest.mark.parametrize("write", WRITES, ids=WRITE_NAMES)
async def test_bytes_of_2047_are_too_large_to_write(kv: Kv, write: Any) -> None:
    await write(kv, (b"a" * 2046,))

    with pytest.raises(TypeError, match=r"^Key too large for write \(max 2048 bytes\)"):
        await write(kv, (b"b" * 2047,))

    assert all(len(key[0]) == 2046 for key in await listed(kv))


@pytest.mark.case(6)
async def test_bytes_of_2046_come_back_and_of_2048_are_too_large_to_read(kv: Kv) -> None:
    largest = (b"a" * 2046,)
    await kv.set(largest, 1)

    beyond = await kv.get((b"a" * 2047,))

    assert (await kv.get(largest)).value == 1
    assert await listed(kv) == [largest]
    assert beyond.versionstamp is None
    for read in READS:
        with pytest.raises(TypeError, match=r"^Key too large for read \(max 2049 bytes\)"):
            await read(kv, (b"a" * 2048,))


@pytest.mark.case(6)
async def test_limit_counts_nuls_twice_and_text_as_utf8(kv: Kv) -> None:
    await kv.set((b"\0" * 1023,), 1)
    await kv.set(("é" * 1023,), 2)

    for part in (b"\0" * 1024, "é" * 1024):
        with pytest.raises(InvalidKeyError, match="Key too large for write"):
            await kv.set((part,), 3)

    assert [entry.value async for entry in kv.list(prefix=())] == [1, 2]


@pytest.mark.case(6)
async def test_versionstamp_of_a_key_counts_into_its_size(kv: Kv) -> None:
    await kv.set((b"a" * 2024, commit_versionstamp()), 1)

    with pytest.raises(InvalidKeyError, match=r"Key too large for write .*2049"):
        await kv.set((b"a" * 2025, commit_versionstamp()), 2)

    assert [len(key[0]) for key in await listed(kv)] == [2024]


@pytest.mark.case(6)
@pytest.mark.parametrize(
    "number", [2**2040, -(2**2040), 10**5000], ids=["least", "negative", "unprintable"]
)
async def test_int_beyond_255_bytes_is_no_part(kv: Kv, number: int) -> None:
    with pytest.raises(TypeError, match="BigUint requires more than 255 bytes to be represented"):
        await kv.set((number,), 1)

    assert await listed(kv) == []


@pytest.mark.case(7)
async def test_nan_of_any_bits_is_one_key(kv: Kv) -> None:
    for bits in ("7ff8000000000000", "7ff8000000000123", "7fffffffffffffff"):
        (nan,) = struct.unpack(">d", bytes.fromhex(bits))
        await kv.set((nan,), bits)

    assert shown(await listed(kv)) == ["(nan,)"]
    assert (await kv.get((math.nan,))).value == "7fffffffffffffff"


@pytest.mark.case(7)
async def test_the_two_zeros_are_two_keys_in_their_order(kv: Kv) -> None:
    await kv.set((0.0,), "positive")
    await kv.set((-0.0,), "negative")

    assert [entry.value async for entry in kv.list(prefix=())] == ["negative", "positive"]
    assert shown(await listed(kv)) == ["(-0.0,)", "(0.0,)"]


@pytest.mark.case(8)
async def test_true_1_and_1_0_are_three_keys(kv: Kv) -> None:
    for part in (True, 1, 1.0):
        await kv.set((part,), repr(part))

    entries = await kv.get_many([(1,), (1.0,), (True,)])

    assert [entry.value for entry in entries] == ["1", "1.0", "True"]
    assert shown(await listed(kv)) == ["(1,)", "(1.0,)", "(True,)"]


@pytest.mark.case(9)
async def test_nul_and_ff_within_a_part_come_back_in_byte_order(kv: Kv) -> None:
    keys: list[Any] = [
        (b"",), (b"\0",), (b"\0", b""), (b"\0", "a"), (b"\0\0",), (b"\0\xff",), (b"\1",),
        (b"\xff",), (b"\xff\0",), (b"\xff\xff",),
        ("",), ("\0",), ("a",), ("a", b"\0"), ("a\0",), ("a\0b",), ("aa",),
    ]  # fmt: skip
    for key in reversed(keys):
        await kv.set(key, shown([key])[0])

    entries = [entry async for entry in kv.list(prefix=())]

    assert [entry.key for entry in entries] == keys
    assert [entry.value for entry in entries] == shown(keys)


@pytest.mark.case(9)
async def test_prefix_ends_where_its_part_ends(kv: Kv) -> None:
    for key in (("a",), ("a", "b"), ("a\0", "no"), ("ab", "no"), (b"a", "no"), ("a", b"\xff", 1)):
        await kv.set(key, 1)

    assert await listed(kv, "a") == [("a", b"\xff", 1), ("a", "b")]


@pytest.mark.case(9)
async def test_lone_surrogate_is_written_as_a_replacement_character(kv: Kv) -> None:
    await kv.set(("a\ud800",), 1)

    assert await listed(kv) == [("a\ufffd",)]
    assert (await kv.get(("a\udc00",))).value == 1
