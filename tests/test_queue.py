import asyncio
import contextvars
import threading
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from injector import Injector
from pydantic import BaseModel, Field

from kvqueue_fastapi import (
    HandlerError,
    IdempotencyConflictError,
    InvalidOptionError,
    KvQueue,
    KvQueueError,
    KvQueueModule,
    Message,
    OutgoingMessage,
    PayloadError,
    QueueFullError,
    SendOptions,
    on_queue_message,
)
from kvqueue_fastapi.model import AtomicWrite, Idempotency, Send
from tests.contract.harness import ManualClock, Seen, by_hand, running, until


class Aliased(BaseModel):
    number: int = Field(validation_alias="nr")


class Excluding(BaseModel):
    number: int = Field(exclude=True)


async def nothing() -> None: ...


@pytest.mark.parametrize(
    ("message_type", "text"),
    [
        ("", "Message type is '', allowed is a string of 1 to 255 characters"),
        ("x" * 256, "allowed is a string of 1 to 255 characters"),
        (None, "Message type is None"),
        (7, "Message type is 7"),
        (["n"], r"Message type is \['n'\]"),
        (b"n", "Message type is b'n'"),
        ("a\nb", "has a control character. Leave it out"),
        ("\ud800", "has a control character"),
    ],
)
async def test_what_is_no_message_type_is_refused(
    tmp_path: Path, message_type: Any, text: str
) -> None:
    async with running(tmp_path, listen=False) as bench:
        with pytest.raises(InvalidOptionError, match=text):
            await bench.queue.send_message(message_type, 1)
        with pytest.raises(InvalidOptionError, match=text):
            await bench.queue.send_messages([("fine", 1), (message_type, 1)])

        assert not await bench.admin.messages()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"priority": 1_000_001}, "priority is 1000001, allowed is a whole number from -1000000"),
        ({"priority": 1.5}, r"priority is 1\.5, allowed"),
        ({"priority": True}, "priority is True, allowed"),
        ({"priority": None}, "priority is None, allowed"),
        ({"ordering_key": ""}, "ordering_key is '', allowed are 1 to 255 printable characters"),
        ({"ordering_key": "k" * 256}, "allowed are 1 to 255 printable characters"),
        ({"ordering_key": "a\0"}, "ordering_key is .* Use an id or a digest"),
        ({"ordering_key": 7}, "ordering_key is 7"),
        ({"idempotency_key": ""}, "idempotency_key is ''"),
        ({"idempotency_key": b"k"}, "idempotency_key is b'k'"),
        ({"headers": {"a": 1}}, "Header 'a' has the value 1: .*Convert them with"),
        ({"headers": {"": "a"}}, "names are str and not empty"),
        ({"headers": [("a", "b")]}, "Headers must be a mapping of str to str"),
        ({"headers": {"a": "x" * 8_192}}, "Headers take 8193 bytes, the limit is 8192"),
    ],
)
async def test_option_outside_its_limits_is_refused_with_value_limit_and_remedy(
    tmp_path: Path, options: dict[str, Any], text: str
) -> None:
    async with running(tmp_path, listen=False) as bench:
        with pytest.raises(InvalidOptionError, match=text):
            await bench.queue.send_message("n", 1, **options)

        assert not await bench.admin.messages()


async def test_headers_arrive_as_they_were_sent(tmp_path: Path) -> None:
    seen = Seen()
    headers = {"traceparent": "00-abc", "é": "\0\n", "large": "x" * 8_000}

    async def handle(message: Message) -> None:
        seen.add(dict(message.headers))

    async with running(tmp_path, callbacks={"n": handle}) as bench:
        await bench.queue.send_message("n", headers=headers)
        await bench.queue.send_message("n", headers={})

        assert await seen.reach(2) == [headers, {}]


async def test_message_without_data_carries_none(tmp_path: Path) -> None:
    seen = Seen()
    async with running(tmp_path, callbacks={"n": seen.take}) as bench:
        await bench.queue.send_message("n")

        assert await seen.reach(1) == [None]


@pytest.mark.parametrize(
    ("hint", "data"), [(Aliased, Aliased(nr=1)), (Excluding, Excluding(number=1)), (int, "one")]
)
async def test_payload_that_its_handler_would_not_take_back_is_refused_when_sent(
    tmp_path: Path, hint: Any, data: Any
) -> None:
    async def handle(payload: hint) -> None: ...

    handle.__annotations__["payload"] = hint
    async with running(tmp_path, callbacks={"n": handle}) as bench:
        with pytest.raises(PayloadError, match="does not fit"):
            await bench.queue.send_message("n", data)

        assert not await bench.admin.messages()


@pytest.mark.parametrize("data", [object(), {1: object()}, asyncio.sleep, threading.Lock()])
async def test_what_is_no_json_is_refused_when_sent(tmp_path: Path, data: Any) -> None:
    async with running(tmp_path, listen=False) as bench:
        with pytest.raises(PayloadError, match="cannot be encoded as JSON"):
            await bench.queue.send_message("n", data)

        assert not await bench.admin.messages()


async def test_many_are_stored_in_order_with_their_options(tmp_path: Path) -> None:
    async with running(tmp_path, listen=False) as bench:
        ids = await bench.queue.send_messages(
            [("a", 1), OutgoingMessage("b", 2, SendOptions(priority=3)), OutgoingMessage("c")]
        )
        records = await bench.admin.messages()

        assert await bench.queue.send_messages(iter([])) == []

    assert [record.id for record in records] == ids == [1, 2, 3]
    assert [(r.type, r.data, r.priority) for r in records] == [
        ("a", 1, 0),
        ("b", 2, 3),
        ("c", None, 0),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        ("n", object()),
        ("", 1),
        "ab",
        ("n",),
        ["n", 1],
        OutgoingMessage("n", 1, SendOptions(delay=-1)),
    ],
)
async def test_one_wrong_message_keeps_the_others_from_being_stored(
    tmp_path: Path, wrong: Any
) -> None:
    async with running(tmp_path, listen=False) as bench:
        with pytest.raises(KvQueueError):
            await bench.queue.send_messages([("n", 1), wrong])

        assert not await bench.admin.messages()


async def test_conflict_within_many_stores_none_of_them(tmp_path: Path) -> None:
    once = SendOptions(idempotency_key="k")
    async with running(tmp_path, listen=False) as bench:
        with pytest.raises(IdempotencyConflictError):
            await bench.queue.send_messages(
                [("n", 0), OutgoingMessage("n", 1, once), OutgoingMessage("n", 2, once)]
            )

        assert not await bench.admin.messages()


async def test_more_than_10000_at_once_are_refused(tmp_path: Path) -> None:
    async with running(tmp_path, listen=False) as bench:
        with pytest.raises(InvalidOptionError, match="at most 10000 messages: received 10001"):
            await bench.queue.send_messages(("n", number) for number in range(10_001))

        assert len(await bench.queue.send_messages([("n", 1)] * 10_000)) == 10_000


async def test_same_idempotency_key_and_body_is_the_same_message_also_when_it_is_handled(
    tmp_path: Path,
) -> None:
    seen = Seen()
    async with running(tmp_path, callbacks={"n": seen.take}) as bench:
        first = await bench.queue.send_message("n", {"a": 1, "b": 2}, idempotency_key="k")
        await seen.reach(1)
        again = await bench.queue.send_message(
            "n", {"b": 2, "a": 1}, idempotency_key="k", priority=7, delay=1
        )
        other_type = await bench.queue.send_message("m", {"c": 3}, idempotency_key="k")
        await seen.stay(1)

    assert first == again
    assert other_type != first


async def test_same_idempotency_key_with_another_body_is_a_conflict(tmp_path: Path) -> None:
    async with running(tmp_path, listen=False) as bench:
        first = await bench.queue.send_message("n", 1, idempotency_key="k")

        with pytest.raises(IdempotencyConflictError, match="belongs to message 1") as caught:
            await bench.queue.send_message("n", 2, idempotency_key="k")

        assert len(await bench.admin.messages()) == 1
    error = caught.value
    assert (error.message_type, error.idempotency_key, error.message_id) == ("n", "k", first)


async def test_senders_in_one_commit_see_each_others_idempotency_keys(tmp_path: Path) -> None:
    async with running(tmp_path, listen=False) as bench:
        sends = [
            bench.queue.send_message("n", n % 2, idempotency_key="k" if n < 10 else None)
            for n in range(20)
        ]
        results = await asyncio.gather(*sends, return_exceptions=True)

        assert len(await bench.admin.messages()) == 11
    assert set(results[:10:2]) == {1}
    assert {type(result) for result in results[1:10:2]} == {IdempotencyConflictError}


async def test_idempotency_key_is_free_after_its_window(tmp_path: Path) -> None:
    clock = ManualClock()
    send = Send("n", "1", idempotency=Idempotency("k", b"digest", window_ms=1_000))
    ids = []
    async with by_hand(tmp_path, clock) as hand:
        for advance_ms in (0, 999, 1):
            clock.advance(advance_ms)
            ids += (await hand.store.commit(AtomicWrite(sends=[send]))).message_ids

    assert ids == [1, 1, 2]


async def test_send_is_refused_while_as_many_messages_wait_as_may(tmp_path: Path) -> None:
    seen, go_on = Seen(), asyncio.Event()

    async def handle(data: int) -> None:
        seen.add(data)
        await go_on.wait()

    async with running(tmp_path, callbacks={"n": handle}, max_pending=3, concurrency=1) as bench:
        await bench.queue.send_message("n", 0)
        await seen.reach(1)
        for options in ({}, {"delay": 60}, {"ordering_key": "k", "delay": 60}):
            await bench.queue.send_message("n", 1, **options)

        with pytest.raises(QueueFullError, match="3 messages wait, the limit is 3") as caught:
            await bench.queue.send_message("n", 2)
        with pytest.raises(QueueFullError):
            await bench.queue.send_messages([("other", 2)])
        go_on.set()
        await until(lambda: takes(bench.queue))
    assert (caught.value.pending, caught.value.limit) == (3, 3)


async def test_senders_at_once_pass_the_limit_by_one_commit_at_most(tmp_path: Path) -> None:
    async with running(tmp_path, listen=False, max_pending=50) as bench:
        for _ in range(10):
            sends = (bench.queue.send_message("n") for _ in range(20))
            await asyncio.gather(*sends, return_exceptions=True)

        assert 50 <= len(await bench.admin.messages(limit=1_000)) <= 70


@pytest.mark.parametrize(
    ("message_type", "callback", "text"),
    [
        ("", nothing, "Message type is ''"),
        (["n"], nothing, "Message type is"),
        ("n", 5, "5 is listed as a handler, but cannot be called"),
        ("taken", nothing, "Type 'taken' has a listener already"),
    ],
)
def test_wrong_listener_is_refused_when_it_is_added(
    message_type: Any, callback: Any, text: str
) -> None:
    queue = Injector([KvQueueModule(":memory:")]).get(KvQueue)
    queue.add_listener("taken", nothing)

    with pytest.raises(HandlerError, match=text):
        queue.add_listener(message_type, callback)

    assert list(queue.callbacks) == ["taken"]


async def test_listener_cannot_be_added_after_the_start(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        with pytest.raises(HandlerError, match="Call add_listener before the app starts"):
            bench.queue.add_listener("n", nothing)


async def test_run_until_idle_handles_what_is_due_and_what_becomes_due_meanwhile(
    tmp_path: Path,
) -> None:
    seen = Seen()

    async def handle(number: int) -> None:
        seen.add(number)
        if number:
            await bench.queue.send_message("n", number - 1)

    settings = {"listen": False, "backoff_schedule_s": (60,)}
    async with running(tmp_path, callbacks={"n": handle, "bad": fail}, **settings) as bench:
        await bench.queue.send_message("n", 3)
        await bench.queue.send_message("bad")
        await bench.queue.send_message("n", 9, delay=60)

        assert await bench.queue.run_until_idle() == 5
        assert await bench.queue.run_until_idle() == 0
        assert [r.state for r in await bench.admin.messages()] == ["delayed", "delayed"]
        assert not await bench.admin.listeners()
    assert seen == [3, 2, 1, 0]


@pytest.mark.parametrize("count", [3, 40])
async def test_run_until_idle_takes_types_in_turns_one_message_at_a_time(
    tmp_path: Path, count: int
) -> None:
    seen = Seen()

    async def handle(message: Message) -> None:
        seen.add(message.type)

    callbacks = dict.fromkeys([f"t{number:02}" for number in range(count)], handle)
    async with running(tmp_path, callbacks=callbacks, listen=False) as bench:
        await bench.queue.send_messages([(kind, n) for kind in callbacks for n in range(10)])

        assert await bench.queue.run_until_idle() == 10 * count
    assert set(seen[: 5 * count]) == set(callbacks)


async def test_run_until_idle_handles_many_types_beside_one_that_nobody_handles(
    tmp_path: Path,
) -> None:
    seen = Seen()
    types = [f"t{number:02}" for number in range(17)]
    callbacks = dict.fromkeys(types, seen.take)
    async with running(tmp_path, callbacks=callbacks, listen=False) as bench:
        await bench.queue.send_message("unhandled", 0)
        await bench.queue.send_messages([(kind, n) for n in range(3) for kind in types[:16]])

        assert await bench.queue.run_until_idle() == 48


async def test_run_until_idle_goes_on_after_a_task_group_has_failed(tmp_path: Path) -> None:
    async def handle(data: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    settings = {"listen": False, "backoff_schedule_s": (0, 60)}
    async with running(tmp_path, callbacks={"n": handle}, **settings) as bench:
        await bench.queue.send_messages([("n", 1), ("n", 2)])

        assert await bench.queue.run_until_idle() == 4
        assert [(r.state, r.attempt) for r in await bench.admin.messages()] == [("delayed", 2)] * 2


async def test_run_until_idle_keeps_contexts_apart_as_the_listener_does(tmp_path: Path) -> None:
    seen = Seen()
    current = contextvars.ContextVar("current", default="empty")
    current.set("the caller's")

    async def handle(data: str) -> None:
        seen.add(current.get())
        current.set(data)

    async with running(tmp_path, callbacks={"n": handle}, listen=False) as bench:
        await bench.queue.send_messages([("n", "first"), ("n", "second")])
        await bench.queue.run_until_idle()

    assert (seen, current.get()) == (["empty", "empty"], "the caller's")


async def test_cancelled_run_until_idle_stops_and_gives_its_message_back(tmp_path: Path) -> None:
    seen = Seen()

    async def handle(data: int) -> None:
        seen.add(data)
        await asyncio.sleep(60)

    async with running(tmp_path, callbacks={"n": handle}, listen=False) as bench:
        await bench.queue.send_messages([("n", 1), ("n", 2)])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await bench.queue.run_until_idle()

        records = await bench.admin.messages()
    assert seen == [1]
    assert [(r.state, r.attempt, r.crashes) for r in records] == [("ready", 0, 0)] * 2


async def test_cancelled_run_until_idle_waits_for_a_thread_that_it_cannot_stop(
    tmp_path: Path,
) -> None:
    seen, ended = Seen(), Seen()

    def handle(data: int) -> None:
        seen.add(data)
        time.sleep(0.3)
        ended.add(data)

    async with running(tmp_path, callbacks={"n": handle}, listen=False) as bench:
        await bench.queue.send_message("n", 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await bench.queue.run_until_idle()

        assert ended == [1]
        assert not await bench.admin.messages()


async def test_cancelled_run_until_idle_keeps_what_its_handler_finished(tmp_path: Path) -> None:
    seen = Seen()

    async def stubborn(data: int) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.add(data)

    async with running(tmp_path, callbacks={"n": stubborn}, listen=False) as bench:
        await bench.queue.send_messages([("n", 1), ("n", 2)])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await bench.queue.run_until_idle()

        assert [record.data for record in await bench.admin.messages()] == [2]


async def test_sync_handler_sends_through_the_one_door(tmp_path: Path) -> None:
    seen = Seen()

    def handle(data: int) -> None:
        assert bench.queue.send_message_sync("next", data + 1, priority=3) == 2
        with pytest.raises(InvalidOptionError):
            bench.queue.send_message_sync("", data)

    async with running(tmp_path, callbacks={"first": handle, "next": seen.take}) as bench:
        await bench.queue.send_message("first", 1)

        assert await seen.stay(1) == [2]


async def test_sync_door_is_refused_on_the_event_loop_and_in_any_other_thread(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, listen=False) as bench:
        with pytest.raises(KvQueueError, match=r"Elsewhere write `await queue\.send_message"):
            bench.queue.send_message_sync("n", 1)
        with pytest.raises(KvQueueError, match="works in `def` routes and `def` handlers"):
            await asyncio.to_thread(bench.queue.send_message_sync, "n", 1)


async def test_cancelled_sender_harms_nobody(tmp_path: Path) -> None:
    async with running(tmp_path, listen=False) as bench:
        sends = [asyncio.ensure_future(bench.queue.send_message("n", n)) for n in range(50)]
        await asyncio.sleep(0)
        for send in sends[::2]:
            send.cancel()
        results = await asyncio.gather(*sends, return_exceptions=True)

        stored = {record.id: record.data for record in await bench.admin.messages()}
    assert all(stored[message_id] == n for n, message_id in enumerate(results) if n % 2)  # type: ignore[index]


async def test_ids_are_never_used_again(tmp_path: Path) -> None:
    ids: list[int] = []
    for _ in range(3):
        async with running(tmp_path, listen=False) as bench:
            ids += await bench.queue.send_messages([("n", 1), ("n", 2)])
            await bench.admin.discard(ids)

    assert ids == [1, 2, 3, 4, 5, 6]


async def test_decorated_handler_and_dates_work_as_the_readme_says(tmp_path: Path) -> None:
    seen = Seen()

    class Day(BaseModel):
        on: date
        tags: Sequence[str] = ()

    @on_queue_message("day")
    async def handle(day: Day) -> None:
        seen.add(day)

    async with running(tmp_path, handle) as bench:
        await bench.queue.send_message("day", Day(on=date(2026, 2, 28), tags=["a"]))
        await bench.queue.send_message("day", {"on": "2026-02-28"})

        assert await seen.reach(2) == [
            Day(on=date(2026, 2, 28), tags=["a"]),
            Day(on=date(2026, 2, 28)),
        ]


async def fail() -> None:
    raise ValueError


async def takes(queue: KvQueue) -> bool:
    try:
        await queue.send_message("other")
    except QueueFullError:
        return False
    return True
