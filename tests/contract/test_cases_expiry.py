"""Cases 51 to 53: a key that expires is absent from that moment on, for whoever looks."""

import asyncio
import math
import sqlite3
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kvqueue_fastapi import InvalidOptionError, Kv, KvU64, commit_versionstamp
from kvqueue_fastapi.testing import FakeClock
from tests.contract.harness import PATIENCE_S

KEY = ("a",)
YEAR_2026 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "kv.db"


@pytest.fixture
async def kv(file: Path, clock: FakeClock) -> AsyncIterator[Kv]:
    async with Kv.open(str(file), clock=clock) as kv:
        yield kv


def stored_keys(file: Path) -> int:
    """How many keys the file holds, expired ones as well."""
    connection = sqlite3.connect(file)
    try:
        (count,) = connection.execute("SELECT count(*) FROM kvqueue_kv").fetchone()
    finally:
        connection.close()
    return int(count)


async def expired(kv: Kv, clock: FakeClock, key: tuple[Any, ...] = KEY, value: Any = 1) -> str:
    """Set a key and let it expire. Returns its versionstamp."""
    committed = await kv.set(key, value, expire_in=1)
    clock.advance(1)
    return str(committed.versionstamp)


@pytest.mark.case(51)
@pytest.mark.parametrize(
    ("expire_in", "lasts_s"),
    [(1, 1), (1.5, 1.5), (timedelta(minutes=2), 120), (0.0001, 0.001), (365 * 86_400, 31_536_000)],
)
async def test_key_is_there_until_its_time_and_gone_from_then_on(
    kv: Kv, clock: FakeClock, expire_in: float | timedelta, lasts_s: float
) -> None:
    await kv.set(KEY, 1, expire_in=expire_in)

    clock.advance(lasts_s - 0.001)
    before = await kv.get(KEY)
    clock.advance(0.001)
    after = await kv.get(KEY)

    assert (before.value, after.value, after.versionstamp) == (1, None, None)


@pytest.mark.case(51)
async def test_expiry_outlasts_a_reopening(kv: Kv, clock: FakeClock, file: Path) -> None:
    await kv.atomic().set(("a",), 1, expire_in=1).set(("b",), 2, expire_in=3_600).commit()
    await kv.close()

    async with Kv.open(str(file), clock=clock) as again:
        before = await again.get_many([("a",), ("b",)])
        clock.advance(1)
        after = await again.get_many([("a",), ("b",)])

    assert [entry.value for entry in before] == [1, 2]
    assert [entry.value for entry in after] == [None, 2]


@pytest.mark.case(51)
async def test_next_write_of_keys_sweeps_what_has_expired(
    kv: Kv, clock: FakeClock, file: Path
) -> None:
    await expired(kv, clock)
    before = stored_keys(file)

    await kv.delete(("z",))

    assert (before, stored_keys(file)) == (1, 0)


@pytest.mark.case(51)
@pytest.mark.parametrize(("second_s", "there"), [(3_600, True), (2, True), (0.5, False)])
async def test_last_set_decides_when_a_key_expires(
    kv: Kv, clock: FakeClock, second_s: float, *, there: bool
) -> None:
    await kv.set(KEY, 1, expire_in=1)
    await kv.set(KEY, 2, expire_in=second_s)

    clock.advance(1)

    assert (await kv.get(KEY)).value == (2 if there else None)


@pytest.mark.case(51)
async def test_time_runs_from_the_last_set(kv: Kv, clock: FakeClock) -> None:
    await kv.set(KEY, 1, expire_in=1)
    clock.advance(0.9)
    await kv.set(KEY, 2, expire_in=1)

    clock.advance(0.9)

    assert (await kv.get(KEY)).value == 2


@pytest.mark.case(51)
@pytest.mark.parametrize(
    "write",
    [
        lambda operation: operation.set(KEY, 5),
        lambda operation: operation.sum(KEY, 5),
        lambda operation: operation.max(KEY, 5),
        lambda operation: operation.min(KEY, 5),
        lambda operation: operation.delete(KEY).set(KEY, 5),
        lambda operation: operation.mutate({"type": "set", "key": KEY, "value": 5}),
    ],
    ids=["set", "sum", "max", "min", "delete and set", "mutate"],
)
async def test_any_write_without_an_expiry_makes_a_key_stay(
    kv: Kv, clock: FakeClock, write: Any
) -> None:
    await kv.set(KEY, KvU64(1), expire_in=1)
    await write(kv.atomic()).commit()

    clock.advance(3_600)

    assert (await kv.get(KEY)).versionstamp is not None


@pytest.mark.case(51)
async def test_commit_whose_check_fails_leaves_the_expiry_as_it_was(
    kv: Kv, clock: FakeClock
) -> None:
    await kv.set(KEY, 1, expire_in=1)
    committed = await kv.atomic().check(KEY, None).set(KEY, 2).commit()

    clock.advance(1)

    assert not committed.ok
    assert (await kv.get(KEY)).value is None


@pytest.mark.case(51)
async def test_every_way_to_set_takes_an_expiry(kv: Kv, clock: FakeClock) -> None:
    mutation = {"type": "set", "key": ("c",), "value": 3, "expire_in": timedelta(seconds=1)}
    await kv.set(("a",), 1, expire_in=1)
    await kv.atomic().set(("b",), 2, expire_in=1).mutate(mutation).commit()
    await kv.set(("d", commit_versionstamp()), b"4", expire_in=1)
    assert len([entry async for entry in kv.list(prefix=())]) == 4

    clock.advance(1)

    assert [entry async for entry in kv.list(prefix=())] == []


@pytest.mark.case(52)
async def test_expired_key_is_absent_to_every_read_before_it_is_swept(
    kv: Kv, clock: FakeClock, file: Path
) -> None:
    await kv.set(("b",), 2)
    await expired(kv, clock)

    one = await kv.get(KEY)
    many = await kv.get_many([KEY, ("b",), KEY])
    listed = [entry.key async for entry in kv.list(prefix=())]
    backwards = [entry.key async for entry in kv.list(start=(), end=("c",), reverse=True)]

    assert (one.value, one.versionstamp) == (None, None)
    assert [entry.value for entry in many] == [None, 2, None]
    assert listed == backwards == [("b",)]
    assert stored_keys(file) == 2


@pytest.mark.case(52)
async def test_check_takes_an_expired_key_for_absent(kv: Kv, clock: FakeClock) -> None:
    versionstamp = await expired(kv, clock)

    as_it_was = await kv.atomic().check(KEY, versionstamp).set(KEY, 2).commit()
    as_absent = await kv.atomic().check(KEY, None).set(KEY, 3).commit()

    assert (as_it_was.ok, as_absent.ok) == (False, True)
    assert (await kv.get(KEY)).value == 3


@pytest.mark.case(52)
async def test_entry_that_was_read_in_time_fails_its_check_once_it_has_expired(
    kv: Kv, clock: FakeClock
) -> None:
    await kv.set(KEY, 1, expire_in=1)
    entry = await kv.get(KEY)

    in_time = await kv.atomic().check(entry).commit()
    clock.advance(1)
    late = await kv.atomic().check(entry).commit()

    assert (in_time.ok, late.ok) == (True, False)


@pytest.mark.case(52)
@pytest.mark.parametrize("name", ["sum", "min", "max"])
@pytest.mark.parametrize("before", [KvU64(100), KvU64(1), "no number"])
async def test_arithmetic_starts_anew_on_an_expired_key(
    kv: Kv, clock: FakeClock, name: str, before: Any
) -> None:
    await expired(kv, clock, value=before)

    await getattr(kv.atomic(), name)(KEY, 7).commit()

    assert (await kv.get(KEY)).value == KvU64(7)


@pytest.mark.case(52)
async def test_plain_number_is_summed_anew_on_an_expired_key(kv: Kv, clock: FakeClock) -> None:
    await expired(kv, clock, value=40)

    await kv.atomic().mutate({"type": "sum", "key": KEY, "value": 2}).commit()

    assert (await kv.get(KEY)).value == 2


@pytest.mark.case(52)
@pytest.mark.parametrize("limit", [None, 1, 2])
async def test_expired_keys_take_no_room_in_a_list(
    kv: Kv, clock: FakeClock, limit: int | None
) -> None:
    for number in range(20):
        await kv.set(("n", number), number, expire_in=1 if number % 5 else None)
    clock.advance(1)

    entries = kv.list(prefix=("n",), limit=limit, batch_size=2)

    assert [entry.value async for entry in entries] == [0, 5, 10, 15][:limit]


@pytest.mark.case(52)
async def test_key_that_expires_between_two_batches_is_left_out(kv: Kv, clock: FakeClock) -> None:
    for number in range(4):
        await kv.set(("n", number), number, expire_in=1)
    entries = kv.list(prefix=("n",), batch_size=2)
    seen = [(await anext(entries)).value]

    clock.advance(1)
    seen += [entry.value async for entry in entries]

    assert seen == [0, 1]


@pytest.mark.case(52)
async def test_watch_shows_that_a_key_has_expired(kv: Kv, clock: FakeClock, file: Path) -> None:
    await kv.set(KEY, 1, expire_in=3_600)
    await kv.set(("b",), 2)
    watch = kv.watch([KEY, ("b",)])
    first = await anext(watch)

    clock.advance(3_600)
    async with asyncio.timeout(PATIENCE_S):
        second = await anext(watch)

    assert [entry.value for entry in first] == [1, 2]
    assert [entry.value for entry in second] == [None, 2]
    assert stored_keys(file) == 2
    await watch.aclose()


@pytest.mark.case(52)
async def test_watch_shows_an_expiry_when_it_comes_and_not_half_a_second_later() -> None:
    # The best of three, because the machine may have other things to do.
    took_s = [await time_to_expiry_s() for _ in range(3)]

    assert min(took_s) >= 0.05
    assert min(took_s) < 0.45


@pytest.mark.case(52)
async def test_watch_that_begins_with_an_expired_key_shows_it_absent(
    kv: Kv, clock: FakeClock
) -> None:
    await expired(kv, clock)
    watch = kv.watch([KEY])

    first = await anext(watch)
    await kv.set(KEY, 2)
    second = await anext(watch)

    assert (first[0].versionstamp, second[0].value) == (None, 2)
    await watch.aclose()


@pytest.mark.case(52)
async def test_expired_key_is_absent_to_every_store_on_the_file(
    kv: Kv, clock: FakeClock, file: Path
) -> None:
    async with Kv.open(str(file), clock=clock) as other:
        await kv.set(KEY, 1, expire_in=1)
        there = await other.get(KEY)
        clock.advance(1)
        gone = await other.get(KEY)
        committed = await other.atomic().check(KEY, None).set(KEY, 2).commit()

        assert (there.value, gone.value, committed.ok) == (1, None, True)
        assert (await kv.get(KEY)).value == 2


@pytest.mark.case(52)
async def test_what_has_expired_does_not_pile_up_while_keys_with_an_expiry_come(
    kv: Kv, clock: FakeClock, file: Path
) -> None:
    for number in range(100):
        await kv.set(("session", number), number, expire_in=1)
        clock.advance(0.5)

    assert stored_keys(file) <= 4


@pytest.mark.case(53)
@pytest.mark.parametrize(
    "value",
    [-1, -0.001, math.nan, math.inf, "5", b"5", True, [], timedelta(-1), YEAR_2026, 10**400],
    ids=lambda value: f"{value!r:.30}",
)
async def test_expiry_that_is_no_duration_is_refused_and_nothing_is_written(
    kv: Kv, file: Path, value: Any
) -> None:
    mutation = {"type": "set", "key": KEY, "value": 1, "expire_in": value}

    for write in (
        lambda: kv.set(KEY, 1, expire_in=value),
        lambda: kv.atomic().set(KEY, 1, expire_in=value).commit(),
        lambda: kv.atomic().mutate(mutation).commit(),
    ):
        with pytest.raises(TypeError, match="expire_in"):
            await write()

    assert stored_keys(file) == 0


@pytest.mark.case(53)
async def test_expiry_of_zero_is_at_once_and_none_is_never(kv: Kv, clock: FakeClock) -> None:
    at_once = await kv.set(("a",), 1, expire_in=0)
    await kv.set(("b",), 2, expire_in=None)
    clock.advance(timedelta(days=36_500))

    entries = await kv.get_many([("a",), ("b",)])

    assert at_once.ok
    assert [entry.value for entry in entries] == [None, 2]


@pytest.mark.case(53)
async def test_zero_expires_also_over_a_key_that_was_to_stay(kv: Kv) -> None:
    await kv.set(KEY, KvU64(5))

    await kv.atomic().set(KEY, KvU64(6), expire_in=0).sum(KEY, 1).commit()

    assert (await kv.get(KEY)).value == KvU64(1)


@pytest.mark.case(53)
@pytest.mark.parametrize("name", ["expireIn", "expires_in", "expire"])
async def test_misspelt_expiry_does_not_pass_for_none(kv: Kv, name: str) -> None:
    with pytest.raises(InvalidOptionError, match="Invalid mutation 'set' with"):
        kv.atomic().mutate({"type": "set", "key": KEY, "value": 1, name: 1})


async def time_to_expiry_s() -> float:
    async with Kv.open(":memory:") as kv:
        began = time.monotonic()
        await kv.set(KEY, 1, expire_in=0.05)
        watch = kv.watch([KEY])
        first = await anext(watch)

        second = await anext(watch)
        took_s = time.monotonic() - began
        await watch.aclose()
    assert (first[0].value, second[0].value) == (1, None)
    return took_s
