"""A call in a thread that nobody can cancel, and that may outlive the shutdown."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
from anyio import CancelScope, CapacityLimiter

from kvqueue_fastapi.endings import loop_is_gone


class ThreadCall:
    """Runs a function in a worker thread.

    A thread cannot be cancelled. Who waits for it and is cancelled waits on, unless he may leave:
    then the call goes on, and the thread itself says how it ended.

    Args:
        function: what to run.
        late: called in the thread, with its error or None, when nobody waits any more.
        may_leave: whether one who is cancelled leaves.
    """

    def __init__(
        self,
        function: Callable[[], Any],
        late: Callable[[BaseException | None], None],
        may_leave: Callable[[], bool],
    ) -> None:
        self._function = function
        self._late = late
        self._may_leave = may_leave
        self._lock = threading.Lock()
        self._started = False
        self._ended = False
        self._abandoned = False
        self._tell_end: Callable[[], object] = lambda: None
        self._error: BaseException | None = None

    async def run(self, limiter: CapacityLimiter) -> bool:
        """Run it and wait.

        Returns:
            True: it has returned. False: this task was cancelled and has left while the thread
            goes on, and `late` will be called.

        Raises:
            BaseException: what the function raised.
        """
        try:
            await anyio.to_thread.run_sync(self._work, abandon_on_cancel=True, limiter=limiter)
        except BaseException:
            if not loop_is_gone():
                await self._wait_on()
            if self._abandon():
                return False
            if not self._started:
                raise
        if self._error is not None:
            raise self._error
        return True

    def _work(self) -> None:
        with self._lock:
            if self._abandoned:
                return
            self._started = True
        try:
            self._function()
        except BaseException as error:  # noqa: BLE001 because it belongs to whoever waits
            self._error = error
        with self._lock:
            self._ended = True
            abandoned = self._abandoned
        if abandoned:
            self._late(self._error)
        with suppress(RuntimeError):  # the event loop of one who has left may be closed
            self._tell_end()

    async def _wait_on(self) -> None:
        """Wait for the end of a thread that runs, however often this task is cancelled."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            self._tell_end = lambda: loop.call_soon_threadsafe(ended.set)
            if self._ended or not self._started:
                return
        # Within a cancelled scope anyio would cancel each wait anew.
        with CancelScope(shield=True):
            while not ended.is_set() and not self._may_leave():
                with suppress(asyncio.CancelledError):
                    await ended.wait()

    def _abandon(self) -> bool:
        """Wait no more. Returns whether the thread runs on."""
        with self._lock:
            self._abandoned = True
            return self._started and not self._ended
