"""Awaiting what must come to its end."""

import asyncio
import contextlib
from collections.abc import Callable
from threading import Thread
from typing import Any, TypeVar

from anyio import CancelScope

T = TypeVar("T")


async def to_the_end(task: asyncio.Task[T], *, hasten: Callable[[], None] | None = None) -> T:
    """Await all of it, also where whoever waits is cancelled; then he is cancelled.

    What is left half done, such as a store that is half open, would keep the process from
    exiting, or leave its caller in doubt.

    Args:
        task: what is awaited.
        hasten: is called when whoever waits is cancelled, to bring the end near.
    """
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError as error:
        if hasten is not None:
            hasten()
        cancelled = await _shielded(task) or error
        raise cancelled from task.exception()
    return task.result()


async def _shielded(task: asyncio.Task[Any]) -> asyncio.CancelledError | None:
    """Wait until it is done. Returns how that was cancelled last."""
    cancelled: asyncio.CancelledError | None = None
    # Within a cancelled scope anyio would cancel each wait anew.
    with CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    return cancelled


async def in_own_thread(function: Callable[[], T]) -> T:
    """Run a function that blocks in a thread of its own, and await what it returns.

    The threads that an event loop shares out may all be taken, by handlers above all, and what
    ends something must not wait for those that wait for its end.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if future.done():  # its caller was cancelled
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type] # it is a T where there is no error
        else:
            future.set_exception(error)

    def work() -> None:
        result, failure = None, None
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 because it belongs to the caller
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody is waiting
            loop.call_soon_threadsafe(tell, result, failure)

    # A daemon, because a process whose event loop ended by force must still exit.
    thread = Thread(target=work, name="kvqueue-ending", daemon=True)
    thread.start()
    result = await future
    thread.join()  # it has told its result, and is at its end
    return result


def loop_is_gone() -> bool:
    """Whether there is nothing left to await on: a coroutine is closed after its event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False
