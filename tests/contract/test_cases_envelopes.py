"""Who gets what is enqueued: envelopes the handler of their type, all else the listeners."""

import asyncio
import sqlite3
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import BaseModel

from kvqueue_fastapi import (
    InvalidOptionError,
    Kv,
    Message,
    PayloadError,
    on_queue_message,
)
from tests.contract.harness import Seen, failing, is_there, listening, running, until

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


async def test_envelope_reaches_the_handler_of_its_type_and_all_else_the_listener(
    url: str,
) -> None:
    orders, bare = Seen(), Seen()

    @on_queue_message("order.created")
    async def handle(order: Order) -> None:
        orders.add(order)

    async with running(url, handle) as house, listening(house.kv, bare.take):
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

    async with running(url, handle) as house, listening(house.kv, listen):
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

    async with running(url, handle) as house:
        for value in NO_ENVELOPES:
            await house.kv.enqueue(value)

        assert await seen.stay(len(NO_ENVELOPES)) == NO_ENVELOPES


async def test_envelope_that_its_handler_here_would_not_take_is_refused(url: str) -> None:
    @on_queue_message("order.created")
    async def handle(order: Order) -> None: ...

    wrong = {"type": "order.created", "data": {"id": "seven"}}
    async with running(url, handle) as house:
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
    async with running(url, handle):
        assert await orders.stay(1) == [{"id": 7}]


@pytest.mark.parametrize("consumers", [0, 1])
async def test_process_that_fails_unknown_types_leaves_bare_values_to_listeners(
    url: str, consumers: int
) -> None:
    seen = Seen()

    @on_queue_message("order.paid")
    async def handle(order: Any) -> None: ...

    settings = {"unhandled": "fail", "backoff_schedule_s": ()}
    async with running(url, *[handle] * consumers, **settings) as house:
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
    async with running(url, handle, **settings) as house, listening(house.kv, bare.take):
        for number in range(30):
            await house.kv.atomic().enqueue(number).send_message("order.paid", number).commit()

        assert await paid.stay(30) == await bare.stay(30) == list(range(30))


async def test_envelope_given_up_can_be_enqueued_again(url: str) -> None:
    orders = Seen()
    handle = on_queue_message("order.created", backoff_schedule=[])(failing(orders))
    async with running(url, handle) as house:
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
