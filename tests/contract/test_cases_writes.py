"""Cases 17 to 22: writes, their versionstamps, and reads of several keys at once."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kvqueue_fastapi import InvalidKeyError, Kv, KvCommit, KvU64, commit_versionstamp

Commit = Callable[[Kv], Awaitable[KvCommit]]

COMMITS: list[Commit] = [
    lambda kv: kv.set(("a",), "x"),
    lambda kv: kv.atomic().set(("a",), 1).set(("b",), 2).commit(),
    lambda kv: kv.atomic().delete(("a",)).commit(),
    lambda kv: kv.atomic().delete(("absent",)).commit(),
    lambda kv: kv.atomic().sum(("n",), 1).commit(),
    lambda kv: kv.enqueue("x"),
    lambda kv: kv.atomic().send_message("mail", 1, idempotency_key="once").commit(),
    lambda kv: kv.atomic().commit(),
    lambda kv: kv.atomic().check(("absent",), None).commit(),
    lambda kv: kv.set(("log", commit_versionstamp()), None),
]
"""Every kind of commit that succeeds."""


async def many(kv: Kv, count: int) -> list[str]:
    """Commit in many ways, among them some that fail. Returns the versionstamps."""
    stamps: list[str] = []
    for start in range(0, count, 50):
        committed = await asyncio.gather(
            *(COMMITS[number % len(COMMITS)](kv) for number in range(start, start + 50))
        )
        failed = await kv.atomic().check(("absent",), "f" * 20).set(("a",), 1).commit()
        stamps += [one.versionstamp or "none" for one in committed]
        assert (failed.ok, failed.versionstamp) == (False, None)
    return stamps


@pytest.mark.case(17)
async def test_write_read_and_delete_of_a_key(kv: Kv) -> None:
    before = await kv.get(("a",))
    first = await kv.set(("a",), "b")
    entry = await kv.get(("a",))
    second = await kv.set(("a",), "c")
    again = await kv.get(("a",))
    await kv.delete(("a",))
    after = await kv.get(("a",))

    assert (before.key, before.value, before.versionstamp) == (("a",), None, None)
    assert "0" * 20 < str(first.versionstamp) < str(second.versionstamp)
    assert (first.ok, entry.value, entry.versionstamp) == (True, "b", first.versionstamp)
    assert (again.value, again.versionstamp) == ("c", second.versionstamp)
    assert (after.key, after.value, after.versionstamp) == (("a",), None, None)


@pytest.mark.case(17)
async def test_set_changes_the_encoding_of_what_was_there(kv: Kv) -> None:
    for value in (b"1", 1, KvU64(1), b"2", None):
        await kv.set(("a",), value)

        assert repr((await kv.get(("a",))).value) == repr(value)


@pytest.mark.case(17)
async def test_write_of_one_key_leaves_the_versionstamps_of_others(kv: Kv) -> None:
    first = await kv.set(("a",), 1)

    await kv.set(("b",), 1)
    await kv.set(("a", "b"), 1)
    await kv.delete(("b",))

    assert (await kv.get(("a",))).versionstamp == first.versionstamp


@pytest.mark.case(17)
async def test_key_that_was_deleted_and_set_again_has_a_new_versionstamp(kv: Kv) -> None:
    first = await kv.set(("a",), 1)
    await kv.delete(("a",))
    second = await kv.set(("a",), 1)

    committed = await kv.atomic().check(("a",), first.versionstamp).delete(("a",)).commit()

    assert str(first.versionstamp) < str(second.versionstamp)
    assert not committed.ok


@pytest.mark.case(17)
async def test_commit_is_as_true_as_its_ok(kv: Kv) -> None:
    written = await kv.set(("a",), 1)
    refused = await kv.atomic().check(("a",), None).enqueue("x").commit()

    assert written
    assert not refused
    assert (refused.ok, refused.versionstamp, refused.message_ids) == (False, None, ())


@pytest.mark.case(18)
async def test_absent_key_can_be_deleted(kv: Kv) -> None:
    await kv.delete(("a",))
    committed = await kv.atomic().delete(("a",)).delete(("a",)).commit()

    assert committed.ok
    assert (await kv.get(("a",))).versionstamp is None


@pytest.mark.case(19)
async def test_versionstamps_grow_over_1000_commits_of_every_kind(kv: Kv) -> None:
    stamps = await many(kv, 1_000)

    assert [one for one in stamps if not re.fullmatch("[0-9a-f]{20}", one)] == []
    assert stamps == sorted(set(stamps))


@pytest.mark.case(19)
async def test_versionstamps_grow_across_a_reopening(tmp_path: Path) -> None:
    stamps: list[str] = []
    for _ in range(5):
        async with Kv.open(str(tmp_path / "kv.db")) as kv:
            stamps += await many(kv, 50)
            await kv.delete(("a",))

    assert len(stamps) == 250
    assert stamps == sorted(set(stamps))


@pytest.mark.case(19)
async def test_two_that_write_to_one_file_share_the_order_of_versionstamps(tmp_path: Path) -> None:
    path = str(tmp_path / "kv.db")
    stamps: list[Any] = []
    async with Kv.open(path) as first, Kv.open(path) as second:
        for _ in range(20):
            stamps += [(await kv.set(("a",), 1)).versionstamp for kv in (first, second)]
            seen = [(await kv.get(("a",))).versionstamp for kv in (first, second)]
            assert seen == [stamps[-1]] * 2

    assert stamps == sorted(set(stamps))


@pytest.mark.case(20)
async def test_versionstamp_of_the_commit_is_the_last_part_of_its_key(kv: Kv) -> None:
    first = await kv.set(["a", commit_versionstamp()], "first")
    second = await kv.set(("a", commit_versionstamp()), "second")

    entries = [entry async for entry in kv.list(prefix=("a",))]

    assert [entry.key for entry in entries] == [
        ("a", first.versionstamp),
        ("a", second.versionstamp),
    ]
    assert [entry.versionstamp for entry in entries] == [first.versionstamp, second.versionstamp]
    assert (await kv.get(("a", str(second.versionstamp)))).value == "second"


@pytest.mark.case(20)
async def test_every_commit_of_one_operation_writes_a_key_of_its_own(kv: Kv) -> None:
    operation = kv.atomic().set(("a", commit_versionstamp()), 1)
    operation.mutate({"type": "set", "key": ("b", commit_versionstamp()), "value": 2})

    committed = [*await asyncio.gather(operation.commit(), operation.commit())]
    committed.append(await operation.commit())

    stamps = [one.versionstamp for one in committed]
    keys = [entry.key async for entry in kv.list(prefix=())]
    assert keys == [(name, stamp) for name in "ab" for stamp in stamps]


@pytest.mark.case(20)
async def test_two_sets_of_one_such_key_in_one_commit_leave_the_last(kv: Kv) -> None:
    key = ("a", commit_versionstamp())

    committed = await kv.atomic().set(key, 1).set(key, 2).commit()

    (entry,) = [entry async for entry in kv.list(prefix=())]
    assert (entry.key, entry.value) == (("a", committed.versionstamp), 2)


@pytest.mark.case(20)
async def test_versionstamp_stands_only_at_the_end_of_a_key_that_is_set(kv: Kv) -> None:
    stamp: Any = commit_versionstamp()
    attempts: list[Callable[[], Any]] = [
        lambda: kv.set((stamp, "a"), 1),
        lambda: kv.set(("a", stamp, stamp), 1),
        lambda: kv.set((("a", stamp),), 1),
        lambda: kv.get(("a", stamp)),
        lambda: kv.get_many([("a", stamp)]),
        lambda: kv.delete(("a", stamp)),
        lambda: kv.enqueue("x", keys_if_undelivered=[("a", stamp)]),
        lambda: kv.atomic().check(("a", stamp), None).commit(),
        lambda: kv.atomic().sum(("a", stamp), 1).commit(),
        lambda: anext(aiter(kv.list(prefix=("a", stamp)))),
    ]

    for attempt in attempts:
        with pytest.raises(TypeError) as caught:
            await attempt()
        assert caught.type is InvalidKeyError

    assert [entry.key async for entry in kv.list(prefix=())] == []


@pytest.mark.case(21)
async def test_many_keys_are_read_in_the_order_of_the_request(kv: Kv) -> None:
    committed = await kv.atomic().set(("a",), -1).set(("b", "a"), 100).commit()

    entries = await kv.get_many([("b", "a"), ["a"], ("c",)])

    stamp = committed.versionstamp
    assert [(entry.key, entry.value, entry.versionstamp) for entry in entries] == [
        (("b", "a"), 100, stamp),
        (("a",), -1, stamp),
        (("c",), None, None),
    ]


@pytest.mark.case(21)
async def test_key_may_be_asked_for_twice_and_none_at_all(kv: Kv) -> None:
    await kv.set(("a",), 1)

    twice = await kv.get_many((("a",), ("absent",), ("a",)))

    assert [entry.value for entry in twice] == [1, None, 1]
    assert await kv.get_many([]) == []


@pytest.mark.case(21)
async def test_ten_keys_are_the_most(kv: Kv) -> None:
    for number in range(10):
        await kv.set((number,), number)

    entries = await kv.get_many([(number,) for number in range(10)])

    assert [entry.value for entry in entries] == list(range(10))
    with pytest.raises(TypeError, match=r"^Too many ranges \(max 10\)"):
        await kv.get_many([("a",)] * 11)


@pytest.mark.case(21)
@pytest.mark.parametrize(
    "keys", ["a", ("a", "b"), None, iter([("a",)]), {("a",)}, [("a",), ["b", None]]]
)
async def test_what_is_no_list_of_keys_is_refused(kv: Kv, keys: Any) -> None:
    with pytest.raises(TypeError):
        await kv.get_many(keys)


@pytest.mark.case(21)
async def test_many_keys_are_of_one_moment(kv: Kv) -> None:
    keys = [(number,) for number in range(10)]

    async def write(number: int) -> None:
        operation = kv.atomic()
        for key in keys:
            operation.set(key, number)
        await operation.commit()

    answers = await asyncio.gather(
        *(work for number in range(30) for work in (write(number), kv.get_many(keys)))
    )

    seen = [{entry.versionstamp for entry in entries} for entries in answers if entries]
    assert len(seen) == 30
    assert all(len(stamps) == 1 for stamps in seen)


@pytest.mark.case(22)
@pytest.mark.parametrize("consistency", ["strong", "eventual"])
async def test_both_consistencies_read_what_was_written(kv: Kv, consistency: Any) -> None:
    await kv.set(("a",), 1)

    entry = await kv.get(("a",), consistency=consistency)
    (one_of_many,) = await kv.get_many([("a",)], consistency=consistency)
    listed = [found.value async for found in kv.list(prefix=(), consistency=consistency)]

    assert (entry.value, one_of_many.value, listed) == (1, 1, [1])


@pytest.mark.case(22)
@pytest.mark.parametrize("consistency", ["foo", "", "STRONG", None, 1, ["strong"]])
async def test_other_consistencies_are_refused(kv: Kv, consistency: Any) -> None:
    uses: list[Callable[[], Any]] = [
        lambda: kv.get(("a",), consistency=consistency),
        lambda: kv.get_many([], consistency=consistency),
        lambda: anext(kv.list(prefix=(), consistency=consistency)),
    ]

    for use in uses:
        with pytest.raises(TypeError, match=r"unknown variant .*, expected 'strong' or 'eventual'"):
            await use()
