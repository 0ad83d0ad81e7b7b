"""Cases 10 to 14: what a value is, how it comes back, and what is none."""

import asyncio
import dataclasses
import enum
import math
import re
import threading
from collections import Counter, OrderedDict, deque
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from kvqueue_fastapi import (
    InvalidOptionError,
    Kv,
    KvQueueSettings,
    KvU64,
    PayloadError,
    PayloadTooLargeError,
)

KEY = ("a",)


class Colour(enum.Enum):
    RED = "r"


class Level(enum.IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    label: str


class Labels(TypedDict):
    at: datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    price: Decimal
    tags: set[str]
    inner: "Item | None" = None


class Order(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    id: UUID
    at: datetime
    items: list[Item]
    colour: Colour = Colour.RED
    total: Decimal = Field(default=Decimal("1.10"), alias="sum")
    raw: Base64Bytes = b"\xff\0"
    parent: "Order | None" = None


class Cat(BaseModel):
    name: str


class Dog(BaseModel):
    name: str


AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ITEM = Item(Decimal("0.10"), {"a", "b"}, Item(Decimal(0), set()))
ORDER = Order(id=UUID(int=7), at=AT, items=[ITEM], parent=Order(id=UUID(int=8), at=AT, items=[]))


async def absent(kv: Kv) -> bool:
    return (await kv.get(KEY)).versionstamp is None


@pytest.mark.case(10)
@pytest.mark.parametrize(
    "value",
    [
        "hello", "", "é\0\U0001f600", '"\\',
        42, 0, -1, 2**53 + 1, 2**63, 2**64, -(10**1000),
        1.5, 1.0, -0.0, 1e16, 1e22, 5e-324, 1e308, 0.1, math.inf, -math.inf,
        True, False, None,
        [], [1, 2, 3], [[1, 2], [3, 4]], [1, 1.0, True, None, "1"],
        {}, {"a": 1, "b": 2}, {"": {"b": [{}]}}, {"b": 1, "a": 2},
        b"", b"\1\2\3", b"\xff\0\xfe", b"null", b"1",
    ],
    ids=lambda value: f"{value!r:.30}",
)  # fmt: skip
async def test_value_comes_back_equal_and_of_its_type(kv: Kv, value: Any) -> None:
    await kv.set(KEY, value)

    entry = await kv.get(KEY)
    (listed,) = [entry async for entry in kv.list(prefix=())]

    assert (repr(entry.value), entry.key) == (repr(value), KEY)
    assert (repr(listed.value), listed.versionstamp) == (repr(value), entry.versionstamp)


@pytest.mark.case(10)
async def test_nan_comes_back_as_nan(kv: Kv) -> None:
    await kv.set(KEY, [math.nan])

    assert math.isnan((await kv.get(KEY)).value[0])
    assert math.isnan(((await kv.get(KEY, list[float])).value or [0.0])[0])


@pytest.mark.case(10)
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (AT, datetime),
        (datetime(2026, 1, 2), datetime),  # noqa: DTZ001 because naive ones come back naive
        (AT.astimezone(timezone(timedelta(hours=5, minutes=30))), datetime),
        (date(2026, 1, 2), date),
        (time(1, 2, 3, 4), time),
        (timedelta(days=-1, microseconds=1), timedelta),
        (b"\xff\0", bytes),
        (Decimal("1.10"), Decimal),
        (Decimal("1E+400"), Decimal),
        (UUID(int=7), UUID),
        (Colour.RED, Colour),
        (Level.HIGH, Level),
        (1 + 2j, complex),
        (Path("/a/b"), Path),
        (IPv4Address("10.0.0.1"), IPv4Address),
        (re.compile("a+"), re.Pattern[str]),
        ({3, 1}, set[int]),
        (frozenset({AT}), frozenset[datetime]),
        ((1, "a", AT), tuple[int, str, datetime]),
        (deque([1, 2]), deque[int]),
        (Counter("aab"), Counter[str]),
        (OrderedDict(b=1, a=2), OrderedDict[str, int]),
        ({1: Colour.RED}, dict[int, Colour]),
        ({UUID(int=1): {date(2026, 1, 1): [ITEM]}}, dict[UUID, dict[date, list[Item]]]),
        (Point(1, "p"), Point),
        ({"at": AT}, Labels),
        (ITEM, Item),
        (ORDER, Order),
        ([ORDER, None], list[Order | None]),
        ("on", Literal["on", "off"]),
        ([b"text"], list[bytes]),
    ],
    ids=lambda given: f"{given!r:.30}",
)
async def test_value_outside_json_comes_back_as_itself_through_a_typed_read(
    kv: Kv, value: Any, kind: Any
) -> None:
    await kv.set(KEY, value)

    entry = await kv.get(KEY, kind)
    (one_of_many, _) = await kv.get_many([KEY, ("absent",)], kind)
    (listed,) = [entry async for entry in kv.list(prefix=(), type=kind)]
    shown = await anext(kv.watch([KEY], kind))

    for found in (entry, one_of_many, listed, *shown):
        assert found.value == value
        assert type(found.value) is type(value)


@pytest.mark.case(10)
async def test_model_comes_as_a_dict_through_an_untyped_read(kv: Kv) -> None:
    await kv.set(KEY, Order(id=UUID(int=7), at=AT, items=[], sum=Decimal("2.50")))

    value = (await kv.get(KEY)).value

    assert value["sum"] == "2.50"
    assert value["at"] == "2026-01-02T03:04:05.678901Z"


@pytest.mark.case(10)
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"name": 1}, Cat),
        (None, Cat),
        (b'{"name": "Tom"}', Cat),
        (KvU64(1), Cat),
        ("soon", datetime),
        ([1, "x"], list[int]),
        (b"\xff", str),
        (KvU64(1), str),
        (1, KvU64),
        (KvU64(0), Annotated[int, Field(gt=0)]),
    ],
    ids=lambda given: f"{given!r:.30}",
)
async def test_value_of_another_type_is_refused_when_read(kv: Kv, value: Any, kind: Any) -> None:
    await kv.set(KEY, value)

    with pytest.raises(PayloadError, match=r"^Key \('a',\): Value "):
        await kv.get(KEY, kind)

    assert (await kv.get(("absent",), kind)).value is None


@pytest.mark.case(10)
async def test_type_that_pydantic_cannot_check_is_refused(kv: Kv) -> None:
    await kv.set(KEY, 1)

    for kind in (threading.Event, asyncio.Event):
        with pytest.raises(InvalidOptionError, match="which pydantic cannot check"):
            await kv.get(KEY, kind)


@pytest.mark.case(10)
async def test_union_is_read_in_its_own_order_whatever_was_read_before(kv: Kv) -> None:
    cat_or_dog: Any = Cat | Dog
    dog_or_cat: Any = Dog | Cat
    await kv.set(KEY, {"name": "Rex"})

    first = await kv.get(KEY, cat_or_dog)
    second = await kv.get(KEY, dog_or_cat)

    assert first.value == Cat(name="Rex")
    assert second.value == Dog(name="Rex")


@pytest.mark.case(10)
async def test_value_that_changes_after_set_was_called_is_written_as_it_was(kv: Kv) -> None:
    buffer, numbers, cat = bytearray(b"x"), [1], Cat(name="Tom")
    operation = kv.atomic().set((0,), buffer).set((1,), memoryview(buffer)).set((2,), numbers)
    operation.set((3,), cat).mutate({"type": "set", "key": (4,), "value": numbers})

    buffer[:] = b"y"
    numbers.append(2)
    cat.name = "Rex"
    await operation.commit()

    written = [entry.value async for entry in kv.list(prefix=())]
    assert written == [b"x", b"x", [1], {"name": "Tom"}, [1]]


@pytest.mark.case(10)
@pytest.mark.parametrize(
    ("value", "written"),
    [
        (bytearray(b"a\xff"), b"a\xff"),
        (memoryview(b"axbx")[::2], b"ab"),
        (memoryview(bytes(8)).cast("I"), bytes(8)),
        ((1, 2), [1, 2]),
        ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
        (Level.HIGH, 3),
        ([KvU64(5)], [{"value": 5}]),
    ],
    ids=["bytearray", "every second byte", "of ints", "tuple", "keys", "IntEnum", "nested U64"],
)
async def test_kin_of_a_value_is_written_as_the_plain_one(kv: Kv, value: Any, written: Any) -> None:
    await kv.set(KEY, value)

    assert repr((await kv.get(KEY)).value) == repr(written)


@pytest.mark.case(11)
async def test_value_that_holds_itself_is_refused(kv: Kv) -> None:
    loop: dict[str, Any] = {}
    loop["a"] = [loop]

    with pytest.raises(TypeError, match=r"cannot be encoded as JSON: .*Circular reference"):
        await kv.set(KEY, loop)

    assert await absent(kv)


@pytest.mark.case(11)
async def test_nesting_of_200_is_the_deepest(kv: Kv) -> None:
    deepest: Any = 1
    for _ in range(200):
        deepest = [deepest]
    await kv.set(("b",), deepest)

    with pytest.raises(PayloadError, match="200 levels are the limit"):
        await kv.set(KEY, [deepest])

    assert (await kv.get(("b",))).value == deepest
    assert await absent(kv)


@pytest.mark.case(12)
@pytest.mark.parametrize(
    "value",
    [
        lambda: None, print, int, object(), asyncio, ValueError("x"), threading.Lock(),
        {"a": [object()]}, {"a": threading.Lock()}, range(3), {}.keys(), ...,
        "\ud800", {"\ud800": 1}, [b"\xff"],
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
async def test_value_that_cannot_be_written_leaves_the_key_absent(kv: Kv, value: Any) -> None:
    with pytest.raises(TypeError, match=r"Value of type .* cannot be encoded as JSON"):
        await kv.set(KEY, value)
    with pytest.raises(PayloadError):
        kv.atomic().mutate({"type": "set", "key": KEY, "value": value})

    assert await absent(kv)


@pytest.mark.case(12)
async def test_operation_goes_on_without_the_value_that_it_refused(kv: Kv) -> None:
    operation = kv.atomic().set(("b",), 1)

    with pytest.raises(PayloadError):
        operation.set(KEY, object())
    await operation.commit()

    assert await absent(kv)
    assert (await kv.get(("b",))).value == 1


@pytest.mark.case(12)
async def test_int_that_nobody_could_read_back_is_refused(kv: Kv) -> None:
    largest = 10**4299
    await kv.set(("b",), [largest])

    for unreadable in (10**4300, -(10**4300), [10**5000]):
        with pytest.raises(PayloadError):
            await kv.set(KEY, unreadable)

    assert (await kv.get(("b",))).value == [largest]
    assert await absent(kv)


@pytest.mark.case(13)
async def test_value_of_65536_bytes_is_the_largest(kv: Kv) -> None:
    for value in (bytes(65_536), "x" * 65_534, "é" * 32_767, [0] * 32_766 + [10]):
        await kv.set(KEY, value)
        assert (await kv.get(KEY)).value == value

    for value in (bytes(65_537), "x" * 65_535, "é" * 32_767 + "x", [0] * 32_766 + [100]):
        with pytest.raises(TypeError, match=r"^Value too large \(max 65536 bytes\).*65537"):
            await kv.set(("b",), value)

    assert [entry.key async for entry in kv.list(prefix=())] == [KEY]


@pytest.mark.case(13)
@pytest.mark.parametrize("limit", [10, 100_000])
async def test_limit_of_values_is_a_setting(url: str, limit: int) -> None:
    async with Kv.open(url, settings=KvQueueSettings(max_payload_bytes=limit)) as kv:
        await kv.set(KEY, bytes(limit))
        await kv.set(("n",), KvU64(2**64 - 1))

        with pytest.raises(PayloadTooLargeError, match=rf"Value too large \(max {limit}") as caught:
            await kv.set(("b",), bytes(limit + 1))

        assert (caught.value.size_bytes, caught.value.limit_bytes) == (limit + 1, limit)
        assert (await kv.get(KEY)).value == bytes(limit)


@pytest.mark.case(14)
async def test_none_that_was_set_has_a_versionstamp(kv: Kv) -> None:
    committed = await kv.set(KEY, None)

    entry = await kv.get(KEY)

    assert (entry.value, entry.versionstamp) == (None, committed.versionstamp)
    assert not (await kv.atomic().check(KEY, None).commit()).ok
