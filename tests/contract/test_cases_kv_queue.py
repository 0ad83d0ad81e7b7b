"""Cases 58 to 60, 63, 77 and 83 to 85 through `Kv`."""

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel

from kvqueue_fastapi import (
    Kv,
    KvU64,
    Message,
    PayloadError,
)
from tests.contract.harness import Seen, failing, is_there, listening, until

BOB, LIZ = ("balance", "bob"), ("balance", "liz")


class Event(BaseModel):
    type: str
    data: int


class Order(BaseModel):
    id: int


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "kv.db")


def messages(url: str) -> int:
    """How many the file holds, in whatever state."""
    connection = sqlite3.connect(url)
    try:
        (count,) = connection.execute("SELECT count(*) FROM kvqueue_messages").fetchone()
    finally:
        connection.close()
    return int(count)


@pytest.mark.case(58)
async def test_enqueued_value_reaches_the_listener_once(kv: Kv) -> None:
    seen = Seen()
    async with listening(kv, seen.take):
        committed = await kv.enqueue("test")

        assert await seen.stay(1) == ["test"]

    assert committed.ok
    assert len(committed.versionstamp or "") == 20
    assert len(committed.message_ids) == 1


@pytest.mark.case(59)
@pytest.mark.parametrize(
    "value",
    ["", "é\0", 0, -1, 2**63, 1.5, True, False, None, [], {}, [1, [None, {"a": "b"}]]],
    ids=repr,
)
async def test_each_json_value_arrives_equal_ten_times(kv: Kv, value: Any) -> None:
    seen = Seen()
    async with listening(kv, seen.take):
        for _ in range(10):
            await kv.enqueue(value)

        assert await seen.stay(10) == [value] * 10

    assert {type(one) for one in seen} == {type(value)}


@pytest.mark.case(59)
@pytest.mark.parametrize(
    ("kind", "value", "bare"),
    [
        (Order, Order(id=7), {"id": 7}),
        (tuple[int, str], (1, "a"), [1, "a"]),
        (set[int], {1}, [1]),
        (bytes, b"caf\xc3\xa9", "café"),
        (KvU64, KvU64(2**64 - 1), {"value": 2**64 - 1}),
        (datetime, datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
        (UUID, UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (Event, Event(type="order.created", data=1), {"type": "order.created", "data": 1}),
    ],
    ids=lambda value: f"{value!r:.20}",
)
async def test_other_value_arrives_as_itself_where_the_handler_names_its_type(
    kv: Kv, kind: Any, value: Any, bare: Any
) -> None:
    seen = Seen()

    async def typed(value: kind) -> None:
        seen.add(value)

    for handler in (typed, seen.take):
        async with listening(kv, handler):
            await kv.enqueue(value)
            await seen.reach(len(seen) + 1)

    assert seen == [value, bare]
    assert type(seen[0]) is type(value)


@pytest.mark.case(59)
@pytest.mark.parametrize("value", [b"\xff", lambda: None, object(), asyncio, {1: object()}])
async def test_value_that_json_cannot_hold_is_refused_and_nothing_stored(
    kv: Kv, url: str, value: Any
) -> None:
    for send in (kv.enqueue, lambda value: kv.atomic().set(("a",), 1).enqueue(value).commit()):
        with pytest.raises(PayloadError):
            await send(value)

    assert messages(url) == 0
    assert (await kv.get(("a",))).versionstamp is None


@pytest.mark.case(60)
async def test_values_of_different_types_arrive_one_after_another(kv: Kv) -> None:
    seen = Seen()
    values = ["text", 7, None, [1], {"a": 1.5}, True]
    async with listening(kv, seen.take):
        for count, value in enumerate(values, 1):
            await kv.enqueue(value)
            await seen.reach(count)

    assert seen == values


@pytest.mark.case(63)
async def test_value_waits_for_a_listener_also_across_a_reopening(kv: Kv, url: str) -> None:
    seen = Seen()
    await kv.enqueue(1)
    await kv.close()

    async with Kv.open(url) as again:
        await again.enqueue(2)
        async with listening(again, seen.take):
            assert await seen.stay(2) == [1, 2]


@pytest.mark.case(77)
async def test_value_given_up_stands_under_all_its_keys_for_good(kv: Kv) -> None:
    seen, keys = Seen(), [("failed", 1), ("failed", 2)]
    await kv.set(keys[0], "before", expire_in=0.05)
    async with listening(kv, failing(seen)):
        await kv.enqueue({"id": 7}, backoff_schedule=[0.01, 0.02], keys_if_undelivered=keys)
        assert await seen.stay(3) == [{"id": 7}] * 3
    first, second = await kv.get_many(keys)

    assert first.value == second.value == {"id": 7}
    assert first.versionstamp == second.versionstamp is not None


@pytest.mark.case(77)
@pytest.mark.parametrize(
    "value", [7, None, "text", [1, "a"], {"id": 7}, {"type": "a"}, KvU64(5), b"raw"], ids=repr
)
async def test_what_stands_under_an_undelivered_key_can_be_enqueued_again(
    kv: Kv, value: Any
) -> None:
    seen = Seen()
    async with listening(kv, failing(seen)):
        await kv.enqueue(value, backoff_schedule=[], keys_if_undelivered=[("failed",)])
        await seen.reach(1)
        await until(lambda: is_there(kv, ("failed",)))

        await kv.enqueue((await kv.get(("failed",))).value, backoff_schedule=[])
        first, again = await seen.stay(2)

    assert again == first


@pytest.mark.case(83)
async def test_check_set_and_enqueue_are_one(kv: Kv) -> None:
    seen = Seen()
    await kv.set(("t",), "1")
    entry = await kv.get(("t",))
    async with listening(kv, seen.take):
        committed = await kv.atomic().check(entry).set(("t",), "2").enqueue("test").commit()
        assert await seen.stay(1) == ["test"]

    after = await kv.get(("t",))
    assert (after.value, after.versionstamp) == ("2", committed.versionstamp)
    assert len(committed.message_ids) == 1


@pytest.mark.case(84)
async def test_failed_check_sends_nothing(kv: Kv, url: str) -> None:
    seen = Seen()
    await kv.set(("t",), 1)
    operation = kv.atomic().check(("t",), None).enqueue("a").send_message("kv.enqueue", "b")

    committed = await operation.set(("t",), 2).commit()

    assert (committed.ok, committed.versionstamp, committed.message_ids) == (False, None, ())
    assert messages(url) == 0
    async with listening(kv, seen.take):
        await kv.enqueue("c")
        assert await seen.stay(1) == ["c"]


def transferring(kv: Kv, runs: Seen) -> Callable[..., Any]:
    """The example of the guide "Using Queues" (docs.deno.com/deploy/kv/manual), and a failure."""

    async def transfer(msg: dict[str, Any]) -> None:
        nonce = await kv.get(("nonces", msg["nonce"]))
        if nonce.value is None:
            runs.add("again")
            return
        bob, liz = await kv.get(BOB, int), await kv.get(LIZ, int)
        success = await (
            kv.atomic()
            .check(nonce.key, nonce.versionstamp)
            .delete(nonce.key)
            .sum(("processed_count",), 1)
            .check(bob, liz)
            .set(BOB, (bob.value or 0) - msg["change"])
            .set(LIZ, (liz.value or 0) + msg["change"])
            .commit()
        )
        runs.add(success.ok)
        raise RuntimeError("after its commit")

    return transfer


@pytest.mark.case(85)
async def test_nonce_lets_the_effects_of_a_message_happen_once(kv: Kv) -> None:
    runs, nonce = Seen(), str(uuid4())
    await kv.atomic().set(BOB, 100).set(LIZ, 0).commit()

    async with listening(kv, transferring(kv, runs)):
        await (
            kv.atomic()
            .check(("nonces", nonce), None)
            .enqueue({"nonce": nonce, "change": 10}, backoff_schedule=[0, 0])
            .set(("nonces", nonce), True)
            .sum(("enqueued_count",), 1)
            .commit()
        )
        assert await runs.stay(2) == [True, "again"]

    keys = [BOB, LIZ, ("processed_count",), ("enqueued_count",), ("nonces", nonce)]
    entries = await kv.get_many(keys)
    assert [entry.value for entry in entries] == [90, 10, KvU64(1), KvU64(1), None]


async def test_listener_can_commit_its_effects_with_the_end_of_its_message(kv: Kv) -> None:
    seen = Seen()

    async def handle(value: int, message: Message) -> None:
        await message.atomic().sum(("total",), value).commit()
        seen.add(value)
        raise ValueError("after its commit")

    async with listening(kv, handle):
        await kv.enqueue(5, backoff_schedule=[0, 0])
        await seen.stay(1)

    assert (await kv.get(("total",))).value == KvU64(5)
