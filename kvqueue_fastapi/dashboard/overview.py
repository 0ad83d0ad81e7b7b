"""The overview: a card for each message type, and where they are many for the most pressing."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

from starlette.responses import Response

from kvqueue_fastapi.dashboard.looks import Look
from kvqueue_fastapi.dashboard.pulse import Pulse, pulse_of
from kvqueue_fastapi.dashboard.visit import Visit
from kvqueue_fastapi.keeper import Minute, TypeCounts

MOST_CARDS: Final = 200


class Card(NamedTuple):
    """One message type."""

    counts: TypeCounts
    pulse: Pulse

    @property
    def waits_for_nobody(self) -> bool:
        """Whether messages wait that no live listener takes."""
        return _waits_for_nobody(self.counts)


class Cards(NamedTuple):
    """The message types that are shown.

    Attributes:
        cards: in type order.
        total: of all types, also of those that are not sought.
        sought: how many types are as the keeper seeks them.
    """

    cards: Sequence[Card]
    total: Pulse
    sought: int


async def overview(visit: Visit) -> Response:
    """Answer with all message types, each as a card."""
    look, sought = await visit.look(), visit.query("type")
    # In a thread, because there may be 10,000 types.
    found = await asyncio.to_thread(_cards, look, sought)
    return await visit.page("overview.html", look=look, found=found, sought=sought, most=MOST_CARDS)


def _cards(look: Look, sought: str) -> Cards:
    by_type: dict[str, list[Minute]] = defaultdict(list)
    for minute in look.minutes:
        by_type[minute.type].append(minute)
    pieces = [piece for piece in sought.casefold().split("*") if piece]
    fit = [one for one in look.counts if _is_in(one.type.casefold(), pieces)]
    shown = fit
    if len(fit) > MOST_CARDS:
        pressing = sorted(fit, key=lambda one: _pressing(one, by_type.get(one.type, ())))
        names = {one.type for one in pressing[:MOST_CARDS]}
        shown = [one for one in fit if one.type in names]
    cards = [Card(one, pulse_of(by_type.get(one.type, ()))) for one in shown]
    return Cards(cards, pulse_of(look.minutes), len(fit))


def _is_in(name: str, pieces: Sequence[str]) -> bool:
    """Whether a name has all pieces, one after another."""
    # No regular expression, because one with many `*` never ends.
    start = 0
    for piece in pieces:
        found = name.find(piece, start)
        if found < 0:
            return False
        start = found + len(piece)
    return True


def _pressing(counts: TypeCounts, minutes: Sequence[Minute]) -> tuple[bool, int, int]:
    """What comes first in order: the troubled, then the busy."""
    ended = sum(one.handled + one.failed + one.dead for one in minutes)
    troubled = counts.paused or _waits_for_nobody(counts)
    return not (counts.dead or troubled), -counts.dead, -(_waiting(counts) + ended)


def _waiting(counts: TypeCounts) -> int:
    return counts.ready + counts.delayed + counts.blocked + counts.running


def _waits_for_nobody(counts: TypeCounts) -> bool:
    return not counts.handled and bool(counts.ready + counts.delayed + counts.blocked)
