"""Cases 40 to 50: what a list selects, in which order, how far, and where the next one goes on."""

import itertools
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kvqueue_fastapi import InvalidKeyError, InvalidOptionError, Kv, KvU64, PayloadError

DATA: dict[tuple[str, ...], int] = {
    ("a",): -1,
    ("a", "a"): 0,
    ("a", "b"): 1,
    ("a", "c"): 2,
    ("a", "d"): 3,
    ("a", "e"): 4,
    ("b",): 99,
    ("b", "a"): 100,
}
A = ("a",)
PREFIXES = [
    ({"prefix": A}, [0, 1, 2, 3, 4]),
    ({"prefix": ["a"]}, [0, 1, 2, 3, 4]),
    ({"prefix": ("b",)}, [100]),
    ({"prefix": ()}, [-1, 0, 1, 2, 3, 4, 99, 100]),
    ({"prefix": ("c",)}, []),
    ({"prefix": ("a", "f")}, []),
    ({"prefix": (b"a",)}, []),
]
BOUNDED = [
    ({"prefix": A, "start": ("a", "c")}, [2, 3, 4]),
    ({"prefix": A, "start": ("a", "a")}, [0, 1, 2, 3, 4]),
    ({"prefix": A, "start": ("a", "bb")}, [2, 3, 4]),
    ({"prefix": A, "start": ("a", "f")}, []),
    ({"prefix": A, "end": ("a", "c")}, [0, 1]),
    ({"prefix": A, "end": ("a", "c", "x")}, [0, 1, 2]),
    ({"prefix": A, "end": ("a", "a")}, []),
    ({"prefix": A, "end": ("a", "z")}, [0, 1, 2, 3, 4]),
    ({"prefix": (), "start": ("a", "e")}, [4, 99, 100]),
    ({"prefix": (), "end": ("a", "a")}, [-1]),
]
RANGES = [
    ({"start": ("a", "a"), "end": ("a", "z")}, [0, 1, 2, 3, 4]),
    ({"start": A, "end": ("a", "d")}, [-1, 0, 1, 2]),
    ({"start": ("a", "b"), "end": ("a", "d")}, [1, 2]),
    ({"start": ("a", "e"), "end": ("b", "a")}, [4, 99]),
    ({"start": A, "end": ("b",)}, [-1, 0, 1, 2, 3, 4]),
    ({"start": (), "end": ("b", "b")}, [-1, 0, 1, 2, 3, 4, 99, 100]),
    ({"start": A, "end": A}, []),
    ({"start": ("a", "f"), "end": ("a", "g")}, []),
]
SELECTIONS = [*PREFIXES, *BOUNDED, *RANGES]


@pytest.fixture
async def kv() -> AsyncIterator[Kv]:
    async with Kv.open(":memory:") as kv:
        operation = kv.atomic()
        for key, value in DATA.items():
            operation.set(key, value)
        await operation.commit()
        yield kv


async def collect(kv: Kv, **how: Any) -> list[Any]:
    return [entry.value async for entry in kv.list(**how)]


@pytest.mark.case(40)
@pytest.mark.parametrize(("selector", "values"), PREFIXES)
async def test_prefix_lists_the_keys_beneath_it_but_not_itself(
    kv: Kv, selector: dict[str, Any], values: list[int]
) -> None:
    assert await collect(kv, **selector) == values


@pytest.mark.case(40)
async def test_entry_of_a_list_is_what_get_gives(kv: Kv) -> None:
    listed = [entry async for entry in kv.list(prefix=())]

    got = [await kv.get(key) for key in DATA]

    assert [(one.key, one.value, one.versionstamp) for one in listed] == [
        (one.key, one.value, one.versionstamp) for one in got
    ]


@pytest.mark.case(41)
@pytest.mark.case(43)
@pytest.mark.parametrize(("selector", "values"), [*BOUNDED, *RANGES])
async def test_start_is_the_first_key_and_end_is_the_first_one_no_longer_listed(
    kv: Kv, selector: dict[str, Any], values: list[int]
) -> None:
    assert await collect(kv, **selector) == values


@pytest.mark.case(42)
@pytest.mark.parametrize("name", ["start", "end"])
@pytest.mark.parametrize(
    ("prefix", "bound"),
    [(A, A), (("b",), A), (A, ("b",)), (A, ("b", "a")), (A, ("ab",)), ((), ()), (A, ())],
)
async def test_bound_that_is_the_prefix_or_lies_outside_is_refused(
    kv: Kv, name: str, prefix: tuple[str, ...], bound: tuple[str, ...]
) -> None:
    text = f"{name.capitalize()} key is not in the keyspace defined by prefix"

    with pytest.raises(TypeError, match=text):
        kv.list(**{"prefix": prefix, name: bound})


@pytest.mark.case(43)
async def test_range_that_ends_before_it_starts_is_refused(kv: Kv) -> None:
    with pytest.raises(TypeError, match="Start key is greater than end key"):
        kv.list(start=("b",), end=("a",))


@pytest.mark.case(44)
@pytest.mark.parametrize(("selector", "values"), SELECTIONS)
async def test_reverse_lists_the_same_keys_from_the_last_to_the_first(
    kv: Kv, selector: dict[str, Any], values: list[int]
) -> None:
    assert await collect(kv, **selector, reverse=True) == values[::-1]


@pytest.mark.case(44)
@pytest.mark.parametrize("reverse", [1, "yes", None, False])
async def test_only_true_reverses(kv: Kv, reverse: Any) -> None:
    assert await collect(kv, prefix=A, reverse=reverse) == [0, 1, 2, 3, 4]


@pytest.mark.case(45)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("selector", "values"), SELECTIONS)
async def test_limit_cuts_a_list_off_whatever_the_size_of_its_batches(
    kv: Kv, selector: dict[str, Any], values: list[int], *, reverse: bool
) -> None:
    in_order = values[::-1] if reverse else values

    for limit, batch_size in itertools.product((1, 2, 3, 5, 8, None), (1, 2, 3, 1_000, None)):
        how = {"limit": limit, "batch_size": batch_size, "reverse": reverse}
        assert await collect(kv, **selector, **how) == in_order[:limit], how


@pytest.mark.case(46)
@pytest.mark.parametrize(
    ("reverse", "cursor", "first", "rest"),
    [(False, "AmIA", [0, 1], [2, 3, 4]), (True, "AmQA", [4, 3], [2, 1, 0])],
)
async def test_cursor_of_a_prefix_goes_on_behind_the_entry_that_came_last(
    kv: Kv, cursor: str, first: list[int], rest: list[int], *, reverse: bool
) -> None:
    beginning = kv.list(prefix=A, limit=2, reverse=reverse)

    assert [entry.value async for entry in beginning] == first
    assert beginning.cursor == cursor
    assert await collect(kv, prefix=A, cursor=cursor, reverse=reverse) == rest


@pytest.mark.case(46)
@pytest.mark.parametrize(
    ("selector", "reverse", "cursors"),
    [
        ({"prefix": A}, False, ["AmEA", "AmIA", "AmMA", "AmQA", "AmUA"]),
        ({"prefix": A}, True, ["AmUA", "AmQA", "AmMA", "AmIA", "AmEA"]),
        ({"prefix": (), "end": ("a", "b")}, False, ["AmEA", "AmEAAmEA"]),
        ({"prefix": A, "start": ("a", "d")}, False, ["AmQA", "AmUA"]),
        ({"start": ("a", "b"), "end": ("a", "d")}, False, ["YgA=", "YwA="]),
        ({"start": A, "end": ("b",)}, True, ["YQACZQA=", "YQACZAA=", "YQACYwA="]),
    ],
)
async def test_cursor_is_the_key_without_what_all_keys_of_the_list_share(
    kv: Kv, selector: dict[str, Any], cursors: list[str], *, reverse: bool
) -> None:
    entries = kv.list(**selector, reverse=reverse)

    seen = [entries.cursor async for _ in entries]

    assert seen[: len(cursors)] == cursors


@pytest.mark.case(46)
async def test_cursor_can_stand_in_a_url(kv: Kv) -> None:
    await kv.set(("raw", b"\xff\xfe"), 1)
    await kv.set(("raw", b"\xff\xff"), 2)
    entries = kv.list(prefix=("raw",), limit=1)
    await anext(entries)

    assert entries.cursor == "Af_-AA=="
    assert await collect(kv, prefix=("raw",), cursor="Af_-AA==") == [2]


@pytest.mark.case(47)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("batch_size", [None, 1, 2])
@pytest.mark.parametrize(("selector", "values"), SELECTIONS)
async def test_pages_that_follow_each_others_cursors_make_up_the_whole_list(
    kv: Kv, selector: dict[str, Any], values: list[int], batch_size: int | None, *, reverse: bool
) -> None:
    pages: list[list[int]] = []
    cursor: str | None = None
    while cursor != "":
        page = kv.list(**selector, limit=2, reverse=reverse, cursor=cursor, batch_size=batch_size)
        pages.append([entry.value async for entry in page])
        cursor = page.cursor if len(pages[-1]) == 2 else ""

    assert list(itertools.chain(*pages)) == (values[::-1] if reverse else values)


@pytest.mark.case(47)
async def test_list_that_came_to_its_end_has_an_empty_cursor_which_is_none(kv: Kv) -> None:
    whole, limited = kv.list(prefix=A), kv.list(prefix=A, limit=5)
    nothing, behind = kv.list(prefix=("c",)), kv.list(prefix=A, cursor="AmUA")

    for entries in (whole, limited, nothing, behind):
        async for _ in entries:
            pass

    assert (whole.cursor, limited.cursor, nothing.cursor, behind.cursor) == ("", "AmUA", "", "")
    assert await collect(kv, prefix=A, cursor="") == [0, 1, 2, 3, 4]


@pytest.mark.case(47)
async def test_cursor_holds_its_place_when_its_own_key_is_gone(kv: Kv) -> None:
    await kv.delete(("a", "b"))
    await kv.set(("a", "bb"), 1.5)

    assert await collect(kv, prefix=A, cursor="AmIA") == [1.5, 2, 3, 4]
    assert await collect(kv, prefix=A, cursor="AmIA", reverse=True) == [0]


@pytest.mark.case(48)
async def test_list_that_gave_nothing_yet_has_no_cursor(kv: Kv) -> None:
    entries = kv.list(prefix=A, cursor="AmIA")

    with pytest.raises(InvalidOptionError, match="Cannot get cursor before first iteration"):
        _ = entries.cursor


@pytest.mark.case(48)
@pytest.mark.parametrize("cursor", [".", "AmI", "Am IA", "AmIA\n", "é", "A", 5, ["AmIA"], b"."])
async def test_cursor_that_no_list_gave_is_refused(kv: Kv, cursor: Any) -> None:
    with pytest.raises(TypeError, match="invalid cursor"):
        kv.list(prefix=A, cursor=cursor)


@pytest.mark.case(48)
@pytest.mark.parametrize(
    ("selector", "cursor", "reverse"),
    [
        ({"prefix": A, "start": ("a", "c")}, "AmEA", False),
        ({"prefix": A, "end": ("a", "c")}, "AmUA", True),
        ({"start": ("a", "b"), "end": ("a", "d")}, "YQA=", False),
        ({"start": ("a", "b"), "end": ("a", "d")}, "ZQA=", True),
    ],
)
async def test_cursor_outside_the_bounds_is_refused(
    kv: Kv, selector: dict[str, Any], cursor: str, *, reverse: bool
) -> None:
    with pytest.raises(TypeError, match="cursor out of bounds"):
        kv.list(**selector, cursor=cursor, reverse=reverse)


@pytest.mark.case(48)
@pytest.mark.parametrize("reverse", [False, True])
async def test_cursor_of_another_prefix_never_leads_out_of_this_one(
    kv: Kv, *, reverse: bool
) -> None:
    for cursor in ("AmEAAmIA", "AmIAAmEA", "Ag==", "_w==", "AA==", "AmIA"):
        values = await collect(kv, prefix=A, cursor=cursor, reverse=reverse)

        assert set(values) <= {0, 1, 2, 3, 4}, cursor


@pytest.mark.case(49)
@pytest.mark.parametrize("value", [0, -1, 0.6, 2.0, "2", True, math.nan, math.inf, [], {}])
async def test_limit_and_batch_size_are_positive_integers(kv: Kv, value: Any) -> None:
    with pytest.raises(InvalidOptionError, match="Limit must be a positive integer: received"):
        kv.list(prefix=A, limit=value)
    with pytest.raises(InvalidOptionError, match="batchSize must be a positive integer: received"):
        kv.list(prefix=A, batch_size=value)


@pytest.mark.case(49)
async def test_batch_has_1000_entries_at_most_and_a_list_any_number(kv: Kv) -> None:
    with pytest.raises(TypeError, match=r"Too many entries \(max 1000\)"):
        kv.list(prefix=A, batch_size=1_001)

    assert len(await collect(kv, prefix=A, batch_size=1_000)) == 5
    assert len(await collect(kv, prefix=A, limit=1_001)) == 5


@pytest.mark.case(50)
@pytest.mark.parametrize(
    ("selector", "text"),
    [
        ({"prefix": A, "start": ("a", "b"), "end": ("a", "c")}, "can not specify both 'start' and"),
        ({"start": A}, "must specify either 'prefix' or both 'start' and 'end' key"),
        ({"end": A}, "must specify either 'prefix' or both 'start' and 'end' key"),
        ({}, "must specify either 'prefix' or both 'start' and 'end' key"),
    ],
)
async def test_selector_is_a_prefix_with_one_bound_or_two_bounds(
    kv: Kv, selector: dict[str, Any], text: str
) -> None:
    with pytest.raises(TypeError, match=f"Selector {text}"):
        kv.list(**selector)


@pytest.mark.case(50)
@pytest.mark.parametrize("key", ["a", 5, {"a": 1}, (None,), (b"x" * 2_048,)])
async def test_selector_is_made_of_keys(kv: Kv, key: Any) -> None:
    for selector in ({"prefix": key}, {"start": key, "end": key}, {"prefix": (), "end": key}):
        with pytest.raises(InvalidKeyError):
            kv.list(**selector)


async def test_list_of_2500_keys_is_whole_and_in_order_with_any_batch_size(kv: Kv) -> None:
    numbers = range(-1_250, 1_250)
    for start in range(0, 2_500, 500):
        operation = kv.atomic()
        for number in numbers[start : start + 500]:
            operation.set(("n", number), number)
        await operation.commit()

    for batch_size in (1, 7, 500, 1_000, None):
        up = await collect(kv, prefix=("n",), batch_size=batch_size)
        down = await collect(kv, prefix=("n",), batch_size=batch_size, reverse=True)
        assert up == list(numbers), batch_size
        assert down == up[::-1], batch_size


@pytest.mark.parametrize("reverse", [False, True])
async def test_next_batch_sees_what_was_written_meanwhile(kv: Kv, *, reverse: bool) -> None:
    entries = kv.list(prefix=A, batch_size=2, reverse=reverse)
    seen = [(await anext(entries)).value]

    await kv.atomic().set(("a", "cc"), 2.5).set(("a", "aa"), 0.5).set(("a", "dd"), 3.5).commit()
    await kv.delete(("a", "c"))
    seen += [entry.value async for entry in entries]

    # The key beside the first one fell into the batch that had been read.
    assert seen == ([4, 3, 2.5, 1, 0.5, 0] if reverse else [0, 1, 2.5, 3, 3.5, 4])


@pytest.mark.parametrize(("limit", "batch"), [(None, 100), (150, 150), (600, 500)])
async def test_batch_is_the_limit_or_100_and_500_at_most(
    kv: Kv, limit: int | None, batch: int
) -> None:
    operation = kv.atomic()
    for number in range(700):
        operation.set(("n", number), number)
    await operation.commit()
    entries = kv.list(prefix=("n",), limit=limit)
    await anext(entries)

    await kv.atomic().delete(("n", batch - 1)).delete(("n", batch)).commit()
    seen = {entry.value async for entry in entries}

    assert batch - 1 in seen
    assert batch not in seen


async def test_list_can_be_left_and_gone_on_with_and_ends_for_good(kv: Kv) -> None:
    entries = kv.list(prefix=A, batch_size=2)
    async for entry in entries:
        if entry.value == 2:
            break

    rest = [entry.value async for entry in entries]
    await kv.set(("a", "f"), 5)

    assert rest == [3, 4]
    assert [entry async for entry in entries] == []
    assert entries.cursor == ""


async def test_typed_list_names_the_key_that_it_fails_on_and_can_go_on(kv: Kv) -> None:
    await kv.set(("a", "c"), "two")
    entries = kv.list(prefix=A, type=int)
    seen = [(await anext(entries)).value, (await anext(entries)).value]

    with pytest.raises(PayloadError, match=r"Key \('a', 'c'\)"):
        await anext(entries)
    seen += [entry.value async for entry in entries]

    assert seen == [0, 1, 3, 4]


async def test_list_gives_each_value_in_its_own_encoding(kv: Kv) -> None:
    values = [None, b"\xff", KvU64(7), {"a": [1.5]}]
    for number, value in enumerate(values):
        await kv.set(("v", number), value)

    assert await collect(kv, prefix=("v",)) == values


@pytest.mark.case(47)
async def test_range_that_begins_at_a_prefix_of_its_end_goes_on_behind_its_first_key(
    kv: Kv,
) -> None:
    for key in [("x",), ("x", 0), ("x", 1)]:
        await kv.set(key, 1)

    keys, cursor = [], None
    for _ in range(3):
        page = kv.list(start=("x",), end=("x", 2), limit=1, cursor=cursor)
        keys += [entry.key async for entry in page]
        cursor = page.cursor
        assert cursor

    assert keys == [("x",), ("x", 0), ("x", 1)]
