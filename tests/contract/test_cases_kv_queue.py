"""Cases 58 to 60, 63, 77 and 83 to 85 through `Kv`, and who gets what is enqueued."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
from injector import Injector
from pydantic import BaseModel

from kvqueue_fastapi import (
    InvalidOptionError,
    Kv,
    KvQueue,
    KvQueueAdmin,
    KvQueueModule,
    KvQueueSettings,
    KvU64,
    Message,
    PayloadError,
    on_queue_message,
)
from tests.contract.harness import Seen, until

BOB, LIZ = ("balance", "bob"), ("balance", "liz")
ORDER = {"type": "order.created", "data": {"id": 7}}
NO_ENVELOPES: list[Any] = [
    {"type": "order.created"},
    {"data": 1},
    {"type": "order.created", "data": 1, "more": None},
    {"type": 1, "data": 1},
    {"type": None, "data": 1},
    {"Type": "order.created", "data": 1},
    [["type", "order.created"], ["data", 1]],
    {},
    "order.created",
    None,
]


class Order(BaseModel):
    id: int


class Event(BaseModel):
    type: str
    data: int


class House(NamedTuple):
    """What an app's container gives."""

    kv: Kv
    queue: KvQueue
    admin: KvQueueAdmin


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "kv.db")


@pytest.fixture
async def kv(url: str) -> AsyncIterator[Kv]:
    async with Kv.open(url) as kv:
        yield kv


@asynccontextmanager
async def listening(kv: Kv, *handlers: Callable[..., Any]) -> AsyncGenerator[None]:
    tasks = [asyncio.create_task(kv.listen_queue(handler)) for handler in handlers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(one) for one in ended} <= {asyncio.CancelledError, type(None)}


@asynccontextmanager
async def app(url: str, *consumers: Any, **settings: Any) -> AsyncGenerator[House]:
    module = KvQueueModule(url, consumers=consumers, settings=KvQueueSettings(**settings))
    injector = Injector([module])
    async with module.running(injector) as queue:
        yield House(injector.get(Kv), queue, injector.get(KvQueueAdmin))


def failing(seen: Seen) -> Callable[..., Any]:
    async def fail(value: Any) -> None:
        seen.add(value)
        raise ValueError("it fails always")

    return fail


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


async def test_envelope_reaches_the_handler_of_its_type_and_all_else_the_listener(
    url: str,
) -> None:
    orders, bare = Seen(), Seen()

    @on_queue_message("order.created")
    async def handle(order: Order) -> None:
        orders.add(order)

    async with app(url, handle) as house, listening(house.kv, bare.take):
        for value in [
            ORDER,
            *NO_ENVELOPES,
            MappingProxyType(ORDER),
            {**ORDER, "data": Order(id=8)},
        ]:
            await house.kv.enqueue(value)
        await bare.stay(len(NO_ENVELOPES))
        await orders.stay(3)

    assert orders == [Order(id=7), Order(id=7), Order(id=8)]
    assert bare == NO_ENVELOPES


async def test_envelope_is_what_send_message_sends_and_a_bare_value_has_a_type(url: str) -> None:
    orders, bare = Seen(), Seen()

    @on_queue_message("order.created")
    async def handle(order: Any, message: Message) -> None:
        orders.add((order, message.type))

    async def listen(value: Any, message: Message) -> None:
        bare.add((value, message.type))

    async with app(url, handle) as house, listening(house.kv, listen):
        operation = house.kv.atomic().enqueue(ORDER).enqueue(1).send_message("order.created", 2)
        committed = await operation.send_message("kv.enqueue", 3).commit()
        await house.kv.enqueue({"type": "kv.enqueue", "data": 4})
        await asyncio.gather(orders.stay(2), bare.stay(3))

    assert orders == [({"id": 7}, "order.created"), (2, "order.created")]
    assert bare == [(1, "kv.enqueue"), (3, "kv.enqueue"), (4, "kv.enqueue")]
    assert len(committed.message_ids) == 4


async def test_bare_values_can_have_a_handler_instead_of_a_listener(url: str) -> None:
    seen = Seen()

    @on_queue_message("kv.enqueue")
    async def handle(value: Any) -> None:
        seen.add(value)

    async with app(url, handle) as house:
        for value in NO_ENVELOPES:
            await house.kv.enqueue(value)

        assert await seen.stay(len(NO_ENVELOPES)) == NO_ENVELOPES


async def test_envelope_that_its_handler_here_would_not_take_is_refused(url: str) -> None:
    @on_queue_message("order.created")
    async def handle(order: Order) -> None: ...

    wrong = {"type": "order.created", "data": {"id": "seven"}}
    async with app(url, handle) as house:
        for send in (house.kv.enqueue, lambda value: house.kv.atomic().enqueue(value).commit()):
            with pytest.raises(PayloadError, match="does not fit Order"):
                await send(wrong)
            with pytest.raises(InvalidOptionError):
                await send({"type": "", "data": 1})

    assert messages(url) == 0


async def test_store_on_its_own_leaves_envelopes_to_those_who_handle_them(kv: Kv, url: str) -> None:
    orders, bare = Seen(), Seen()

    @on_queue_message("order.created")
    async def handle(order: Any) -> None:
        orders.add(order)

    async with listening(kv, bare.take):
        await kv.atomic().enqueue(ORDER).enqueue("bare").commit()
        assert await bare.stay(1) == ["bare"]
    async with app(url, handle):
        assert await orders.stay(1) == [{"id": 7}]


@pytest.mark.parametrize("consumers", [0, 1])
async def test_process_that_fails_unknown_types_leaves_bare_values_to_listeners(
    url: str, consumers: int
) -> None:
    seen = Seen()

    @on_queue_message("order.paid")
    async def handle(order: Any) -> None: ...

    settings = {"unhandled": "fail", "backoff_schedule_s": ()}
    async with app(url, *[handle] * consumers, **settings) as house:
        for number in range(50):
            await house.kv.enqueue(number)
        await house.kv.enqueue(ORDER, keys_if_undelivered=[("failed",)])
        await until(lambda: is_there(house.kv, ("failed",)))
        assert len(await house.admin.messages(limit=50)) == 50
        async with listening(house.kv, seen.take):
            await seen.stay(50)

        assert [dead.type for dead in await house.admin.dead_letters()] == ["order.created"]
        assert (await house.kv.get(("failed",))).value == ORDER


async def test_listener_beside_such_handlers_takes_no_other_types(url: str) -> None:
    paid, bare = Seen(), Seen()

    @on_queue_message("order.paid")
    async def handle(number: int) -> None:
        await asyncio.sleep(0.005)
        paid.add(number)

    settings = {"unhandled": "fail", "concurrency": 1}
    async with app(url, handle, **settings) as house, listening(house.kv, bare.take):
        for number in range(30):
            await house.kv.atomic().enqueue(number).send_message("order.paid", number).commit()

        assert await paid.stay(30) == await bare.stay(30) == list(range(30))


async def test_envelope_given_up_can_be_enqueued_again(url: str) -> None:
    orders = Seen()
    handle = on_queue_message("order.created", backoff_schedule=[])(failing(orders))
    async with app(url, handle) as house:
        await house.kv.enqueue(ORDER, keys_if_undelivered=[("failed",)])
        await house.queue.send_message("order.created", 8, keys_if_undelivered=[("failed", 2)])
        for key in [("failed",), ("failed", 2)]:
            await until(lambda key=key: is_there(house.kv, key))
            await house.kv.enqueue((await house.kv.get(key)).value)

        assert sorted(await orders.stay(4), key=str) == [8, 8, {"id": 7}, {"id": 7}]


@pytest.mark.case(77)
async def test_bare_value_that_looks_like_an_envelope_goes_back_to_listeners(kv: Kv) -> None:
    seen = Seen()
    event = Event(type="order.created", data=1)
    async with listening(kv, failing(seen)):
        await kv.enqueue(event, backoff_schedule=[], keys_if_undelivered=[("failed",)])
        await until(lambda: is_there(kv, ("failed",)))

        await kv.enqueue((await kv.get(("failed",))).value, backoff_schedule=[])

        assert await seen.stay(2) == [event.model_dump()] * 2


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


async def is_there(kv: Kv, key: tuple[Any, ...]) -> bool:
    return (await kv.get(key)).versionstamp is not None
