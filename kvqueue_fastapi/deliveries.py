"""What became of deliveries: counted for the keeper, and told to middleware."""

import inspect
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Final

from kvqueue_fastapi.message import Hold
from kvqueue_fastapi.model import Delivery, Ending, Outcome, Tally

log = logging.getLogger("kvqueue_fastapi")

_ENDINGS: Final[Mapping[Outcome, Ending]] = MappingProxyType(
    {
        Outcome.DONE: "done",
        Outcome.RETRY: "retry",
        Outcome.LATER: "later",
        Outcome.RELEASE: "released",
        Outcome.DEAD: "dead",
    }
)
_COUNTED: Final = (Outcome.DONE, Outcome.RETRY, Outcome.DEAD)
"""In the order of `Tally`."""


class Deliveries:
    """Takes note of each delivery that has ended, in whatever thread.

    Args:
        observers: what is told of each.
    """

    def __init__(self, observers: Sequence[Callable[[Delivery], object]] = ()) -> None:
        self._observers = observers
        self._counts: dict[str, list[int]] = {}
        self._lock = threading.Lock()

    @property
    def has_some(self) -> bool:
        """Whether there is something to `take`."""
        return bool(self._counts)

    def ended(self, hold: Hold, outcome: Outcome, *, was_held: bool) -> None:
        """Take note of one.

        Args:
            hold: of the message.
            outcome: how it ended for its handler.
            was_held: whether that counts; else its lease was lost.
        """
        if was_held and outcome in _COUNTED:
            with self._lock:
                counts = self._counts.setdefault(hold.claim.type, [0, 0, 0])
                counts[_COUNTED.index(outcome)] += 1
        # What is given back before its handler has begun was no delivery.
        if self._observers and not (outcome is Outcome.RELEASE and hold.began_at is None):
            self._tell(hold, _ENDINGS[outcome] if was_held else "lost")

    def take(self) -> list[Tally]:
        """What was counted since the last time, in type order."""
        with self._lock:
            counts, self._counts = self._counts, {}
        return [Tally(kind, *counts[kind]) for kind in sorted(counts)]

    def put_back(self, tallies: Iterable[Tally]) -> None:
        """Count again what `take` gave, because it could not be written."""
        with self._lock:
            for kind, *counted in tallies:
                counts = self._counts.setdefault(kind, [0, 0, 0])
                self._counts[kind] = [sum(pair) for pair in zip(counts, counted, strict=True)]

    def _tell(self, hold: Hold, ending: Ending) -> None:
        claim, took_s = hold.claim, hold.took_s
        if took_s is None and hold.began_at is not None:
            took_s = time.monotonic() - hold.began_at
        delivery = Delivery(
            claim.id, claim.type, claim.attempt, ending, hold.error, hold.waited_s, took_s
        )
        for observer in self._observers:
            try:
                _refuse_coroutine(observer(delivery))
            except BaseException:  # also a sys.exit(), which would end the app
                with suppress(Exception):  # no log that fails may end the listener
                    log.exception("Middleware failed when it was told of message %d", claim.id)


def _refuse_coroutine(told: object) -> None:
    if inspect.iscoroutine(told):
        told.close()
        msg = "settled has given a coroutine, which nobody awaits. Write a plain `def settled`."
        raise TypeError(msg)
