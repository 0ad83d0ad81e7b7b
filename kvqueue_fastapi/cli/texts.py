"""How values are written for people: times, durations, and text from anywhere."""

import re
import time
from datetime import UTC, datetime
from typing import Final

_CONTROL: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_BREAK: Final = re.compile(r"[\t\n]")
_MINUTE_S: Final = 60
_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400
_SHORT_S: Final = 10


def visible(text: str) -> str:
    """Text with its control characters written out: what is stored must not steer a terminal."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """Likewise, without tabs and line breaks."""
    return _BREAK.sub(lambda found: "\\t" if found[0] == "\t" else "\\n", visible(text))


def first_line(text: str) -> str:
    """What a text begins with."""
    return one_line(text.strip().partition("\n")[0])


def duration(seconds: float) -> str:
    """A duration in the unit that fits: "0.4 s", "12 s", "5 min", "3 h", "2 d"."""
    if seconds < _SHORT_S:
        return f"{seconds:.1f} s"
    if seconds < 2 * _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    if seconds < 2 * _DAY_S:
        return f"{seconds / _HOUR_S:.0f} h"
    return f"{seconds / _DAY_S:.0f} d"


def now_ms() -> int:
    """UTC milliseconds, by the clock of this machine."""
    return time.time_ns() // 1_000_000


def relative(at_ms: int) -> str:
    """A time as seen from now: "5 min ago", "in 3 h"."""
    ahead_s = (at_ms - now_ms()) / 1000
    return f"in {duration(ahead_s)}" if ahead_s > 0 else f"{duration(-ahead_s)} ago"


def moment(at_ms: int) -> str:
    """A time in UTC, and as seen from now."""
    return f"{stamp(at_ms)} ({relative(at_ms)})"


def stamp(at_ms: int) -> str:
    """A time in UTC: "2026-11-23 01:29:40Z"."""
    try:
        return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):  # another program may have stored any number
        return f"{at_ms} ms"


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 message", "2,000 messages"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
