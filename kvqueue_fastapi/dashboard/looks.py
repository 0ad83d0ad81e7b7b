"""One look at the whole queue, shared by all who watch it."""

import asyncio
import hashlib
import time
from dataclasses import dataclass, replace
from typing import Final
from weakref import WeakKeyDictionary

from kvqueue_fastapi.admin import KvQueueAdmin
from kvqueue_fastapi.keeper import ListenerRecord, Minute, TypeCounts

LOOK_S: Final = 2.0
"""Counting reads the whole table, so it is done no more often."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the queue was like at one moment.

    Attributes:
        counts: one for each message type, in type order.
        minutes: by type and time.
        listeners: the oldest first.
        fingerprint: another one when anything but the time has changed, in every process.
    """

    counts: tuple[TypeCounts, ...]
    minutes: tuple[Minute, ...]
    listeners: tuple[ListenerRecord, ...]
    fingerprint: str

    @property
    def dead(self) -> int:
        """All dead letters."""
        return sum(counts.dead for counts in self.counts)

    @property
    def waiting(self) -> int:
        """All messages that are not dead."""
        return sum(
            one.ready + one.delayed + one.blocked + one.running + one.quarantined + one.isolated
            for one in self.counts
        )


class Looks:
    """Looks at one queue, only when somebody asks, and at most every `LOOK_S`."""

    def __init__(self) -> None:
        self._taking: asyncio.Task[Look] | None = None
        self._taken_at = 0.0

    async def latest(self, admin: KvQueueAdmin) -> Look:
        """The last look, or a new one where that is too old.

        Raises:
            StoreError: the store does not answer.
        """
        if self._taking is None or self._is_old(self._taking):
            self._taken_at = time.monotonic()
            self._taking = asyncio.create_task(_look(admin))
            self._taking.add_done_callback(_hear)
        # Shielded, because one who goes away must not take it from the others.
        return await asyncio.shield(self._taking)

    def forget(self) -> None:
        """Look again at the next question, because something was changed."""
        self._taking = None

    def _is_old(self, taking: asyncio.Task[Look]) -> bool:
        if taking.get_loop() is not asyncio.get_running_loop():
            return True
        return taking.done() and time.monotonic() - self._taken_at >= LOOK_S


_looks: Final[WeakKeyDictionary[KvQueueAdmin, Looks]] = WeakKeyDictionary()


def looks_at(admin: KvQueueAdmin) -> Looks:
    """The looks at one queue, the same for all dashboards of a process."""
    return _looks.setdefault(admin, Looks())


def _hear(taken: asyncio.Task[Look]) -> None:
    # All who asked may have gone; then nobody else hears of its error.
    if not taken.cancelled():
        taken.exception()


async def _look(admin: KvQueueAdmin) -> Look:
    counts = tuple(await admin.counts())
    minutes = tuple(await admin.minutes())
    listeners = tuple(await admin.listeners())
    still = (
        [replace(one, oldest_age_s=None) for one in counts],
        minutes,
        [replace(one, seen_ms=0, loop_lag_ms=0) for one in listeners],
    )
    fingerprint = hashlib.sha256(repr(still).encode("utf-8", "replace")).hexdigest()[:16]
    return Look(counts, minutes, listeners, fingerprint)
