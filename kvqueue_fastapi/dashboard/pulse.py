"""How busy a message type was in the last hour, in numbers and as a picture."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from kvqueue_fastapi.keeper import Minute
from kvqueue_fastapi.rates import by_minute, per_minute

MINUTES: Final = 60
HEIGHT: Final = 32
BAR: Final = 4
_GAP: Final = 1
WIDTH: Final = MINUTES * BAR


@dataclass(frozen=True, slots=True)
class Pulse:
    """What ended in the last hour, all of one type or of several.

    Attributes:
        handled: messages.
        failed: attempts that failed, with the last ones of dead letters.
        per_minute: messages handled in a minute, over the last five.
        most: of both in one minute.
        good: the bars of what was handled, as an SVG path.
        bad: the bars of what failed, on top of them.
    """

    handled: int
    failed: int
    per_minute: float
    most: int
    good: str
    bad: str

    @property
    def failure_share(self) -> float:
        """The part of all attempts that failed, 0 to 1."""
        return self.failed / max(1, self.handled + self.failed)


def pulse_of(minutes: Iterable[Minute], now_ms: float | None = None) -> Pulse:
    """Sum up the last hour.

    Args:
        minutes: of all that is to be seen together.
        now_ms: None: now.
    """
    now = time.time() * 1_000 if now_ms is None else now_ms
    good, bad = by_minute(minutes, now, MINUTES)
    most = max(map(sum, zip(good, bad, strict=True)))
    scale = (HEIGHT - 1) / max(1, most)
    lower = [count * scale for count in good]
    upper = [count * scale for count in bad]
    return Pulse(
        handled=sum(good),
        failed=sum(bad),
        per_minute=per_minute(good, now),
        most=most,
        good=_bars([0.0] * MINUTES, lower),
        bad=_bars(lower, upper),
    )


def _bars(bottoms: list[float], heights: list[float]) -> str:
    return "".join(
        f"M{place * BAR} {HEIGHT - bottom:.1f}v{-height:.1f}h{BAR - _GAP}v{height:.1f}z"
        for place, (bottom, height) in enumerate(zip(bottoms, heights, strict=True))
        if height
    )
