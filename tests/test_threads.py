import asyncio
import threading

import pytest
from anyio import CapacityLimiter

from kvqueue_fastapi.threads import ThreadCall


def never_late(error: BaseException | None) -> None:
    pytest.fail(f"late was called with {error!r}")


async def test_a_call_that_returns_in_time_is_not_late() -> None:
    ran: list[str] = []

    ended = await ThreadCall(lambda: ran.append("here"), never_late).run(CapacityLimiter(1))

    assert (ended, ran) == (True, ["here"])


async def test_the_error_of_a_call_reaches_the_one_who_waits() -> None:
    def fail() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        await ThreadCall(fail, never_late).run(CapacityLimiter(1))


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

    waiting = asyncio.create_task(ThreadCall(work, say).run(CapacityLimiter(1)))
    await asyncio.to_thread(started.wait, 10)
    waiting.cancel()
    ended = await waiting
    go_on.set()
    await asyncio.wait_for(late.wait(), 10)

    assert ended is False
    assert [repr(error) for error in errors] == ["ValueError('too late')"]


async def test_a_wait_cancelled_before_a_thread_was_free_never_runs_the_call() -> None:
    limiter = CapacityLimiter(1)
    go_on = threading.Event()
    ran: list[str] = []
    first = asyncio.create_task(ThreadCall(lambda: go_on.wait(10), never_late).run(limiter))
    await asyncio.sleep(0)
    second = asyncio.create_task(ThreadCall(lambda: ran.append("x"), never_late).run(limiter))
    await asyncio.sleep(0)

    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    go_on.set()
    await first

    assert ran == []
