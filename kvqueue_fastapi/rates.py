"""How fast messages go: what ended in each of the last minutes, and on average in one."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from kvqueue_fastapi.keeper import Minute

RATE_MINUTES: Final = 5
"""A rate is that of so many minutes that are over, and of the one that runs."""
_MINUTE_MS: Final = 60_000


class Ended(NamedTuple):
    """What ended in each of the last minutes; the one that runs is the last.

    Attributes:
        handled: messages that were done.
        failed: attempts that failed, whether they are tried again or were the last.
    """

    handled: Sequence[int]
    failed: Sequence[int]


def by_minute(minutes: Iterable[Minute], now_ms: float, count: int) -> Ended:
    """Put minutes in their order, with zeros where nothing ended.

    Args:
        minutes: of all that is to be seen together, in any order.
        now_ms: UTC milliseconds.
        count: how many minutes to go back, the one that runs among them.
    """
    first = int(now_ms // _MINUTE_MS) - count + 1
    handled, failed = [0] * count, [0] * count
    for minute in minutes:
        place = minute.minute_ms // _MINUTE_MS - first
        if 0 <= place < count:
            handled[place] += minute.handled
            failed[place] += minute.failed + minute.dead
    return Ended(handled, failed)


def per_minute(counts: Sequence[int], now_ms: float) -> float:
    """The average of the last minutes, of which the one that runs counts for what has passed.

    Args:
        counts: by minute, of at least six, as `by_minute` gives them.
        now_ms: UTC milliseconds.
    """
    return sum(counts[-RATE_MINUTES - 1 :]) / (RATE_MINUTES + now_ms % _MINUTE_MS / _MINUTE_MS)
