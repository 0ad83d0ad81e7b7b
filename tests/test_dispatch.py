import asyncio
import contextvars
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from kvqueue_fastapi import (
    InvalidOptionError,
    Message,
    PayloadError,
    Reject,
    RetryLater,
    on_queue_message,
)
from kvqueue_fastapi.model import AtomicWrite, Outcome, Send, Settlement
from tests.contract.harness import Hand, ManualClock, Seen, by_hand, running, until

OWN = '{"backoff_schedule_ms": [100]}'
NONE = '{"backoff_schedule_ms": []}'
CURRENT: contextvars.ContextVar[str] = contextvars.ContextVar("CURRENT", default="empty")


class OwnBaseError(BaseException): ...


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError


class Order(BaseModel):
    order_id: int


async def end(hand: Hand, *, options: str | None = None, data: str = "1") -> Settlement:
    """Send a message, handle it, and tell how it ended."""
    await hand.store.commit(AtomicWrite(sends=[Send("n", data, options=options)]))
    (claim,) = await hand.claim("n")
    settlement = await hand.handle(claim)
    assert settlement is not None
    await hand.store.settle([settlement])
    return settlement


def raising(error: BaseException, **options: Any) -> Callable[..., Any]:
    @on_queue_message("n", **options)
    async def handle() -> None:
        raise error

    return handle


@pytest.mark.parametrize(
    ("message", "handler", "delay_ms"),
    [
        (OWN, [0.2], 100),
        (OWN, None, 100),
        (None, [0.2], 200),
        (None, None, 300),
        (NONE, [0.2], None),
        (None, [], None),
    ],
)
async def test_messages_schedule_wins_over_the_handlers_and_that_over_the_settings(
    tmp_path: Path, message: str | None, handler: list[float] | None, delay_ms: int | None
) -> None:
    handle = raising(ValueError(), backoff_schedule=handler)
    async with by_hand(tmp_path, ManualClock(), handle, backoff_schedule_s=(0.3,)) as hand:
        settlement = await end(hand, options=message)

    expected = (Outcome.DEAD, 0) if delay_ms is None else (Outcome.RETRY, delay_ms)
    assert (settlement.outcome, settlement.delay_ms) == expected


async def test_retry_is_due_a_step_after_the_settling_and_not_after_the_claim(
    tmp_path: Path,
) -> None:
    clock = ManualClock()

    @on_queue_message("n")
    async def slow() -> None:
        clock.advance(500)
        raise ValueError

    async with by_hand(tmp_path, clock, slow, backoff_schedule_s=(1,)) as hand:
        await end(hand)
        record = await hand.store.admin.show(1)

    assert record is not None
    assert record.due_at_ms == clock.now_ms + 1_000
    assert [error.at_ms for error in record.errors] == [clock.now_ms]


async def test_jitter_adds_up_to_its_share_of_the_step(tmp_path: Path) -> None:
    settings = {"backoff_schedule_s": (10,), "retry_jitter": 0.5}
    async with by_hand(tmp_path, ManualClock(), raising(ValueError()), **settings) as hand:
        delays = [(await end(hand)).delay_ms for _ in range(30)]

    assert all(10_000 <= delay_ms <= 15_000 for delay_ms in delays)
    assert len(set(delays)) > 5


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (LookupError("given up"), Outcome.DEAD),
        (KeyError("a kind of it"), Outcome.DEAD),
        (ValueError("another"), Outcome.RETRY),
    ],
)
async def test_error_that_the_handler_gives_up_on_makes_a_dead_letter_at_once(
    tmp_path: Path, error: Exception, outcome: Outcome
) -> None:
    handle = raising(error, give_up_on=[LookupError])
    async with by_hand(tmp_path, ManualClock(), handle) as hand:
        assert (await end(hand)).outcome is outcome


async def test_reject_makes_a_dead_letter_with_its_reason(tmp_path: Path) -> None:
    async with by_hand(tmp_path, ManualClock(), raising(Reject("no such order"))) as hand:
        await end(hand)
        dead = await hand.store.admin.show(1)

    assert dead is not None
    assert (dead.state, dead.reason, dead.attempt) == ("dead", "Reject: no such order", 1)


async def test_retry_later_spends_no_attempt_however_often(tmp_path: Path) -> None:
    clock = ManualClock()
    seen = Seen()

    @on_queue_message("n", backoff_schedule=[])
    async def handle(message: Message) -> None:
        seen.add((clock.now_ms, message.attempt))
        raise RetryLater(timedelta(seconds=60))

    async with by_hand(tmp_path, clock, handle) as hand:
        began_ms = clock.now_ms
        await hand.store.commit(AtomicWrite(sends=[Send("n", "1")]))
        for _ in range(30):
            await hand.turn()
            clock.advance(10_000)

    assert seen == [(began_ms + minute * 60_000, 1) for minute in range(5)]


@pytest.mark.parametrize("delay", [-1, float("nan"), 30 * 86_400 + 1, "soon", None])
async def test_retry_later_with_a_wrong_delay_is_a_failure(tmp_path: Path, delay: Any) -> None:
    async with by_hand(tmp_path, ManualClock(), raising(RetryLater(delay))) as hand:
        settlement = await end(hand)

    assert settlement.outcome is Outcome.RETRY
    assert settlement.failure is not None
    assert settlement.failure.text.startswith(f"{InvalidOptionError.__name__}: RetryLater ")


async def test_timeout_cancels_the_handler_and_is_a_failure(tmp_path: Path) -> None:
    seen = Seen()

    @on_queue_message("n", timeout=0.02)
    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            seen.add("cancelled")

    async with by_hand(tmp_path, ManualClock(), slow) as hand:
        settlement = await end(hand)

    assert seen == ["cancelled"]
    assert settlement.outcome is Outcome.RETRY
    assert settlement.failure is not None
    assert "slow took longer than its timeout of 0.02 s" in settlement.failure.text


async def test_handlers_own_timeout_error_keeps_its_text(tmp_path: Path) -> None:
    handle = raising(TimeoutError("the bank is slow"), timeout=5)
    async with by_hand(tmp_path, ManualClock(), handle) as hand:
        settlement = await end(hand)

    assert settlement.failure is not None
    assert settlement.failure.text == "TimeoutError: the bank is slow"


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(1),
        KeyboardInterrupt(),
        GeneratorExit(),
        asyncio.CancelledError("its own"),
        StopIteration(),
        StopAsyncIteration(),
        RecursionError(),
        MemoryError(),
        OwnBaseError(),
        BaseExceptionGroup("several", [OwnBaseError()]),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_whatever_a_handler_raises_it_is_retried_and_the_listener_goes_on(
    tmp_path: Path,
    error: BaseException,
    is_async: bool,  # noqa: FBT001 because pytest gives it
) -> None:
    seen, good = Seen(), Seen()

    def sync() -> None:
        seen.add("call")
        raise error

    async def handle() -> None:
        sync()

    callbacks = {"bad": handle if is_async else sync, "good": good.take}
    async with running(tmp_path, callbacks=callbacks, backoff_schedule_s=(0,)) as bench:
        await bench.queue.send_message("bad", ordering_key="k")
        await bench.queue.send_message("good", 1, ordering_key="k")
        await good.stay(1)

        assert [len(dead.errors) for dead in await bench.admin.dead_letters()] == [2]
    assert len(seen) == 2


async def test_endless_recursion_is_a_failure_like_any_other(tmp_path: Path) -> None:
    @on_queue_message("n")
    async def handle() -> None:
        await handle()

    async with by_hand(tmp_path, ManualClock(), handle) as hand:
        settlement = await end(hand)

    assert settlement.outcome is Outcome.RETRY
    assert settlement.failure is not None
    assert settlement.failure.text.startswith("RecursionError: ")
    assert len(settlement.failure.trace) <= 8_000


async def test_task_that_somebody_else_cancelled_is_a_failure_of_who_awaits_it(
    tmp_path: Path,
) -> None:
    @on_queue_message("n")
    async def handle() -> None:
        inner = asyncio.ensure_future(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(inner.cancel)
        await inner

    async with by_hand(tmp_path, ManualClock(), handle) as hand:
        assert (await end(hand)).outcome is Outcome.RETRY


async def test_failed_task_group_is_a_failure_and_is_not_taken_for_a_shutdown(
    tmp_path: Path,
) -> None:
    async def fail() -> None:
        raise ValueError

    @on_queue_message("n")
    async def handle() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    async with running(tmp_path, handle, backoff_schedule_s=(60,)) as bench:
        message_id = await bench.queue.send_message("n")
        await until(lambda: has_failed(bench.admin, message_id))
        record = await bench.admin.message(message_id)

    assert record is not None
    assert (record.state, record.attempt, len(record.errors)) == ("delayed", 1, 1)


@pytest.mark.parametrize(
    "error",
    [UnprintableError(), ValueError("\0\udcff"), ValueError("é" * 100_000)],
    ids=["unprintable", "unstorable", "long"],
)
async def test_error_with_an_odd_text_is_kept_all_the_same(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest-xdist cannot carry such a log.
    monkeypatch.setattr(logging.getLogger("kvqueue_fastapi"), "disabled", True)
    async with by_hand(tmp_path, ManualClock(), raising(error, backoff_schedule=[])) as hand:
        await end(hand)
        dead = await hand.store.admin.show(1)

    assert dead is not None
    assert dead.reason is not None
    assert dead.reason.startswith(type(error).__name__)
    assert len(dead.reason) <= 1_000


async def test_handler_that_raises_our_payload_error_is_retried(tmp_path: Path) -> None:
    async with by_hand(tmp_path, ManualClock(), raising(PayloadError("its own"))) as hand:
        assert (await end(hand)).outcome is Outcome.RETRY


@pytest.mark.parametrize("data", ['{"order_id": "seven"}', "{", "", "5", "null"])
async def test_stored_payload_that_does_not_fit_is_a_dead_letter_at_once(
    tmp_path: Path, data: str
) -> None:
    @on_queue_message("n")
    async def handle(order: Order) -> None:
        pytest.fail("it was called")

    async with by_hand(tmp_path, ManualClock(), handle) as hand:
        settlement = await end(hand, data=data)

    assert settlement.outcome is Outcome.DEAD
    assert settlement.failure is not None
    assert settlement.failure.text.startswith("PayloadError: Payload ")


async def test_message_tells_what_is_known_of_it(tmp_path: Path) -> None:
    seen = Seen()

    async def handle(message: Message[Order]) -> None:
        seen.add(message)
        if message.attempt == 1:
            raise ValueError

    began = datetime.now(UTC) - timedelta(milliseconds=1)
    async with running(tmp_path, callbacks={"n": handle}, backoff_schedule_s=(0,)) as bench:
        message_id = await bench.queue.send_message("n", {"order_id": 7}, headers={"a": "b"})
        first, message = await seen.reach(2)

    assert (message.id, message.type, message.data) == (message_id, "n", Order(order_id=7))
    assert (first.attempt, message.attempt) == (1, 2)
    assert (dict(message.headers), message.lease_lost) == ({"a": "b"}, False)
    assert began <= message.sent_at <= datetime.now(UTC)
    assert repr(message) == f"<Message {message_id} 'n' attempt 2>"
    with pytest.raises(TypeError):
        message.headers["a"] = "c"


async def test_each_attempt_gets_a_payload_of_its_own(tmp_path: Path) -> None:
    seen = Seen()

    async def handle(data: dict[str, list[int]]) -> None:
        data["n"].append(len(seen))
        if seen.add(data["n"]) == 1 and len(seen) == 1:
            raise ValueError

    async with running(tmp_path, callbacks={"n": handle}, backoff_schedule_s=(0,)) as bench:
        await bench.queue.send_message("n", {"n": []})

        assert await seen.reach(2) == [[0], [1]]


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_nothing_leaks_from_one_context_into_another(
    tmp_path: Path,
    is_async: bool,  # noqa: FBT001 because pytest gives it
) -> None:
    seen = Seen()
    CURRENT.set("the starter's")

    def sync(data: str) -> None:
        seen.add(CURRENT.get())
        CURRENT.set(data)

    async def handle(data: str) -> None:
        sync(data)

    callbacks = {"n": handle if is_async else sync}
    async with running(tmp_path, callbacks=callbacks, concurrency=1) as bench:
        await bench.queue.send_messages([("n", "first"), ("n", "second")])
        await seen.reach(2)

    assert seen == ["empty", "empty"]
    assert CURRENT.get() == "the starter's"


async def test_sync_handlers_run_beside_the_event_loop(tmp_path: Path) -> None:
    seen = Seen()

    def block(data: str) -> None:
        time.sleep(0.2)
        seen.add(data)

    async with running(tmp_path, callbacks={"block": block, "n": seen.take}) as bench:
        await bench.queue.send_message("block", "blocked")
        await until(lambda: is_running(bench.admin))
        await bench.queue.send_message("n", "free")

        assert await seen.reach(2) == ["free", "blocked"]


async def test_handler_that_another_process_may_have_taken_over_can_tell(tmp_path: Path) -> None:
    seen, go_on = Seen(), asyncio.Event()

    async def handle(message: Message) -> None:
        seen.add(message)
        await go_on.wait()

    async with running(tmp_path, callbacks={"n": handle}, lease_s=1) as bench:
        await bench.queue.send_message("n")
        await seen.reach(1)
        # What another process does with a lease that has ended.
        store = bench.queue._handle.store
        await store._transact(lambda db: db.execute("UPDATE kvqueue_messages SET token = 1"))
        await until(lambda: lost(seen[0]))
        assert seen[0].lease_lost
        go_on.set()


async def lost(message: Message) -> bool:
    return message.lease_lost


async def has_failed(admin: Any, message_id: int) -> bool:
    return bool((await admin.message(message_id)).errors)


async def is_running(admin: Any) -> bool:
    return bool(await admin.messages(state="running"))


async def test_a_handler_that_cancels_itself_has_failed(tmp_path: Path) -> None:
    @on_queue_message("n")
    async def cancel_myself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async with by_hand(tmp_path, ManualClock(), cancel_myself) as hand:
        settlement = await end(hand)

    assert settlement.outcome is Outcome.RETRY


async def test_retry_later_is_counted(tmp_path: Path) -> None:
    @on_queue_message("n")
    async def put_off() -> None:
        raise RetryLater(0)

    async with by_hand(tmp_path, ManualClock(), put_off) as hand:
        sent = await hand.store.commit(AtomicWrite(sends=[Send("n", "1")]))
        for _ in range(3):
            await hand.turn()
        record = await hand.store.admin.show(sent.message_ids[0])

    assert record is not None
    assert (record.attempt, record.deferrals) == (0, 3)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_kept_trace_begins_with_the_handler(tmp_path: Path, kind: str) -> None:
    @on_queue_message("n")
    async def in_loop() -> None:
        raise ValueError("here")

    @on_queue_message("n")
    def in_thread() -> None:
        raise ValueError("here")

    handler = in_loop if kind == "async" else in_thread
    async with by_hand(tmp_path, ManualClock(), handler) as hand:
        settlement = await end(hand)

    assert settlement.failure is not None
    header, first, *_ = settlement.failure.trace.splitlines()
    assert header.startswith("Traceback")
    assert f"in {handler.__name__}" in first
