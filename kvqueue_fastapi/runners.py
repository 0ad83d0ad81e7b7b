"""The tasks in which handlers run, at most so many at once."""

import asyncio
import contextvars
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

from kvqueue_fastapi.message import Hold

ROUND_S: Final = 0.001
"""For so long messages are begun in one round of the event loop, which has others to look after."""
SPARE: Final = 2
"""How many runners may be about to begin: each of them starts more, if there is more to do."""


class Runners:
    """Runs what waits, in the order in which it waits.

    A runner is a task in an empty context, and goes on with the next message when it has
    handled one: making a task costs more than most handlers do. It ends when nothing waits, or
    when a handler has left something behind that would reach the next one: a context variable,
    a cancellation, or the task itself, in the hands of something that may cancel it.

    Args:
        slots: how many handlers may run at once.
        waiting: what is to be handled.
        handle: handles one, and raises what ends the runner.
        failed: told what a runner ended with, and the message that it had in hand.

    Attributes:
        running: what is in hand, and in which runner.
    """

    def __init__(
        self,
        slots: int,
        waiting: deque[Hold],
        handle: Callable[[Hold], Awaitable[None]],
        failed: Callable[[Hold, BaseException], None],
    ) -> None:
        self.running: dict[asyncio.Task[Any], Hold] = {}
        self._slots = slots
        self._waiting = waiting
        self._handle = handle
        self._failed = failed
        self._runners: set[asyncio.Task[Any]] = set()
        self._beginning: set[asyncio.Task[Any]] = set()
        self._round_ends_at: float | None = None

    def start(self) -> None:
        """Have what waits handled, as far as there are slots."""
        loop = asyncio.get_running_loop()
        most = min(SPARE, len(self._waiting))
        while len(self._beginning) < most and len(self._runners) < self._slots:
            context = contextvars.Context()
            # Not by the loop's task factory: an eager one would run it before it is counted.
            runner = asyncio.Task(self._work(context), loop=loop, context=context)
            self._runners.add(runner)
            self._beginning.add(runner)
            runner.add_done_callback(self._ended)

    def others_than(self, holds: Collection[Hold]) -> list[asyncio.Task[Any]]:
        """The runners that may end soon: all but those that have one of `holds` in hand."""
        return [one for one in self._runners if self.running.get(one) not in holds]

    async def _work(self, context: contextvars.Context) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 because a coroutine of ours runs in a task
        self._beginning.discard(task)
        references = sys.getrefcount(task)
        while self._waiting:
            if self._round_is_over():
                self._beginning.add(task)
                await asyncio.sleep(0)
                self._beginning.discard(task)
                continue
            hold = self.running[task] = self._waiting.popleft()
            # Should this one have to wait for something, another runner goes on.
            if self._waiting and len(self._beginning) < SPARE:
                self.start()
            await self._handle(hold)
            del self.running[task]
            if len(context) or _is_cancelled(task) or sys.getrefcount(task) > references:
                return

    def _round_is_over(self) -> bool:
        now = time.perf_counter()
        if self._round_ends_at is None:
            self._round_ends_at = now + ROUND_S
            asyncio.get_running_loop().call_soon(self._begin_round)
        return now > self._round_ends_at

    def _begin_round(self) -> None:
        self._round_ends_at = None

    def _ended(self, runner: asyncio.Task[None]) -> None:
        self._runners.discard(runner)
        self._beginning.discard(runner)
        hold = self.running.pop(runner, None)
        if not runner.cancelled() and (error := runner.exception()) and hold is not None:
            self._failed(hold, error)
        self.start()


def _is_cancelled(task: asyncio.Task[Any]) -> bool:
    # Before Python 3.13, `uncancel` takes back the count alone: the next await still raises.
    return task.cancelling() > 0 or bool(getattr(task, "_must_cancel", False))
