"""Cases 23 to 30, 34 and 39: what is committed together, or not at all."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kvqueue_fastapi import (
    AtomicOperation,
    IdempotencyConflictError,
    InvalidKeyError,
    InvalidOptionError,
    Kv,
    KvCommit,
    KvQueueAdmin,
    KvU64,
    PayloadError,
)

Change = Callable[[AtomicOperation], AtomicOperation]

FAILING: list[Change] = [
    lambda operation: operation.sum(("text",), 1),
    lambda operation: operation.min(("text",), 1),
    lambda operation: operation.max(("text",), 1),
    lambda operation: operation.sum(("p",), 1),
    lambda operation: operation.mutate({"type": "sum", "key": ("text",), "value": 1}),
    lambda operation: operation.mutate({"type": "sum", "key": ("n",), "value": 0.5}),
    lambda operation: operation.sum(("n",), 1).sum(("text",), 1).sum(("n",), 1),
    lambda operation: operation.send_message("m", 1, idempotency_key="i").sum(("text",), 1),
    lambda operation: operation.check(("text",), None).sum(("n",), 1),
]
"""What cannot be committed, each in its way, where "text" is a str and "n" a counter."""


async def sent(admin: KvQueueAdmin) -> list[Any]:
    return [message.data for message in await admin.messages()]


async def held(kv: Kv) -> dict[Any, Any]:
    return {entry.key: entry.value async for entry in kv.list(prefix=())}


def place(committed: KvCommit) -> int:
    """Which commit of the database it was."""
    return int(str(committed.versionstamp)[:16], 16)


@pytest.mark.case(23)
async def test_empty_operations_have_versionstamps_of_their_own(kv: Kv) -> None:
    operation = kv.atomic()

    first, second = await operation.commit(), await operation.commit()

    assert (first.ok, second.ok) == (True, True)
    assert place(second) == place(first) + 1


@pytest.mark.case(24)
async def test_check_of_what_was_read_holds_once(kv: Kv) -> None:
    await kv.set(("t",), "1")
    entry = await kv.get(("t",))

    first = await kv.atomic().check(entry).set(("t",), "2").commit()
    second = await kv.atomic().check(entry).set(("t",), "3").commit()

    found = await kv.get(("t",))
    assert (first.ok, second.ok, second.versionstamp) == (True, False, None)
    assert (found.value, found.versionstamp) == ("2", first.versionstamp)


@pytest.mark.case(24)
async def test_entry_of_any_read_can_be_checked(kv: Kv) -> None:
    await kv.set(("t",), 5)
    (many, absent) = await kv.get_many([["t"], ("absent",)], int)
    (listed,) = [entry async for entry in kv.list(prefix=())]
    (watched,) = await anext(kv.watch([("t",)]))
    typed = await kv.get(("t",), int)

    operation = kv.atomic().check(many, absent, listed, watched, typed).check()

    assert (await operation.commit()).ok
    await kv.set(("absent",), 1)
    assert not (await operation.commit()).ok


@pytest.mark.case(24)
async def test_versionstamp_is_checked_in_either_case_of_letters(kv: Kv) -> None:
    stamp = "0"
    while stamp.upper() == stamp:
        stamp = str((await kv.set(("t",), 1)).versionstamp)

    assert (await kv.atomic().check(("t",), stamp.upper()).commit()).ok
    assert (await kv.atomic().check(("t",), stamp).commit()).ok


@pytest.mark.case(24)
async def test_versionstamp_that_nothing_has_does_not_hold(kv: Kv) -> None:
    stamp = str((await kv.set(("t",), 1)).versionstamp)

    for other in ("0" * 20, "f" * 20, stamp[:-1] + "1", stamp[4:] + "0000"):
        for key in (("t",), ("absent",)):
            assert not (await kv.atomic().check(key, other).commit()).ok


@pytest.mark.case(25)
async def test_check_for_absence_holds_until_the_key_is_there(kv: Kv) -> None:
    first = await kv.atomic().check(("t",), None).set(("t",), "1").commit()
    second = await kv.atomic().check(("t",), None).set(("t",), "2").commit()
    await kv.delete(("t",))
    third = await kv.atomic().check(("t",), None).set(("t",), "3").commit()

    assert (first.ok, second.ok, third.ok) == (True, False, True)
    assert (await kv.get(("t",))).value == "3"


@pytest.mark.case(26)
async def test_one_check_of_two_that_fails_writes_nothing(silent: Kv, admin: KvQueueAdmin) -> None:
    first = await silent.atomic().set(("t1",), "1").set(("t2",), "2").commit()

    for stamps in ((first.versionstamp, None), (None, first.versionstamp)):
        operation = silent.atomic().check(("t1",), stamps[0]).check(("t2",), stamps[1])
        operation.set(("t1",), "5").delete(("t2",)).sum(("n",), 1).enqueue("no")
        assert await operation.commit() == KvCommit(ok=False, versionstamp=None)

    assert await held(silent) == {("t1",): "1", ("t2",): "2"}
    assert await sent(admin) == []
    assert place(await silent.atomic().commit()) == place(first) + 1


@pytest.mark.case(26)
async def test_checks_see_the_database_as_it_was_before_the_operation(kv: Kv) -> None:
    operation = kv.atomic().set(("t",), 1).check(("t",), None)

    assert (await operation.commit()).ok
    assert not (await operation.commit()).ok


@pytest.mark.case(27)
async def test_mutations_apply_in_the_order_in_which_they_were_given(kv: Kv) -> None:
    await kv.set(("a",), "1")

    await kv.atomic().set(("a",), "2").delete(("a",)).commit()
    deleted = await kv.get(("a",))
    await kv.atomic().delete(("a",)).set(("a",), "3").set(("a",), "4").commit()

    assert deleted.versionstamp is None
    assert (await kv.get(("a",))).value == "4"


@pytest.mark.case(28)
async def test_keys_of_one_commit_share_its_versionstamp(kv: Kv) -> None:
    await kv.set(("d",), 1)

    operation = kv.atomic().set(("a",), -1).set(("b",), b"x").sum(("c",), 1).delete(("d",))
    committed = await operation.commit()

    stamps = [entry.versionstamp async for entry in kv.list(prefix=())]
    assert stamps == [committed.versionstamp] * 3


@pytest.mark.case(29)
@pytest.mark.parametrize(
    "stamp",
    [
        "", "g" * 20, "0" * 22, "0" * 19, " " + "0" * 19, "0" * 20 + "\n", "\u0660" * 20, 0,
        b"0" * 20,
    ],
)  # fmt: skip
async def test_what_is_no_versionstamp_cannot_be_checked(kv: Kv, stamp: Any) -> None:
    with pytest.raises(TypeError, match=r"^Invalid check"):
        await kv.atomic().check(("a",), stamp).set(("a",), 1).commit()

    assert await held(kv) == {}


@pytest.mark.case(29)
@pytest.mark.parametrize(
    "checks",
    [
        [("a",)], [("a",), ("b",)], [None], [{"key": ("a",), "versionstamp": None}],
        [("a",), None, 1],
    ],
)  # fmt: skip
async def test_check_takes_entries_or_a_key_with_its_versionstamp(kv: Kv, checks: Any) -> None:
    with pytest.raises(TypeError, match=r"^Invalid check"):
        kv.atomic().check(*checks)


@pytest.mark.case(30)
@pytest.mark.parametrize(
    ("mutation", "text"),
    [
        ({"type": "foo", "key": ("a",), "value": 1}, "Invalid mutation type"),
        ({"type": "SET", "key": ("a",), "value": 1}, "Invalid mutation type"),
        ({"type": ["set"], "key": ("a",), "value": 1}, "Invalid mutation type"),
        ({"key": ("a",), "value": 1}, "Invalid mutation type"),
        ({"type": "set", "key": ("a",)}, "Invalid mutation 'set' without value"),
        ({"type": "sum", "key": ("a",)}, "Invalid mutation 'sum' without value"),
        ({"type": "delete", "key": ("a",), "value": 1}, "Invalid mutation 'delete' with value"),
        ({"type": "set", "key": ("a",), "value": 1, "expireIn": 5}, "Invalid mutation 'set' with"),
        ({"type": "sum", "key": ("a",), "value": 1, "expire_in": 5}, "Invalid mutation 'sum' with"),
        ({"type": "set", "value": 1}, "A mutation is .* allowed is a mapping"),
        ([("a",), 1], "A mutation is .* allowed is a mapping"),
        (None, "A mutation is .* allowed is a mapping"),
    ],
    ids=lambda given: f"{given!r:.60}",
)
async def test_mutation_of_another_shape_is_refused_at_the_call(
    kv: Kv, mutation: Any, text: str
) -> None:
    operation = kv.atomic()

    with pytest.raises(TypeError, match=f"^{text}"):
        operation.mutate(mutation)

    await operation.commit()
    assert await held(kv) == {}


@pytest.mark.case(30)
async def test_mutations_as_mappings_do_what_the_methods_do(kv: Kv) -> None:
    await kv.set(("gone",), 1)

    await kv.atomic().mutate(
        {"type": "set", "key": ["a"], "value": None},
        {"type": "set", "key": ("b",), "value": b"x", "expire_in": 3_600},
        {"type": "delete", "key": ("gone",)},
        {"type": "sum", "key": ("n",), "value": KvU64(5)},
        {"type": "min", "key": ("n",), "value": KvU64(3)},
        {"type": "max", "key": ("n",), "value": KvU64(4)},
    ).mutate().commit()  # fmt: skip

    assert await held(kv) == {("a",): None, ("b",): b"x", ("n",): KvU64(4)}


@pytest.mark.case(34)
@pytest.mark.parametrize("failing", FAILING[:-1])
async def test_operation_with_arithmetic_that_fails_leaves_nothing(
    silent: Kv, admin: KvQueueAdmin, failing: Change
) -> None:
    given = silent.atomic().set(("text",), "x").set(("n",), KvU64(5)).set(("p",), "old")
    before = await given.commit()
    operation = silent.atomic().set(("p",), "new").delete(("text",)).set(("text",), "y")
    operation.set(("q",), 1).enqueue("no")

    with pytest.raises(InvalidOptionError):
        await failing(operation).set(("r",), 1).commit()

    after = await silent.atomic().send_message("m", "other body", idempotency_key="i").commit()
    assert await held(silent) == {("text",): "x", ("n",): KvU64(5), ("p",): "old"}
    assert await sent(admin) == ["other body"]
    assert place(after) == place(before) + 1


@pytest.mark.case(34)
@pytest.mark.parametrize("failing", FAILING)
async def test_operation_that_fails_does_not_touch_its_neighbours(
    silent: Kv, admin: KvQueueAdmin, failing: Change
) -> None:
    given = silent.atomic().set(("text",), "x").set(("n",), KvU64(0)).set(("p",), "x")
    before = await given.commit()

    def bad() -> Any:
        return failing(silent.atomic().set(("p",), "bad").set(("bad",), 1).enqueue("bad")).commit()

    def good(number: int) -> Any:
        return silent.atomic().sum(("n",), 1).set(("k", number), number).enqueue(number).commit()

    answers = await asyncio.gather(
        bad(), good(0), bad(), bad(), silent.set(("p",), "good"), bad(), good(1),
        silent.enqueue("alone"), bad(),
        silent.atomic().send_message("m", "once", idempotency_key="j").commit(), bad(),
        good(2), bad(),
        return_exceptions=True,
    )  # fmt: skip

    done = [one for one in answers if isinstance(one, KvCommit) and one.ok]
    assert [place(one) for one in done] == [place(before) + step for step in range(1, 7)]
    assert await sent(admin) == [0, 1, "alone", "once", 2]
    assert await held(silent) == {
        ("text",): "x", ("p",): "good", ("n",): KvU64(3), ("k", 0): 0, ("k", 1): 1, ("k", 2): 2,
    }  # fmt: skip


@pytest.mark.case(34)
async def test_message_that_conflicts_leaves_no_key(silent: Kv, admin: KvQueueAdmin) -> None:
    first = await silent.atomic().send_message("m", 1, idempotency_key="i").commit()

    with pytest.raises(IdempotencyConflictError):
        await silent.atomic().set(("p",), 1).send_message("m", 2, idempotency_key="i").commit()

    assert await held(silent) == {}
    assert place(await silent.set(("q",), 1)) == place(first) + 1


@pytest.mark.case(34)
async def test_operation_may_be_committed_again_after_it_failed(kv: Kv) -> None:
    await kv.set(("text",), "x")
    operation = kv.atomic().sum(("text",), 1).sum(("n",), 1)

    with pytest.raises(InvalidOptionError):
        await operation.commit()
    await kv.delete(("text",))

    assert (await operation.commit()).ok
    assert await held(kv) == {("n",): KvU64(1), ("text",): KvU64(1)}


@pytest.mark.case(39)
async def test_awaiting_the_operation_says_that_commit_was_forgotten(kv: Kv) -> None:
    operation: Any = kv.atomic().set(("a",), 1)

    with pytest.raises(TypeError, match=r"is not a promise: did you forget to call 'commit\(\)'"):
        await operation
    unwritten = await held(kv)
    await operation.commit()

    assert (unwritten, await held(kv)) == ({}, {("a",): 1})


@pytest.mark.case(23)
async def test_operation_is_used_again_after_its_commit(silent: Kv, admin: KvQueueAdmin) -> None:
    operation = silent.atomic().sum(("n",), 1).enqueue("x")

    first = await operation.commit()
    second = await operation.set(("a",), 1).commit()

    assert place(second) == place(first) + 1
    assert await held(silent) == {("n",): KvU64(2), ("a",): 1}
    assert await sent(admin) == ["x", "x"]
    assert first.message_ids != second.message_ids


@pytest.mark.case(24)
async def test_two_commits_of_one_operation_at_once_are_two(
    silent: Kv, admin: KvQueueAdmin
) -> None:
    counting = silent.atomic().sum(("n",), 1).enqueue("x")
    checking = silent.atomic().check(("once",), None).set(("once",), 1).enqueue("y")

    counted = await asyncio.gather(counting.commit(), counting.commit())
    checked = await asyncio.gather(checking.commit(), checking.commit())

    assert place(counted[1]) == place(counted[0]) + 1
    assert [one.ok for one in checked] == [True, False]
    assert await held(silent) == {("n",): KvU64(2), ("once",): 1}
    assert await sent(admin) == ["x", "x", "y"]


@pytest.mark.case(23)
async def test_what_is_added_while_a_commit_runs_belongs_to_the_next(kv: Kv) -> None:
    operation = kv.atomic().set(("a",), 1)

    commit = asyncio.create_task(operation.commit())
    await asyncio.sleep(0)
    operation.set(("late",), 1).check(("never",), "f" * 20)

    assert (await commit).ok
    assert await held(kv) == {("a",): 1}


@pytest.mark.case(83)
async def test_message_that_changes_after_it_was_given_is_sent_as_it_was(
    silent: Kv, admin: KvQueueAdmin
) -> None:
    data, headers = {"n": 1}, {"h": "1"}
    operation = silent.atomic().enqueue(data).send_message("m", data, headers=headers)

    data["n"] = 2
    headers["h"] = "2"
    await operation.commit()

    messages = await admin.messages()
    assert [(one.data, one.headers) for one in messages] == [({"n": 1}, {}), ({"n": 1}, {"h": "1"})]


@pytest.mark.case(30)
async def test_operation_goes_on_without_what_it_refused(silent: Kv, admin: KvQueueAdmin) -> None:
    operation = silent.atomic().set(("a",), 1).enqueue("x")
    refused: list[Callable[[], Any]] = [
        lambda: operation.enqueue(object()),
        lambda: operation.enqueue("late", delay=-1),
        lambda: operation.send_message("", 1),
        lambda: operation.check(("a",), "no versionstamp"),
        lambda: operation.set(("b",), 1, expire_in=-1),
        lambda: operation.sum(("b",), -1),
        lambda: operation.delete(()),
        lambda: operation.mutate({"type": "set", "key": ("b",)}),
    ]

    for refuse in refused:
        with pytest.raises((InvalidOptionError, InvalidKeyError, PayloadError)):
            refuse()

    assert (await operation.commit()).ok
    assert await held(silent) == {("a",): 1}
    assert await sent(admin) == ["x"]
