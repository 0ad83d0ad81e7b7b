"""`message.atomic()`: the effects of a handler and the end of its message, or neither."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from kvqueue_fastapi import (
    AlreadySettledError,
    HandlerError,
    Kv,
    KvCommit,
    KvU64,
    LeaseLostError,
    Message,
    Reject,
    RetryLater,
    on_queue_message,
)
from tests.contract.harness import QUIET_S, Bench, ManualClock, Seen, by_hand, running, until

COUNT = ("effects", "count")


async def count(message: Message[Any]) -> KvCommit:
    return await message.atomic().sum(COUNT, 1).commit()


async def counted(kv: Kv) -> int:
    value = (await kv.get(COUNT, KvU64)).value
    return 0 if value is None else value.value


async def is_empty(bench: Bench) -> bool:
    return not await bench.admin.messages() and not await bench.admin.dead_letters()


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was logged, but for the decorated functions of other tests that nobody registers."""
    return [record for record in caplog.records if record.module != "consumers"]


async def test_effects_and_the_end_of_the_message_are_one_commit(tmp_path: Path) -> None:
    async def handle(data: str, message: Message) -> None:
        commit = message.atomic().sum(COUNT, 1).set(("seen", data), message.id)
        committed = await commit.send_message("next", data).commit()
        seen.add((committed.ok, len(committed.message_ids)))

    seen, followed = Seen(), Seen()
    async with running(tmp_path, callbacks={"n": handle, "next": followed.take}) as bench:
        sent = await bench.queue.send_message("n", "a")
        await followed.stay(1)

        assert (await bench.kv.get(("seen", "a"))).value == sent
        assert await counted(bench.kv) == 1
        assert await is_empty(bench)
    assert seen == [(True, 1)]


@pytest.mark.parametrize("raised", [ValueError("x"), RetryLater(0), Reject("x"), SystemExit()])
async def test_what_is_raised_after_the_commit_changes_nothing(
    tmp_path: Path, raised: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(data: int, message: Message) -> None:
        await count(message)
        seen.add(data)
        raise raised

    seen = Seen()
    async with running(tmp_path, callbacks={"n": handle}, backoff_schedule_s=(0,)) as bench:
        await bench.queue.send_message("n", 1)
        await seen.stay(1)

        assert await counted(bench.kv) == 1
        assert await is_empty(bench)
    (record,) = told(caplog)
    assert "was settled by its own message.atomic()" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is raised


async def test_timeout_after_the_commit_changes_nothing(tmp_path: Path) -> None:
    @on_queue_message("n", timeout=0.05)
    async def handle(message: Message) -> None:
        await count(message)
        seen.add(1)
        await asyncio.sleep(60)

    seen = Seen()
    async with running(tmp_path, handle, backoff_schedule_s=(0,)) as bench:
        await bench.queue.send_message("n")
        await seen.stay(1)
        await until(lambda: is_empty(bench))

        assert await counted(bench.kv) == 1


async def test_failed_check_writes_nothing_and_the_message_goes_on(tmp_path: Path) -> None:
    async def handle(message: Message) -> None:
        refused = await message.atomic().check(("k",), "0" * 20).sum(COUNT, 1).commit()
        seen.add((message.attempt, refused.ok, message.lease_lost))
        if message.attempt == 1:
            raise ValueError
        seen.add((await count(message)).ok)

    seen = Seen()
    async with running(tmp_path, callbacks={"n": handle}, backoff_schedule_s=(0,)) as bench:
        await bench.queue.send_message("n")
        await seen.stay(3)

        assert await counted(bench.kv) == 1
        assert await is_empty(bench)
    assert seen == [(1, False, False), (2, False, False), True]


async def test_handler_that_fails_before_its_commit_has_no_effect(tmp_path: Path) -> None:
    async def handle(message: Message) -> None:
        operation = message.atomic().sum(COUNT, 1)
        if seen.add(1) < 3:
            raise ValueError
        await operation.commit()

    seen = Seen()
    async with running(tmp_path, callbacks={"n": handle}, backoff_schedule_s=(0, 0)) as bench:
        await bench.queue.send_message("n")
        await seen.stay(3)

        assert await counted(bench.kv) == 1


async def test_failing_arithmetic_leaves_the_message_to_its_retries(tmp_path: Path) -> None:
    async def handle(message: Message) -> None:
        seen.add(message.attempt)
        await message.atomic().set(("before",), 1).sum(("text",), 1).commit()

    seen = Seen()
    async with running(tmp_path, callbacks={"n": handle}, backoff_schedule_s=(0,)) as bench:
        await bench.kv.set(("text",), "no number")
        await bench.queue.send_message("n")
        await seen.stay(2)

        assert (await bench.kv.get(("before",))).versionstamp is None
        (letter,) = await bench.admin.dead_letters()
    assert "non-U64 value in the database" in letter.errors[-1].text


async def test_second_commit_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    async def handle(message: Message) -> None:
        await count(message)
        with pytest.raises(AlreadySettledError, match=f"Message {message.id} was settled before"):
            await count(message)
        seen.add(message.lease_lost)

    seen = Seen()
    async with running(tmp_path, callbacks={"n": handle}) as bench:
        await bench.queue.send_message("n")
        await seen.stay(1)

        assert await counted(bench.kv) == 1
    assert seen == [False]


async def test_of_two_commits_at_once_one_has_its_effect(tmp_path: Path) -> None:
    async def handle(message: Message) -> None:
        both = await asyncio.gather(count(message), count(message), return_exceptions=True)
        seen.add(sorted(type(one).__name__ for one in both))

    seen = Seen()
    async with running(tmp_path, callbacks={"n": handle}) as bench:
        await bench.queue.send_message("n")
        await seen.stay(1)

        assert await counted(bench.kv) == 1
    assert seen == [["AlreadySettledError", "KvCommit"]]


async def test_commit_after_the_handler_has_returned_is_refused(tmp_path: Path) -> None:
    async def later(message: Message) -> None:
        await asyncio.sleep(QUIET_S)
        with pytest.raises(AlreadySettledError):
            await count(message)
        seen.add("refused")

    async def handle(message: Message) -> None:
        tasks.append(asyncio.create_task(later(message)))

    tasks: list[asyncio.Task[None]] = []
    seen = Seen()
    async with running(tmp_path, callbacks={"n": handle}) as bench:
        await bench.queue.send_message("n")
        await seen.reach(1)

        assert await counted(bench.kv) == 0
    await asyncio.gather(*tasks)


async def test_lost_lease_writes_nothing_and_the_other_holder_has_the_effect(
    tmp_path: Path,
) -> None:
    @on_queue_message("n")
    async def handle(message: Message) -> None:
        attempts.append(message.attempt)
        if message.attempt == 1:
            clock.advance(30_001)
            await hand.turn()
        await count(message)

    attempts: list[int] = []
    clock = ManualClock()
    async with by_hand(tmp_path, clock, handle) as hand, Kv.open(str(tmp_path / "q.db")) as kv:
        await kv.enqueue({"type": "n", "data": None})
        (claim,) = await hand.claim()
        first = await hand.handle(claim)

        assert attempts == [1, 2]
        assert first is not None
        assert await hand.store.settle([first]) == [False]
        assert await counted(kv) == 1
    assert "LeaseLostError" in str(first.failure)


async def test_commit_under_way_comes_to_its_end_before_a_cancellation(tmp_path: Path) -> None:
    async def handle(message: Message) -> None:
        task = asyncio.create_task(count(message))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(AlreadySettledError):
            await count(message)
        seen.add("settled")

    seen = Seen()
    async with running(tmp_path, callbacks={"n": handle}) as bench:
        await bench.queue.send_message("n")
        await seen.stay(1)

        assert await counted(bench.kv) == 1
        assert await is_empty(bench)


async def test_slot_stays_taken_until_the_handler_returns(tmp_path: Path) -> None:
    async def handle(data: int, message: Message) -> None:
        await count(message)
        seen.add(data)
        await go_on.wait()

    seen, go_on = Seen(), asyncio.Event()
    async with running(tmp_path, callbacks={"n": handle}, concurrency=1) as bench:
        await bench.queue.send_messages([("n", 1), ("n", 2)])
        await seen.stay(1)
        go_on.set()
        await seen.stay(2)

        assert await counted(bench.kv) == 2


async def test_successor_in_an_ordering_key_may_start_at_once(tmp_path: Path) -> None:
    async def handle(data: int, message: Message) -> None:
        seen.add(data)
        if data == 1:
            await count(message)
            await second.wait()
        else:
            second.set()

    seen, second = Seen(), asyncio.Event()
    async with running(tmp_path, callbacks={"n": handle}) as bench:
        for number in (1, 2):
            await bench.queue.send_message("n", number, ordering_key="k")
        await seen.stay(2)

    assert seen == [1, 2]


async def test_settled_message_is_not_given_back_by_a_shutdown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(message: Message) -> None:
        await count(message)
        seen.add(1)
        await asyncio.sleep(60)

    seen = Seen()
    async with running(tmp_path, callbacks={"n": handle}, shutdown_timeout_s=0) as bench:
        await bench.queue.send_message("n")
        await seen.reach(1)
    async with running(tmp_path, callbacks={"n": handle}) as bench:
        await seen.stay(1)

        assert await counted(bench.kv) == 1
        assert await is_empty(bench)
    assert not told(caplog)


async def test_lease_of_a_settled_message_is_not_reported_as_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(message: Message) -> None:
        await count(message)
        await asyncio.sleep(1.5)
        seen.add(message.lease_lost)

    caplog.set_level(logging.WARNING)
    seen = Seen()
    async with running(tmp_path, callbacks={"n": handle}, lease_s=1) as bench:
        await bench.queue.send_message("n")
        await seen.reach(1)

    assert seen == [False]
    assert not told(caplog)


async def test_run_until_idle_settles_by_the_handlers_commit(tmp_path: Path) -> None:
    async def handle(message: Message) -> None:
        await count(message)
        raise ValueError

    async with running(tmp_path, callbacks={"n": handle}, listen=False) as bench:
        await bench.queue.send_messages([("n", 1), ("n", 2)])

        assert await bench.queue.run_until_idle() == 2
        assert await counted(bench.kv) == 2
        assert await is_empty(bench)


async def test_def_handler_is_told_that_it_cannot_await_a_commit(tmp_path: Path) -> None:
    def handle(message: Message) -> None:
        try:
            message.atomic()
        except HandlerError as error:
            seen.add(str(error))

    seen = Seen()
    async with running(tmp_path, callbacks={"n": handle}) as bench:
        await bench.queue.send_message("n")
        await seen.reach(1)

    assert "Make the handler `async def`" in seen[0]


def test_lease_lost_error_says_what_to_do() -> None:
    assert "nothing was written" in str(LeaseLostError())


@pytest.mark.parametrize("fails", [False, True])
async def test_commit_of_a_child_task_is_awaited_at_the_handlers_end(
    tmp_path: Path, *, fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(message: Message) -> None:
        tasks.append(asyncio.create_task(count(message)))
        await asyncio.sleep(0)
        if fails and message.attempt == 1:
            raise ValueError

    tasks: list[asyncio.Task[KvCommit]] = []
    async with running(tmp_path, callbacks={"n": handle}, backoff_schedule_s=(0,)) as bench:
        await bench.queue.send_message("n")
        await until(lambda: is_empty(bench))

        assert await counted(bench.kv) == 1
    assert [(await task).ok for task in tasks] == [True]
    assert [record.levelname for record in told(caplog)] == ["ERROR"] * fails
