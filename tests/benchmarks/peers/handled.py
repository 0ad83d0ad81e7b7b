"""What the handlers of a peer were given, and how fast."""

import itertools
import time
from typing import Protocol

from tests.benchmarks.rows import Figures


class Flag(Protocol):
    """What `threading.Event` and `asyncio.Event` have in common."""

    def set(self) -> None: ...

    def clear(self) -> None: ...


class Handled:
    """Counts messages as their handlers start; the first tenth of those expected is the warm-up.

    Attributes:
        done: set when as many as expected were handled.
        at: when the last one was, on `time.perf_counter`.
    """

    def __init__(self, done: Flag) -> None:
        self.done = done
        self.at = 0.0
        # threads share it: `next` is one step, `+=` is not
        self._numbers = itertools.count(1)
        self._count = 0
        self._warm = (0, 0.0)
        self.expect(1)

    def expect(self, count: int) -> None:
        """So many more."""
        self._first = self._count + max(count // 10, 1)
        self._goal = self._count + count
        self.done.clear()

    def __call__(self) -> None:
        now = time.perf_counter()
        number = next(self._numbers)
        self._count, self.at = number, now
        if number == self._first:
            self._warm = (number, now)
        if number == self._goal:
            self.done.set()

    def rate(self) -> Figures:
        """Messages a second since the warm-up, until now: all, or those that the time allowed."""
        few, began = self._warm
        if self._count <= few or not few:
            raise TimeoutError(f"only {self._count} messages were handled")
        return {"per_s": (self._count - few) / (self.at - began)}
