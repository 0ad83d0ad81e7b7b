"""Handlers run in runners that are used again, and nothing of one message is found by the next."""

import asyncio
import contextvars
import itertools
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from kvqueue_fastapi.message import Hold
from kvqueue_fastapi.model import Claim
from kvqueue_fastapi.runners import ROUND_S, SPARE, Runners

Handle = Callable[[Hold], Awaitable[None]]

left_behind: contextvars.ContextVar[int] = contextvars.ContextVar("left_behind")


def holds(count: int) -> deque[Hold]:
    return deque(
        Hold(Claim(n, 1, "work", "null", 1, 0, 0, None, None), claimed_at=0) for n in range(count)
    )


def name_of_this_task() -> str:
    """Its name, because to hold the task itself would end its use."""
    task = asyncio.current_task()
    assert task is not None
    return task.get_name()


async def run(count: int, handle: Handle, *, slots: int = 10) -> list[tuple[int, str]]:
    """Run to the end. Returns what ended a runner, by message."""
    failed: list[tuple[int, str]] = []
    waiting = holds(count)
    runners = Runners(
        slots, waiting, handle, lambda hold, error: failed.append((hold.claim.id, str(error)))
    )
    runners.start()
    async with asyncio.timeout(10):
        while waiting or runners.running:
            await asyncio.sleep(0)
    return failed


async def test_messages_begin_in_order_and_few_tasks_do_for_many_of_them() -> None:
    begun: list[int] = []
    tasks = set[str]()

    async def handle(hold: Hold) -> None:
        begun.append(hold.claim.id)
        tasks.add(name_of_this_task())

    await run(1_000, handle)

    assert begun == list(range(1_000))
    assert len(tasks) < 100


async def test_few_tasks_stand_ready_while_one_round_after_another_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = itertools.count()
    monkeypatch.setattr(
        "kvqueue_fastapi.runners.time.perf_counter", lambda: next(now) * ROUND_S / 3
    )
    most = 0

    async def handle(_: Hold) -> None:
        nonlocal most
        most = max(most, len(asyncio.all_tasks()))

    await run(1_000, handle, slots=100)

    # this test's own, the one at it, and those that go on if it has to wait
    assert most <= 2 + SPARE


@pytest.mark.parametrize("slots", [1, 3, 10])
async def test_as_many_run_at_once_as_there_are_slots_and_no_more(slots: int) -> None:
    running, most, begun = 0, 0, list[int]()

    async def handle(hold: Hold) -> None:
        nonlocal running, most
        begun.append(hold.claim.id)
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    await run(50, handle, slots=slots)

    assert most == slots
    assert begun == list(range(50))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks begin eagerly from Python 3.12 on")
async def test_event_loop_whose_tasks_begin_at_once_changes_nothing() -> None:
    eager: Any = getattr(asyncio, "eager_task_factory", None)
    asyncio.get_running_loop().set_task_factory(eager)
    most = 0
    running: set[int] = set()

    async def handle(hold: Hold) -> None:
        nonlocal most
        running.add(hold.claim.id)
        most = max(most, len(running))
        await asyncio.sleep(0)
        running.discard(hold.claim.id)

    assert await run(1_000, handle, slots=10) == []
    assert most == 10


async def test_context_variables_of_one_message_are_not_seen_by_another() -> None:
    seen: list[int | None] = []

    async def handle(hold: Hold) -> None:
        seen.append(left_behind.get(None))
        left_behind.set(hold.claim.id)

    await run(20, handle)

    assert seen == [None] * 20


@pytest.mark.parametrize("taken_back", [False, True])
async def test_cancellation_that_a_handler_leaves_behind_hits_no_other_message(
    *,
    taken_back: bool,
) -> None:
    done: list[int] = []

    async def handle(hold: Hold) -> None:
        await asyncio.sleep(0)
        done.append(hold.claim.id)
        if hold.claim.id == 3 and (task := asyncio.current_task()) is not None:
            task.cancel()
            if taken_back:
                task.uncancel()

    failed = await run(20, handle, slots=1)

    assert done == list(range(20))
    assert failed == []


async def test_cancellation_that_was_swallowed_hits_no_other_message() -> None:
    counts: list[int] = []

    async def handle(_hold: Hold) -> None:
        task = asyncio.current_task()
        assert task is not None
        counts.append(task.cancelling())
        task.cancel()
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            return

    await run(20, handle)

    assert counts == [0] * 20


def watchdog() -> object:
    task = asyncio.current_task()
    assert task is not None
    return asyncio.get_running_loop().call_later(3_600, task.cancel)


def unfinished_scope() -> object:
    return anyio.CancelScope(deadline=anyio.current_time() + 3_600).__enter__()


def registry() -> object:
    return {asyncio.current_task(): "session"}


@pytest.mark.parametrize("keep", [watchdog, unfinished_scope, registry])
@pytest.mark.parametrize("waits", [False, True])
async def test_task_that_something_still_holds_handles_no_other_message(
    keep: Callable[[], object], *, waits: bool
) -> None:
    tasks: list[str] = []
    kept: list[object] = []

    async def handle(_hold: Hold) -> None:
        tasks.append(name_of_this_task())
        if waits:
            await asyncio.sleep(0)
        kept.append(keep())

    await run(20, handle)

    assert len(set(tasks)) == 20


async def test_runners_whose_handlers_wait_are_used_again() -> None:
    tasks = set[str]()

    async def handle(_hold: Hold) -> None:
        tasks.add(name_of_this_task())
        await asyncio.sleep(0)

    await run(500, handle)

    assert len(tasks) < 50


async def test_what_ends_a_runner_is_told_and_the_others_go_on() -> None:
    done: list[int] = []

    async def handle(hold: Hold) -> None:
        if hold.claim.id % 2:
            raise ValueError(hold.claim.id)
        done.append(hold.claim.id)

    failed = await run(10, handle)

    assert failed == [(n, str(n)) for n in range(1, 10, 2)]
    assert done == list(range(0, 10, 2))


async def test_runner_that_is_cancelled_before_it_begins_leaves_its_place_to_another() -> None:
    done: list[int] = []

    async def handle(hold: Hold) -> None:
        done.append(hold.claim.id)

    waiting = holds(5)
    runners = Runners(1, waiting, handle, lambda _hold, _error: None)
    runners.start()
    for runner in runners.others_than([]):
        runner.cancel()
    async with asyncio.timeout(10):
        while waiting:
            await asyncio.sleep(0)

    assert done == list(range(5))


async def test_event_loop_has_its_turn_while_handlers_never_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kvqueue_fastapi.runners.ROUND_S", 0.0)
    done: list[object] = []

    async def handle(hold: Hold) -> None:
        done.append(hold.claim.id)
        asyncio.get_running_loop().call_soon(done.append, "other")

    await run(50, handle)

    # A message or two, one for each runner, and then whatever else there is to do.
    assert "other" in done[:5]
    assert "other" in done[-5:]
