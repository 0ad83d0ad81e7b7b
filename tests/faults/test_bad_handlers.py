"""Handlers that do what no handler should: the listener and the other messages go on."""

import asyncio
import logging
import signal
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kvqueue_fastapi import Message, MessageRecord, Reject, RetryLater, on_queue_message
from tests.contract.harness import Bench, Seen, running, until
from tests.faults.errors import BAD_ERRORS
from tests.processes.fleet import Fleet

BAD_WORKER = Path(__file__).with_name("bad_worker.py")
LEASE_S = 1


@pytest.fixture
async def bench(fleet: Fleet) -> AsyncIterator[Bench]:
    """The test's own part in the fleet's database."""
    async with running(str(fleet.database), listen=False) as bench:
        yield bench


async def start(fleet: Fleet, **config: Any) -> Any:
    settings = config.pop("settings", {})
    return await fleet.start(program=BAD_WORKER, fresh=True, settings=settings, **config)


async def dead_letter(bench: Bench) -> MessageRecord:
    """Wait for the one that there is to be."""
    await until(bench.admin.dead_letters)
    (letter,) = await bench.admin.dead_letters()
    return letter


# --- it does not end ---


async def test_a_handler_that_never_returns_keeps_its_message_while_others_go_on(
    tmp_path: Path,
) -> None:
    begun, good = Seen(), Seen()

    async def hang(message: Message) -> None:
        begun.add(message.attempt)
        await asyncio.Event().wait()

    here: dict[str, Any] = {
        "callbacks": {"hang": hang, "good": good.take},
        "lease_s": LEASE_S,
        "shutdown_timeout_s": 0.1,
    }
    async with running(tmp_path, **here), running(tmp_path, **here) as bench:
        await bench.queue.send_message("hang")
        await begun.reach(1)
        await asyncio.sleep(2.5 * LEASE_S)
        await bench.queue.send_messages([("good", number) for number in range(200)])

        await good.reach(200)
        assert begun == [1]
        stopped_at = time.monotonic()

    assert time.monotonic() - stopped_at < 3
    async with running(tmp_path, listen=False) as bench:
        (record,) = await bench.admin.messages()
    assert (record.state, record.attempt, record.crashes) == ("ready", 0, 0)


async def test_a_handler_that_swallows_its_timeout_and_returns_has_handled_its_message(
    tmp_path: Path,
) -> None:
    seen = Seen()

    @on_queue_message("n", timeout=0.02)
    async def swallow() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.add("swallowed")

    async with running(tmp_path, swallow) as bench:
        await bench.queue.send_message("n")
        await seen.stay(1)

        assert not await bench.admin.messages()
        assert not await bench.admin.dead_letters()


async def test_a_handler_that_goes_on_after_its_timeout_has_its_message_until_it_ends(
    tmp_path: Path,
) -> None:
    seen, good = Seen(), Seen()

    @on_queue_message("n", timeout=0.02)
    async def go_on(message: Message) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(1.5 * LEASE_S)
        seen.add((message.attempt, message.lease_lost))

    here: dict[str, Any] = {"callbacks": {"good": good.take}, "lease_s": LEASE_S}
    async with running(tmp_path, go_on, **here) as bench, running(tmp_path, go_on, **here):
        await bench.queue.send_messages([("n", None), ("good", 1)])

        assert await good.reach(1) == [1]
        assert await seen.stay(1) == [(1, False)]
        assert not await bench.admin.messages()


async def test_a_handler_that_swallows_every_cancellation_does_not_hold_up_the_stop(
    fleet: Fleet, bench: Bench
) -> None:
    leaver = await start(fleet, settings={"shutdown_timeout_s": 0.1})
    message_id = await bench.queue.send_message("stay")
    await fleet.begun(message_id)

    leaver.send_signal(signal.SIGTERM)
    await fleet.until(lambda: fleet.ledger.lines("stopped"), within_s=5)
    # It is asyncio.run that waits for the handler now, until the supervisor loses patience.
    fleet.kill(leaver)
    await start(fleet)
    again = await fleet.begun(message_id, times=2)

    record = await bench.admin.message(message_id)
    assert record is not None
    assert (again.attempt, record.crashes) == (1, 0)


# --- what it raises ---


@pytest.mark.parametrize("make", BAD_ERRORS, ids=lambda make: make.__name__)
async def test_an_error_that_cannot_be_shown_is_a_failure_like_any_other(
    tmp_path: Path, make: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, calls = Seen(), Seen()

    async def fail() -> None:
        calls.add("call")
        raise make()

    # pytest's own handler of logs fails where the standard one only says so.
    monkeypatch.setattr(logging.getLogger("kvqueue_fastapi"), "propagate", False)
    callbacks = {"bad": fail, "good": seen.take}
    async with running(tmp_path, callbacks=callbacks, backoff_schedule_s=(0,)) as bench:
        await bench.queue.send_message("bad", ordering_key="k")
        await bench.queue.send_message("good", 1, ordering_key="k")
        await seen.stay(1)
        letter = await dead_letter(bench)

    assert len(calls) == len(letter.errors) == 2
    assert str(letter.reason).startswith(type(make()).__name__)
    assert all(len(error.text) <= 1_000 for error in letter.errors)
    assert all("in fail" in error.trace or make.__name__ == "huge" for error in letter.errors)


@pytest.mark.parametrize("verdict", [Reject("no such page"), RetryLater(60), PermissionError("p")])
@pytest.mark.parametrize("groups", [1, 2])
async def test_a_verdict_that_is_alone_in_a_group_is_that_verdict(
    tmp_path: Path, verdict: Exception, groups: int
) -> None:
    async def judge(groups: int) -> None:
        if not groups:
            raise verdict
        async with asyncio.TaskGroup() as group:
            group.create_task(judge(groups - 1))
            group.create_task(asyncio.sleep(60))

    @on_queue_message("n", backoff_schedule=[1, 1], give_up_on=[PermissionError])
    async def handle() -> None:
        await judge(groups)

    async with running(tmp_path, handle) as bench:
        message_id = await bench.queue.send_message("n")
        if isinstance(verdict, RetryLater):
            record = await deferred(bench, message_id)
            assert (record.attempt, record.errors) == (0, ())
        else:
            assert (await dead_letter(bench)).reason == f"{type(verdict).__name__}: {verdict}"


@pytest.mark.parametrize(
    "others", [[ValueError("v")], [Reject("another")], [ExceptionGroup("g", [RetryLater(1)])]]
)
async def test_a_verdict_beside_other_errors_is_a_failure(
    tmp_path: Path, others: list[Exception]
) -> None:
    @on_queue_message("n", backoff_schedule=[])
    async def handle() -> None:
        raise ExceptionGroup("several", [Reject("no"), *others])

    async with running(tmp_path, handle) as bench:
        await bench.queue.send_message("n")
        letter = await dead_letter(bench)

    assert str(letter.reason).startswith("ExceptionGroup: several")


async def test_a_log_that_fails_ends_no_loop_of_the_listener(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, told = Seen(), Seen()

    class Broken(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            told.add(record.module)
            raise RuntimeError

    here: dict[str, Any] = {"callbacks": {"n": seen.take}, "lease_s": LEASE_S}
    async with running(tmp_path, **here, poll_interval_s=0.05) as bench:
        monkeypatch.setattr(logging.getLogger("kvqueue_fastapi"), "filters", [Broken()])
        await bench.queue.send_message("n", 1)
        await seen.reach(1)
        with closing(sqlite3.connect(tmp_path / "q.db", isolation_level=None)) as other:
            other.execute("ALTER TABLE kvqueue_messages RENAME TO away")
            await told.reach(5)
            other.execute("ALTER TABLE away RENAME TO kvqueue_messages")
        await bench.queue.send_messages([("n", number) for number in range(2, 100)])

        assert await seen.reach(99) == list(range(1, 100))
        await until(lambda: is_empty(bench))
        monkeypatch.undo()


# --- what it takes with it ---


async def deferred(bench: Bench, message_id: int) -> MessageRecord:
    async def is_deferred() -> bool:
        record = await bench.admin.message(message_id)
        return record is not None and record.state == "delayed"

    await until(is_deferred)
    record = await bench.admin.message(message_id)
    assert record is not None
    return record


@pytest.mark.parametrize("kind", ["fork", "fork in a thread"])
async def test_a_child_that_a_handler_forks_is_ended_when_it_comes_back(
    fleet: Fleet, bench: Bench, kind: str
) -> None:
    parent = await start(fleet, settings={"poll_interval_s": 60})
    ids = await bench.queue.send_messages([(kind, how) for how in ("return", "raise", "exit")])
    await fleet.until(lambda: len(fleet.ledger.lines("forked")) == 3)
    after = await bench.queue.send_messages([("work", None)] * 20)

    await fleet.ended(*after, within_s=5)
    await fleet.until(lambda: not fleet.rows("SELECT id FROM kvqueue_messages"))

    lines = fleet.ledger.lines("forked")
    assert {line.pid for line in [*lines, *fleet.ledger.lines("ended")]} == {parent.pid}
    assert {line.key: line.attempt for line in lines} == {"return": 1, "raise": 1, "exit": 3}
    assert sorted(line.id for line in lines) == ids


async def test_a_handler_that_stops_the_event_loop_loses_nothing(
    fleet: Fleet, bench: Bench
) -> None:
    stopper = await start(fleet)
    message_id = await bench.queue.send_message("stop the loop")
    await fleet.until(lambda: stopper.poll() is not None)
    await start(fleet)

    await fleet.begun(message_id, times=2)
    assert not await bench.admin.dead_letters()


async def test_a_handler_that_takes_all_memory_fails_and_gives_it_back(
    fleet: Fleet, bench: Bench
) -> None:
    hoarder = await start(fleet, memory_bytes=64_000_000)
    await bench.queue.send_message("hoard", 100_000)
    letter = await dead_letter(bench)
    after = await bench.queue.send_messages([("work", None)] * 200)
    await fleet.ended(*after)

    assert letter.reason == "MemoryError: "
    assert {line.pid for line in fleet.ledger.lines("ended")} == {hoarder.pid}
    hoarder.send_signal(signal.SIGTERM)
    await fleet.until(lambda: hoarder.poll() == 0, within_s=5)


async def test_a_handler_that_ends_the_threads_of_the_event_loop_stops_nobody(
    tmp_path: Path,
) -> None:
    seen = Seen()

    async def end_threads() -> None:
        await asyncio.get_running_loop().shutdown_default_executor()

    def in_thread(number: int) -> None:
        seen.add(number)

    callbacks = {"end": end_threads, "thread": in_thread, "n": seen.take}
    async with running(tmp_path, callbacks=callbacks) as bench:
        await bench.queue.send_message("end")
        await until(lambda: is_empty(bench))
        await bench.queue.send_messages([("thread", 1), ("n", 2)])
        assert sorted(await seen.reach(2)) == [1, 2]


async def test_a_handler_that_closes_the_store_of_its_app_fails(tmp_path: Path) -> None:
    seen = Seen()

    async def close() -> None:
        await bench.kv.close()

    callbacks = {"close": close, "n": seen.take}
    async with running(tmp_path, callbacks=callbacks, backoff_schedule_s=()) as bench:
        await bench.queue.send_message("close")
        letter = await dead_letter(bench)
        await bench.queue.send_message("n", 1)

        assert await seen.reach(1) == [1]
    assert "belongs to an app, which closes it when it stops" in str(letter.reason)


async def test_what_a_handler_leaves_behind_touches_neither_its_message_nor_the_stop(
    tmp_path: Path,
) -> None:
    seen, tasks, go_on = Seen(), [], threading.Event()

    async def fail_later(message: Message) -> None:
        try:
            await message.atomic().set(("late",), 1).commit()
        finally:
            seen.add("late")

    async def leave_behind(message: Message) -> None:
        tasks.append(asyncio.create_task(fail_later(message)))
        tasks.append(asyncio.create_task(asyncio.sleep(60)))
        threading.Thread(target=go_on.wait, daemon=True).start()
        await asyncio.sleep(0)

    async with running(tmp_path, callbacks={"n": leave_behind}) as bench:
        await bench.queue.send_message("n")
        await seen.stay(1)
        await until(lambda: is_empty(bench))
        stopped_at = time.monotonic()

    assert time.monotonic() - stopped_at < 3
    go_on.set()
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def is_empty(bench: Bench) -> bool:
    return not await bench.admin.messages()
