"""The overview: a card for each message type."""

from collections import defaultdict
from typing import NamedTuple

from starlette.responses import Response

from kvqueue_fastapi.dashboard.pulse import Pulse, pulse_of
from kvqueue_fastapi.dashboard.visit import Visit
from kvqueue_fastapi.keeper import Minute, TypeCounts


class Card(NamedTuple):
    """One message type."""

    counts: TypeCounts
    pulse: Pulse

    @property
    def waits_for_nobody(self) -> bool:
        """Whether messages wait that no live listener takes."""
        counts = self.counts
        return not counts.handled and bool(counts.ready + counts.delayed + counts.blocked)


async def overview(visit: Visit) -> Response:
    """Answer with all message types, each as a card."""
    look = await visit.look()
    by_type: dict[str, list[Minute]] = defaultdict(list)
    for minute in look.minutes:
        by_type[minute.type].append(minute)
    cards = [Card(counts, pulse_of(by_type[counts.type])) for counts in look.counts]
    return await visit.page("overview.html", look=look, cards=cards, total=pulse_of(look.minutes))
