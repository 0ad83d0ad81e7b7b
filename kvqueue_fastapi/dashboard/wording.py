"""How numbers, times and payloads are written on the pages."""

import json
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

MAX_PAYLOAD_CHARACTERS: Final = 262_144
"""More of a payload is not shown, and cannot be edited here."""

_UNSEEN: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
)
"""Characters that nobody sees, but that make others seem to be elsewhere or not there."""
_BARE: Final = re.compile(r'[^\s"]+')
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_MINUTE_S: Final = 60
_FEW: Final = 10


def plain(text: object) -> str:
    """A text in which everything can be seen: direction marks and control characters as escapes."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", str(text))


def beginning(text: object, characters: int = 160) -> str:
    """The beginning of a text, on one line."""
    start = " ".join(plain(str(text)[: 2 * characters]).split())
    return start if len(start) <= characters else f"{start[:characters]}…"


def as_json(data: Any, indent: int | None = 2) -> str:
    """A payload as it can be read, and written back."""
    try:
        # An escape within JSON is the character itself, so that what is shown can be edited.
        return plain(json.dumps(data, indent=indent, ensure_ascii=False, default=repr))
    except (RecursionError, ValueError):
        return "(nested too deeply to be shown)"


def number(value: int) -> str:
    """An integer with its thousands apart."""
    return f"{value:,}"


def rate(per_minute: float) -> str:
    """How many a minute, with one digit where there are few."""
    return f"{per_minute:.1f}" if 0 < per_minute < _FEW else f"{per_minute:,.0f}"


def share(part: float) -> str:
    """A part of a whole in per cent."""
    percent = 100 * part
    return f"{percent:.1f} %" if 0 < percent < _FEW else f"{percent:.0f} %"


def duration(seconds: float | None) -> str:
    """A span of time, by its largest unit or its two largest."""
    if seconds is None:
        return "\N{EN DASH}"
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    left = int(seconds)
    for size, unit in _UNITS:
        if left >= size:
            rest = _rest(left % size, size)
            return f"{left // size} {unit}{rest}"
    return "0 s"


def ago(at_ms: int) -> str:
    """When something was or will be, as seen from now."""
    seconds = time.time() - at_ms / 1_000
    if abs(seconds) < 1:
        return "now"
    return f"{duration(seconds)} ago" if seconds > 0 else f"in {duration(-seconds)}"


def utc(at_ms: int) -> str:
    """A time as a clock shows it; the number where no calendar has it."""
    try:
        at = _EPOCH + timedelta(milliseconds=at_ms)
    except OverflowError:
        return f"{at_ms} ms"
    return f"{at:%Y-%m-%d %H:%M:%S}.{at_ms % 1_000:03d} UTC"


def of_type(message_type: str) -> str:
    """What to search for to find messages of a type."""
    # A quote cannot be written within quotes; the wildcard stands for it.
    text = message_type.replace('"', "*")
    return f"type:{text}" if _BARE.fullmatch(text) else f'type:"{text}"'


def url_part(text: object) -> str:
    """A text within a URL's query."""
    return quote(str(text).encode("utf-8", "replace"), safe="")


def _rest(left: int, size: int) -> str:
    smaller = next(((n, unit) for n, unit in _UNITS if n < size), None)
    # Nobody needs the seconds of a day.
    if smaller is None or left < smaller[0]:
        return ""
    return f" {left // smaller[0]} {smaller[1]}"
