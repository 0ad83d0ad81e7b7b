"""What a listener says of itself, now and then, for its keeper to read."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from kvqueue_fastapi.deliveries import Deliveries
from kvqueue_fastapi.model import Report
from kvqueue_fastapi.store.base import Store

BUSY_S: Final = 2.0
"""How often to report what has changed."""
IDLE_S: Final = 30.0
"""How often to report where nothing has."""
AGAIN_S: Final = 5.0
"""How soon to try again what could not be written: that tells when it can be."""
LAG_WINDOW_S: Final = 60.0


class Reporter:
    """Writes down what ended, how many handlers run, and how late the event loop answers.

    It is called by the thread that keeps the leases, which a handler that blocks the event loop
    does not hold up.

    Args:
        store: where to write it.
        deliveries: what ended.
        running: how many handlers run.
    """

    def __init__(self, store: Store, deliveries: Deliveries, running: Callable[[], int]) -> None:
        self._store = store
        self._deliveries = deliveries
        self._running = running
        self._lag = _LoopLag()
        self._listener_id = 0
        self._last = Report(0, 0)
        self._tried_at = 0.0
        self._has_failed = False

    def begin(self, listener_id: int) -> None:
        """Report for this listener from now on, which has its event loop here."""
        self._listener_id = listener_id
        self._lag.begin()
        self._tried_at = time.monotonic()

    def look(self) -> None:
        """Report, if it is time to. Blocks."""
        self._lag.look()
        report = Report(self._running(), self._lag.longest_ms)
        if time.monotonic() - self._tried_at >= self._rest_s(report):
            self._report(report)

    def finish(self) -> None:
        """Report what ended since the last time, if anything did. Blocks."""
        if self._deliveries.has_some and not self._has_failed:
            with suppress(Exception):  # the last counts are not worth an error at the end
                self._report(Report(0, self._lag.longest_ms))

    def _rest_s(self, report: Report) -> float:
        if self._has_failed:
            return AGAIN_S
        is_news = report != self._last or self._deliveries.has_some
        return BUSY_S if is_news else IDLE_S

    def _report(self, report: Report) -> None:
        tallies = self._deliveries.take()
        self._has_failed = True
        try:
            self._store.report(self._listener_id, report, tallies)
        except BaseException:
            self._deliveries.put_back(tallies)
            raise
        finally:
            self._tried_at = time.monotonic()
        self._last, self._has_failed = report, False


class _LoopLag:
    """How late an event loop answers, as seen from another thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked_at: float | None = None
        self._answered_at: float | None = None
        self._lags: deque[tuple[float, float]] = deque()

    @property
    def longest_ms(self) -> int:
        """The longest time that it took to answer within the last minute."""
        return round(max((lag_s for _, lag_s in self._lags), default=0.0) * 1000)

    def begin(self) -> None:
        """Ask the loop on which this is called."""
        self._loop = asyncio.get_running_loop()

    def look(self) -> None:
        """See whether it has answered, and ask again."""
        now = time.monotonic()
        if self._asked_at is not None:
            self._lags.append((now, (self._answered_at or now) - self._asked_at))
        while self._lags and self._lags[0][0] < now - LAG_WINDOW_S:
            self._lags.popleft()
        if self._asked_at is None or self._answered_at is not None:
            self._ask(now)

    def _ask(self, now: float) -> None:
        assert self._loop is not None  # noqa: S101 because `begin` comes first
        self._asked_at, self._answered_at = now, None
        with suppress(RuntimeError):  # it was closed: nobody is left there
            self._loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._answered_at = time.monotonic()
