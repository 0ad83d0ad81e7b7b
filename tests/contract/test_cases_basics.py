"""Cases 58 to 69: a message goes in, and comes out once, in order, soon."""

import asyncio
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from kvqueue_fastapi import HandlerError, PayloadTooLargeError, on_queue_message
from kvqueue_fastapi.model import AtomicWrite, Send, Settlement, Wanted
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import AnyStore, open_store
from kvqueue_fastapi.store.base import ClaimRequest
from tests.contract.harness import Bench, Crowd, Seen, running
from tests.faults.gauges import Steps


class Everything(BaseModel):
    at: datetime = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    key: UUID = UUID(int=7)
    raw: bytes = b"caf\xc3\xa9"
    tags: set[str] = {"a"}
    inner: "Everything | None" = None


@pytest.mark.case(58)
async def test_message_sent_to_a_running_listener_arrives_once(place: str) -> None:
    seen = Seen()
    async with running(place, callbacks={"greet": seen.take}) as bench:
        message_id = await bench.queue.send_message("greet", "test")

        assert await seen.stay(1) == ["test"]

    # On PostgreSQL ids come in blocks of 1,000, of which the first one begins with 1,000.
    assert message_id == (1_000 if place.startswith("postgresql://") else 1)


@pytest.mark.case(59)
@pytest.mark.parametrize(
    "value",
    [
        "",
        "é\0\U0001f600",
        0,
        -1,
        2**63,
        1.5,
        1e300,
        True,
        False,
        None,
        [],
        {},
        [1, [None, {"a": "b"}]],
    ],
    ids=repr,
)
async def test_each_json_value_arrives_equal_and_of_its_type(place: str, value: Any) -> None:
    seen = Seen()

    async def handle(data: Any) -> None:
        seen.add(data)

    async with running(place, callbacks={"value": handle}) as bench:
        await bench.queue.send_messages([("value", value)] * 10)

        came = await seen.reach(10)

    assert came == [value] * 10
    assert {type(one) for one in came} == {type(value)}


@pytest.mark.case(59)
async def test_model_arrives_equal_where_its_handler_names_it(place: str) -> None:
    seen = Seen()
    sent = Everything(inner=Everything(tags=set()))

    async def handle(data: Everything) -> None:
        seen.add(data)

    async with running(place, callbacks={"model": handle}) as bench:
        await bench.queue.send_message("model", sent)

        assert await seen.reach(1) == [sent]


@pytest.mark.case(60)
async def test_values_of_different_types_arrive_one_after_another(place: str) -> None:
    seen = Seen()
    values = ["text", 7, None, [1], {"a": 1.5}, True]
    async with running(place, callbacks={"any": seen.take}) as bench:
        for count, value in enumerate(values, 1):
            await bench.queue.send_message("any", value)
            await seen.reach(count)

    assert seen == values


@pytest.mark.case(61)
async def test_message_stays_until_its_async_handler_has_returned(place: str) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        began.set()
        await go_on.wait()

    async with running(place, callbacks={"slow": slow}) as bench:
        message_id = await bench.queue.send_message("slow")
        await began.wait()
        record = await bench.admin.message(message_id)
        go_on.set()
        await gone(bench, message_id)

    assert record is not None
    assert record.state == "running"


@pytest.mark.case(62)
@pytest.mark.parametrize("result", [False, 42, b"", asyncio.Event(), ValueError("returned")])
async def test_whatever_a_handler_returns_is_success(place: str, result: Any) -> None:
    seen = Seen()

    async def handle() -> Any:
        seen.add("call")
        return result

    async with running(place, callbacks={"odd": handle}, backoff_schedule_s=(0,)) as bench:
        message_id = await bench.queue.send_message("odd")
        await gone(bench, message_id)

        assert await seen.stay(1) == ["call"]
        assert not await bench.admin.dead_letters()


@pytest.mark.case(63)
async def test_message_waits_for_a_listener_also_across_a_reopening(place: str) -> None:
    seen = Seen()
    async with running(place, listen=False) as bench:
        await bench.queue.send_message("later", 1)
    async with running(place, listen=False):
        pass

    async with running(place, callbacks={"later": seen.take}):
        assert await seen.stay(1) == [1]


@pytest.mark.case(64)
async def test_payload_of_65536_bytes_is_the_largest(place: str) -> None:
    largest = "x" * 65_534  # and two quotes
    async with running(place, listen=False) as bench:
        await bench.queue.send_message("big", largest)

        with pytest.raises(
            PayloadTooLargeError, match=r"Payload too large \(max 65536 bytes\): it takes 65537"
        ):
            await bench.queue.send_message("big", largest + "x")
        with pytest.raises(PayloadTooLargeError):
            await bench.queue.send_messages([("big", "small"), ("big", largest + "x")])

        assert [len(record.data) for record in await bench.admin.messages()] == [65_534]


@pytest.mark.case(65)
@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one commit"])
async def test_one_handler_at_a_time_sees_the_order_of_sending(
    place: str,
    together: bool,  # noqa: FBT001 because pytest gives it
) -> None:
    seen = Seen()

    async def handle(number: int) -> None:
        seen.add(number)

    async with running(place, callbacks={"number": handle}, concurrency=1) as bench:
        if together:
            await bench.queue.send_messages([("number", number) for number in range(1_000)])
        else:
            for number in range(1_000):
                await bench.queue.send_message("number", number)

        assert await seen.reach(1_000) == list(range(1_000))


@pytest.mark.case(66)
async def test_processes_on_one_file_share_messages_and_handle_each_once(place: str) -> None:
    seen, crowd = Seen(), Crowd()

    def handler(name: str) -> Any:
        async def handle(number: int) -> None:
            crowd.enter(name)
            seen.add(number)
            await asyncio.sleep(0.01)

        return handle

    async with (
        running(place, callbacks={"n": handler("first")}, concurrency=2) as first,
        running(place, callbacks={"n": handler("second")}, concurrency=2),
    ):
        await first.queue.send_messages([("n", number) for number in range(100)])
        came = await seen.stay(100)

    assert sorted(came) == list(range(100))
    assert min(crowd.now["first"], crowd.now["second"]) >= 10


@pytest.mark.case(66)
async def test_second_listener_for_a_type_on_one_queue_is_refused(place: str) -> None:
    @on_queue_message("greet")
    def greet() -> None: ...

    with pytest.raises(HandlerError, match="Two handlers take 'greet'"):
        async with running(place, greet, callbacks={"greet": lambda: None}):
            pass


@pytest.mark.case(67)
async def test_one_queue_sends_and_another_listens(place: str) -> None:
    seen = Seen()
    async with (
        running(place, listen=False) as sender,
        running(place, callbacks={"n": seen.take}),
    ):
        await sender.queue.send_message("n", 1)

        assert await seen.stay(1) == [1]


@pytest.mark.case(68)
async def test_idle_queue_delivers_within_50_ms_in_its_process(tmp_path: Path) -> None:
    # By the median, because the machine may have other things to do; the p99 is a benchmark's.
    assert median(await latencies(tmp_path, 100)) < 0.05


@pytest.mark.case(68)
async def test_idle_queue_delivers_within_a_second_from_another_connection(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, listen=False) as sender:
        late_s = await latencies(tmp_path, 20, sender)

    assert late_s[-1] < 1


@pytest.mark.case(69)
async def test_messages_of_a_backlog_of_50000_take_the_same_work_as_of_1000(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In steps of the database, because seconds are the machine's; the rates are a benchmark's.
    steps = Steps(monkeypatch)

    shallow = await steps_to_empty(await filled(tmp_path / "shallow", 1_000), steps)
    deep = await steps_to_empty(await filled(tmp_path / "deep", 50_000), steps)

    assert shallow > 10_000
    assert deep < 1.1 * shallow


async def gone(bench: Bench, message_id: int) -> None:
    while await bench.admin.message(message_id) is not None:
        await asyncio.sleep(0.005)


async def latencies(where: Path, count: int, sender: Bench | None = None) -> list[float]:
    """Seconds from the send to the handler, sorted."""
    seen = Seen()
    sent: list[float] = []

    async def handle(number: int) -> None:
        seen.add(number)

    async with running(where, callbacks={"ping": handle}) as bench:
        for number in range(count):
            sent.append(time.monotonic())
            await (sender or bench).queue.send_message("ping", number)
            await seen.reach(number + 1)
    return sorted(came - at for at, came in zip(sent, seen.times, strict=True))


async def filled(path: Path, count: int) -> AnyStore:
    store = await open_store(str(path), KvQueueSettings())
    await store.commit(AtomicWrite(sends=[Send("n", json.dumps(n)) for n in range(count)]))
    return store


async def steps_to_empty(store: AnyStore, steps: Steps) -> int:
    """What it takes to claim and settle 500, ten at a time, and to close."""
    steps.taken()
    for _ in range(50):
        claimed = await store.claim(ClaimRequest([Wanted("n", 10)], limit=10, lease_ms=30_000))
        await store.settle([Settlement(claim.id, claim.token) for claim in claimed.claims])
    await store.close()
    return steps.taken()
