"""How much more a listener may claim: slots in all, slots of a type, and a little ahead."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

from kvqueue_fastapi.handlers.table import Handler, HandlerTable
from kvqueue_fastapi.model import Claim, Wanted
from kvqueue_fastapi.settings import KvQueueSettings

AHEAD_S: Final = 0.05
"""Claims wait for a free slot about this long: handlers that are quick get larger batches."""
MOST_AHEAD: Final = 8
"""Times the concurrency: what is claimed ahead at the most. Three claims have to have room, with
100 slots: one that is handled, one that waits for it, and one that is under way."""
MEASURE_S: Final = 0.1


class Rooms:
    """Counts what is held, and tells what there is room for.

    A listener claims a little more than it has slots, so that the next message is there when a
    slot gets free. How much is a matter of its pace: as much as it ends in `AHEAD_S`. Types
    with a limit of their own are never claimed ahead.

    Args:
        table: the handlers of this process.
        settings: how many of them may run at once.
        claim_size: how many messages to claim in one go at the most, as the store has it.

    Attributes:
        slots: how many handlers may run at once.
    """

    def __init__(self, table: HandlerTable, settings: KvQueueSettings, claim_size: int) -> None:
        self._table = table
        self._claim_size = claim_size
        self.slots = settings.concurrency
        self._threads = settings.sync_concurrency
        self._held = 0
        self._held_in_threads = 0
        self._held_of: Counter[str] = Counter()
        self._limited = {one.message_type: one for one in table if _is_limited(one)}
        self._ahead = 0
        self._ended = 0
        self._measured_at = time.monotonic()

    def limit(self, besides: int = 0) -> int:
        """How many to claim in one go now; 0: not worth it yet.

        Args:
            besides: how many may come of a claim that is under way.
        """
        free = self.slots + self._ahead - self._held - besides
        # Half a batch at least, unless there is nothing else to do meanwhile.
        least = min(self._ahead, self._claim_size) // 2
        return min(free, self._claim_size) if free > least else 0

    def of(self, message_type: str) -> int:
        """How many of a type there is room for."""
        handler = self._table.get(message_type)
        most = self.slots + self._ahead - self._held
        if handler is None:
            return most
        if handler.concurrency is not None:
            most = min(most, handler.concurrency - self._held_of[message_type])
        if not handler.is_async:
            most = min(most, self._threads - self._held_in_threads)
        return most

    def left(self, wanted: Sequence[Wanted]) -> list[Wanted]:
        """The same types with the room that is left, but for those that have none."""
        return [Wanted(kind, room) for kind, _ in wanted if (room := self.of(kind)) > 0]

    def parts(self, wanted: Sequence[Wanted]) -> list[Sequence[Wanted]]:
        """Types that run in threads apart from the others: together they share the threads."""
        apart = [one for one in wanted if self._is_in_thread(one.type)]
        beside = [one for one in wanted if not self._is_in_thread(one.type)]
        if not apart or not beside:
            return [wanted]
        return [apart, beside] if wanted[0] == apart[0] else [beside, apart]

    def limit_of(self, part: Sequence[Wanted]) -> int:
        """How many to claim now of one of the `parts`."""
        if part and self._is_in_thread(part[0].type):
            return min(self.limit(), self._threads - self._held_in_threads)
        return self.limit()

    def share_slots_alone(self, part: Sequence[Wanted]) -> bool:
        """Whether these types have no limits but the slots that all of them share."""
        return all(one.type not in self._limited for one in part)

    def take(self, message_type: str) -> None:
        """A message of this type is held now."""
        self._count(message_type, 1)

    def give(self, message_type: str, *, handled: bool = True) -> None:
        """A message of this type is held no more."""
        self._count(message_type, -1)
        self._ended += handled

    def measure(self) -> None:
        """Look at the pace, now and then."""
        now = time.monotonic()
        if now - self._measured_at >= MEASURE_S:
            pace = self._ended / (now - self._measured_at)
            self._ahead = min(int(pace * AHEAD_S), MOST_AHEAD * self.slots)
            self._ended, self._measured_at = 0, now

    def _count(self, message_type: str, change: int) -> None:
        self._held += change
        if not self._limited:
            return
        if handler := self._limited.get(message_type):
            self._held_of[message_type] += change
            if not handler.is_async:
                self._held_in_threads += change

    def _is_in_thread(self, message_type: str) -> bool:
        handler = self._table.get(message_type)
        return handler is not None and not handler.is_async


def _is_limited(handler: Handler) -> bool:
    return handler.concurrency is not None or not handler.is_async


def is_cut_off(wanted: Sequence[Wanted], claims: Sequence[Claim], limit: int) -> bool:
    """Whether there may be more of what was asked for than the room that was left for it."""
    if len(claims) >= limit:
        return True
    came = Counter(claim.type for claim in claims)
    return any(came[kind] >= room for kind, room in wanted if kind in came)
