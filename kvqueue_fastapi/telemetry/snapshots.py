"""What waits, dies and listens, read seldom and shown often."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kvqueue_fastapi.admin import KvQueueAdmin
from kvqueue_fastapi.errors import KvQueueError
from kvqueue_fastapi.keeper import TypeCounts
from kvqueue_fastapi.queue import KvQueue
from kvqueue_fastapi.telemetry.names import TypeNames

log = logging.getLogger("kvqueue_fastapi")

MAX_AGE_S: Final = 15.0
"""The counts read the whole table, so that they are read no more often."""
PATIENCE_S: Final = 5.0
"""Whoever asks does not wait longer: he is given what was read before."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The queue at one moment.

    Attributes:
        counts: a record for each message type.
        listeners: how many processes listen.
        due_s: for how long the oldest message has been due that could be handled; 0: there is
            none.
        read_at: when, on `time.monotonic`.
    """

    counts: Sequence[TypeCounts]
    listeners: int
    due_s: float
    read_at: float

    @property
    def age_s(self) -> float:
        """Seconds since it was read."""
        return time.monotonic() - self.read_at

    def by_name(self, names: TypeNames) -> dict[str, list[TypeCounts]]:
        """The counts of the types that are told apart, and together those of the others."""
        named: dict[str, list[TypeCounts]] = {}
        for counts in self.counts:
            name = names.of(counts.type, is_handled=counts.handled)
            named.setdefault(name, []).append(counts)
        return named


class Snapshots:
    """Reads the queue at most every so often, once for all who ask.

    Args:
        max_age_s: how old a snapshot may be.
        patience_s: how long a reader waits for a new one.
    """

    def __init__(self, max_age_s: float = MAX_AGE_S, patience_s: float = PATIENCE_S) -> None:
        self._max_age_s = max_age_s
        self._patience_s = patience_s
        self._reading: asyncio.Task[None] | None = None
        self.last: Snapshot | None = None

    async def fresh(self, queue: KvQueue, admin: KvQueueAdmin) -> Snapshot | None:
        """Give a snapshot that is new enough; an older one, or None, where it takes too long."""
        if self.last is None or self.last.age_s > self._max_age_s:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read(queue, admin))
            # Not cancelled with whoever asks, nor by his patience: the next one wants it too.
            await asyncio.wait([self._reading], timeout=self._patience_s)
        return self.last

    async def _read(self, queue: KvQueue, admin: KvQueueAdmin) -> None:
        began_at = time.monotonic()
        try:
            due_s = (await queue.health()).oldest_age_s or 0.0
            counts, listeners = await admin.counts(), await admin.listeners()
        except KvQueueError as error:
            log.warning("The queue could not be counted for its metrics: %s", error)
            return
        alive = sum(one.is_alive for one in listeners)
        self.last = Snapshot(counts, alive, due_s, began_at)
