"""Cases 15, 16, 31 to 33 and 38: counters, and sums of plain numbers."""

import asyncio
import math
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from kvqueue_fastapi import AtomicOperation, Kv, KvU64
from kvqueue_fastapi.testing import FakeClock

KEY = ("a",)
MAX_U64 = 2**64 - 1
KINDS = ["sum", "min", "max"]

Way = Callable[[Kv, str, Any], AtomicOperation]


def by_method(kv: Kv, kind: str, operand: Any) -> AtomicOperation:
    operation: AtomicOperation = getattr(kv.atomic(), kind)(KEY, operand)
    return operation


def by_mapping(kv: Kv, kind: str, operand: Any) -> AtomicOperation:
    return kv.atomic().mutate({"type": kind, "key": KEY, "value": operand})


def by_counter(kv: Kv, kind: str, operand: Any) -> AtomicOperation:
    return by_mapping(kv, kind, KvU64(operand))


both_ways = pytest.mark.parametrize("way", [by_method, by_counter])


async def count(kv: Kv) -> Any:
    return (await kv.get(KEY)).value


@pytest.mark.case(15)
@pytest.mark.parametrize(
    ("number", "error", "text"),
    [
        (2**64, ValueError, "Value must fit in a 64-bit unsigned integer: received 184467440737"),
        (10**5000, ValueError, "Value must fit in a 64-bit unsigned integer"),
        (-1, ValueError, "Value must be a positive bigint: received -1"),
        (-(10**5000), ValueError, "Value must be a positive bigint"),
        (1.0, TypeError, r"Value must be a bigint: received 1\.0"),
        (True, TypeError, "Value must be a bigint: received True"),
        ("1", TypeError, "Value must be a bigint"),
        (None, TypeError, "Value must be a bigint"),
        (KvU64(1), TypeError, "Value must be a bigint"),
    ],
    ids=["2^64", "unprintable", "-1", "-unprintable", "float", "bool", "str", "None", "itself"],
)
def test_counter_takes_a_whole_number_of_64_bits(
    number: Any, error: type[Exception], text: str
) -> None:
    assert (KvU64(0).value, KvU64(MAX_U64).value) == (0, MAX_U64)

    with pytest.raises(error, match=f"^{text}"):
        KvU64(number)


@pytest.mark.case(15)
def test_counters_are_equal_by_value_and_no_ints() -> None:
    one = KvU64(1)

    assert one == KvU64(1)
    assert one != KvU64(2)
    assert one != 1
    assert len({one, KvU64(1), KvU64(2)}) == 2
    assert [str(one), int(one), range(5)[one]] == ["1", 1, 1]
    assert max(KvU64(9), KvU64(10)) == KvU64(10)


@pytest.mark.case(15)
def test_counter_cannot_be_changed() -> None:
    one: Any = KvU64(1)

    with pytest.raises(AttributeError):
        one.value = 2

    assert one == KvU64(1)


@pytest.mark.case(16)
@pytest.mark.parametrize("number", [0, 42, 255, 256, 2**63, MAX_U64])
async def test_counter_comes_back_as_a_counter(kv: Kv, number: int) -> None:
    await kv.set(KEY, KvU64(number))

    value = (await kv.get(KEY)).value

    assert type(value) is KvU64
    assert value == KvU64(number)
    assert (await kv.get(KEY, KvU64)).value == KvU64(number)


@pytest.mark.case(16)
async def test_counter_can_be_read_as_an_int_where_one_asks_for_it(kv: Kv) -> None:
    await kv.set(KEY, KvU64(MAX_U64))

    value = (await kv.get(KEY, int)).value

    assert (type(value), value) == (int, MAX_U64)
    assert (await kv.get(KEY, Annotated[int, Field(gt=5)])).value == MAX_U64


@pytest.mark.case(31)
@both_ways
@pytest.mark.parametrize(
    ("kind", "before", "operand", "after"),
    [
        ("sum", 10, 1, 11), ("sum", 42, 0, 42), ("sum", 0, MAX_U64, MAX_U64),
        ("min", 10, 5, 5), ("min", 5, 15, 5), ("min", 5, 5, 5),
        ("min", 2**63, 2**63 - 1, 2**63 - 1),
        ("max", 10, 5, 10), ("max", 10, 15, 15), ("max", 2**63 - 1, 2**63, 2**63),
        ("max", 255, 256, 256), ("min", 255, 256, 255),
    ],
)  # fmt: skip
async def test_arithmetic_changes_a_counter(
    kv: Kv, way: Way, kind: str, before: int, operand: int, after: int
) -> None:
    await kv.set(KEY, KvU64(before))

    committed = await way(kv, kind, operand).commit()

    entry = await kv.get(KEY)
    assert committed.ok
    assert (entry.value, entry.versionstamp) == (KvU64(after), committed.versionstamp)


@pytest.mark.case(31)
@both_ways
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operand", [0, 1, MAX_U64])
async def test_absent_key_becomes_the_operand(kv: Kv, way: Way, kind: str, operand: int) -> None:
    await way(kv, kind, operand).commit()

    assert await count(kv) == KvU64(operand)


@pytest.mark.case(31)
@both_ways
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", [1, 1.5, "1", None, True, [1], {"value": 1}, b"\1" + bytes(7)])
async def test_value_in_the_database_that_is_no_counter_is_refused(
    kv: Kv, way: Way, kind: str, stored: Any
) -> None:
    committed = await kv.set(KEY, stored)
    text = f"^Failed to perform '{kind}' mutation on a non-U64 value in the database"

    with pytest.raises(TypeError, match=text):
        await way(kv, kind, 1).commit()

    entry = await kv.get(KEY)
    assert (entry.value, entry.versionstamp) == (stored, committed.versionstamp)


@pytest.mark.case(31)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operand", [1.0, -1, 2**64, True, "1", None, b"1"])
async def test_operand_of_a_method_is_a_whole_number_of_64_bits(
    kv: Kv, kind: str, operand: Any
) -> None:
    await kv.set(KEY, KvU64(1))

    with pytest.raises(TypeError, match=r"^Value must "):
        by_method(kv, kind, operand)

    assert await count(kv) == KvU64(1)


@pytest.mark.case(31)
@pytest.mark.parametrize("kind", ["min", "max"])
@pytest.mark.parametrize("operand", [1, 1.5, "1", None, True])
async def test_min_and_max_of_a_mapping_take_counters_alone(
    kv: Kv, kind: str, operand: Any
) -> None:
    await kv.set(KEY, KvU64(1))

    with pytest.raises(TypeError, match=f"^Failed to perform '{kind}' mutation on a non-U64 opera"):
        await by_mapping(kv, kind, operand).commit()

    assert await count(kv) == KvU64(1)


@pytest.mark.case(31)
@pytest.mark.parametrize("operand", ["1", None, True, b"1", [1], 1j])
async def test_sum_of_a_mapping_takes_numbers_alone(kv: Kv, operand: Any) -> None:
    await kv.set(KEY, 1)

    with pytest.raises(TypeError, match=r"^unsupported value type"):
        await by_mapping(kv, "sum", operand).commit()

    assert await count(kv) == 1


@pytest.mark.case(31)
@pytest.mark.parametrize(
    ("before", "operand", "after"),
    [
        (1.5, 2.0, 3.5), (1, -5, -4), (2, 3, 5), (1, 1.5, 2.5), (0.5, 1, 1.5),
        (2**64, 2**64, 2**65), (-0.0, 0, 0.0), (1e308, 1e308, math.inf), (math.inf, 1, math.inf),
        (KvU64(5), 1, KvU64(6)), (KvU64(5), 0, KvU64(5)),
        (KvU64(MAX_U64), MAX_U64, KvU64(MAX_U64 - 1)),
        (None, 3.5, 3.5), (None, -4, -4), (None, 0, 0),
    ],
    ids=repr,
)  # fmt: skip
async def test_plain_numbers_are_summed_too(kv: Kv, before: Any, operand: Any, after: Any) -> None:
    if before is not None:
        await kv.set(KEY, before)

    committed = await by_mapping(kv, "sum", operand).commit()

    entry = await kv.get(KEY)
    assert repr(entry.value) == repr(after)
    assert entry.versionstamp == committed.versionstamp


@pytest.mark.case(31)
@pytest.mark.parametrize("sign", [1, -1])
async def test_sum_beyond_every_float_keeps_its_sign(kv: Kv, sign: int) -> None:
    await kv.set(KEY, sign * 10**400)
    await by_mapping(kv, "sum", 1.5).commit()
    of_stored = await count(kv)
    await kv.set(KEY, 1.5)
    await by_mapping(kv, "sum", sign * 10**400).commit()

    assert (of_stored, await count(kv)) == (sign * math.inf, sign * math.inf)


@pytest.mark.case(31)
@pytest.mark.parametrize("operand", [1.0, 0.5, -1, 2**64])
async def test_counter_and_a_number_that_it_cannot_hold_are_not_summed(
    kv: Kv, operand: float
) -> None:
    await kv.set(KEY, KvU64(1))

    with pytest.raises(TypeError, match=r"^Cannot sum KvU64 with Number"):
        await by_mapping(kv, "sum", operand).commit()

    assert await count(kv) == KvU64(1)


@pytest.mark.case(31)
@pytest.mark.parametrize("stored", ["1", None, True, [1], {"value": 1}, b"\1" + bytes(7)])
async def test_plain_sum_needs_a_number_in_the_database(kv: Kv, stored: Any) -> None:
    await kv.set(KEY, stored)

    with pytest.raises(TypeError, match=r"^unsupported value type"):
        await by_mapping(kv, "sum", 1).commit()

    assert await count(kv) == stored


@pytest.mark.case(31)
async def test_expired_counter_counts_as_absent_and_a_sum_keeps_no_expiry() -> None:
    clock = FakeClock()
    async with Kv.open(":memory:", clock=clock) as kv:
        await kv.set(KEY, KvU64(5), expire_in=10)
        await kv.atomic().sum(KEY, 1).commit()
        clock.advance(11)
        kept = await count(kv)
        await kv.set(KEY, "no counter", expire_in=10)
        clock.advance(10)
        await kv.atomic().sum(KEY, 1).commit()
        begun = await count(kv)
        await kv.atomic().set(KEY, "gone at once", expire_in=0).sum(KEY, 2).commit()

        assert (kept, begun, await count(kv)) == (KvU64(6), KvU64(1), KvU64(2))


@pytest.mark.case(32)
@both_ways
async def test_sum_wraps_around_at_2_to_the_64(kv: Kv, way: Way) -> None:
    await kv.set(KEY, KvU64(MAX_U64))

    await way(kv, "sum", 10).commit()
    nine = await count(kv)
    await way(kv, "sum", MAX_U64).commit()

    assert (nine, await count(kv)) == (KvU64(9), KvU64(8))


@pytest.mark.case(33)
async def test_arithmetic_on_one_key_in_one_commit_applies_in_its_order(kv: Kv) -> None:
    rising = kv.atomic().sum(KEY, 1).sum(KEY, 2).max(KEY, 10).sum(KEY, 5).min(KEY, 12)
    await rising.commit()
    first = await count(kv)
    await kv.atomic().min(KEY, 3).max(KEY, 7).sum(KEY, MAX_U64).sum(KEY, 2).commit()

    assert (first, await count(kv)) == (KvU64(12), KvU64(8))


@pytest.mark.case(33)
async def test_arithmetic_sees_the_sets_and_deletes_before_it(kv: Kv) -> None:
    await kv.set(KEY, "no counter")

    await kv.atomic().delete(KEY).sum(KEY, 5).commit()
    after_delete = await count(kv)
    await kv.atomic().set(KEY, KvU64(40)).sum(KEY, 2).commit()
    after_set = await count(kv)
    await kv.atomic().sum(KEY, 1).set(KEY, "last").commit()

    assert (after_delete, after_set, await count(kv)) == (KvU64(5), KvU64(42), "last")


@pytest.mark.case(33)
async def test_a_thousand_counters_in_one_commit(kv: Kv) -> None:
    operation = kv.atomic()
    for number in range(1_000):
        operation.sum((number,), number)

    await operation.commit()
    await operation.commit()

    counted = [entry.value async for entry in kv.list(prefix=())]
    assert counted == [KvU64(2 * number) for number in range(1_000)]


@pytest.mark.case(33)
async def test_sums_of_many_at_once_are_all_counted(kv: Kv) -> None:
    committed = await asyncio.gather(*(kv.atomic().sum(KEY, 1).commit() for _ in range(300)))

    assert await count(kv) == KvU64(300)
    assert len({one.versionstamp for one in committed}) == 300


@pytest.mark.case(38)
async def test_twenty_on_one_file_count_to_a_hundred(tmp_path: Path) -> None:
    stamps: list[str | None] = []
    async with AsyncExitStack() as stack:
        path = str(tmp_path / "kv.db")
        stores = [await stack.enter_async_context(Kv.open(path)) for _ in range(20)]
        for _ in range(5):
            committed = [kv.atomic().sum(KEY, 1).commit() for kv in stores]
            stamps += [one.versionstamp for one in await asyncio.gather(*committed)]

        assert [await count(kv) for kv in stores] == [KvU64(100)] * 20
    assert len(set(stamps)) == 100
