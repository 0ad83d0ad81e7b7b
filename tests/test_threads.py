import asyncio
import threading

import anyio
import pytest
from anyio import CapacityLimiter

from kvqueue_fastapi.threads import ThreadCall


def leave() -> bool:
    return True


def stay() -> bool:
    return False


def never_late(error: BaseException | None) -> None:
    pytest.fail(f"late was called with {error!r}")


async def test_a_call_that_returns_in_time_is_not_late() -> None:
    ran: list[str] = []

    ended = await ThreadCall(lambda: ran.append("here"), never_late, leave).run(CapacityLimiter(1))

    assert (ended, ran) == (True, ["here"])


async def test_the_error_of_a_call_reaches_the_one_who_waits() -> None:
    def fail() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        await ThreadCall(fail, never_late, leave).run(CapacityLimiter(1))


async def test_a_cancelled_wait_leaves_the_thread_and_hears_of_its_end_later() -> None:
    started, go_on, late = threading.Event(), threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    errors: list[BaseException | None] = []

    def work() -> None:
        started.set()
        go_on.wait(10)
        raise ValueError("too late")

    def say(error: BaseException | None) -> None:
        errors.append(error)
        loop.call_soon_threadsafe(late.set)

    waiting = asyncio.create_task(ThreadCall(work, say, leave).run(CapacityLimiter(1)))
    await asyncio.to_thread(started.wait, 10)
    waiting.cancel()
    ended = await waiting
    go_on.set()
    await asyncio.wait_for(late.wait(), 10)

    assert ended is False
    assert [repr(error) for error in errors] == ["ValueError('too late')"]


@pytest.mark.parametrize("fails", [False, True])
async def test_one_who_may_not_leave_waits_for_the_end_however_often_he_is_cancelled(
    *, fails: bool
) -> None:
    started, go_on = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        go_on.wait(10)
        if fails:
            raise ValueError("its own")

    waiting = asyncio.create_task(ThreadCall(work, never_late, stay).run(CapacityLimiter(1)))
    await asyncio.to_thread(started.wait, 10)
    for _ in range(3):
        waiting.cancel()
        await asyncio.sleep(0.01)
        assert not waiting.done()
    go_on.set()

    if fails:
        with pytest.raises(ValueError, match="its own"):
            await waiting
    else:
        assert await waiting is True


async def test_one_who_may_not_leave_rests_in_a_cancelled_scope_of_anyio() -> None:
    asked: list[str] = []
    go_on = threading.Event()

    def stay_and_count() -> bool:
        asked.append("again")
        return False

    with anyio.move_on_after(0.01):
        asyncio.get_running_loop().call_later(0.1, go_on.set)
        call = ThreadCall(lambda: go_on.wait(10), never_late, stay_and_count)
        assert await call.run(CapacityLimiter(1)) is True

    assert len(asked) < 5


async def test_one_who_waits_on_leaves_when_he_may() -> None:
    started, go_on, late = threading.Event(), threading.Event(), threading.Event()
    is_stopping = False

    def work() -> None:
        started.set()
        go_on.wait(10)

    call = ThreadCall(work, lambda _: late.set(), lambda: is_stopping)
    waiting = asyncio.create_task(call.run(CapacityLimiter(1)))
    await asyncio.to_thread(started.wait, 10)
    waiting.cancel()
    await asyncio.sleep(0.01)
    is_stopping = True
    waiting.cancel()

    assert await waiting is False
    go_on.set()
    assert await asyncio.to_thread(late.wait, 10)


def test_a_wait_that_ends_with_its_event_loop_leaves_the_thread() -> None:
    started, go_on, late = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        go_on.wait(10)

    wait = ThreadCall(work, lambda _: late.set(), stay).run(CapacityLimiter(1))

    async def begin() -> asyncio.Task[bool]:
        task = asyncio.create_task(wait)
        await asyncio.to_thread(started.wait, 10)
        return task

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(begin())
    loop.close()
    wait.close()
    go_on.set()

    assert late.wait(10)
    assert not task.done()
    task._log_destroy_pending = False  # type: ignore[attr-defined]


async def test_a_wait_cancelled_before_a_thread_was_free_never_runs_the_call() -> None:
    limiter = CapacityLimiter(1)
    go_on = threading.Event()
    ran: list[str] = []
    first = asyncio.create_task(ThreadCall(lambda: go_on.wait(10), never_late, leave).run(limiter))
    await asyncio.sleep(0)
    second = asyncio.create_task(
        ThreadCall(lambda: ran.append("x"), never_late, leave).run(limiter)
    )
    await asyncio.sleep(0)

    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    go_on.set()
    await first

    assert ran == []
