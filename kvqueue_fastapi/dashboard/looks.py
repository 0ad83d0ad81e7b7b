"""One look at the whole queue, shared by all who watch it."""

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import chain
from operator import attrgetter
from typing import Any, Final
from weakref import WeakKeyDictionary

from kvqueue_fastapi.admin import KvQueueAdmin
from kvqueue_fastapi.errors import StoreBusyError
from kvqueue_fastapi.keeper import ListenerRecord, Minute, TypeCounts

LOOK_S: Final = 2.0
"""Counting reads the whole table, so it is done no more often."""
PATIENCE_S: Final = 1.5
"""After this it is asked whether the store is there at all, and for as long waited for that."""


def _all_but(kind: type[Any], *others: str) -> Callable[[Any], tuple[Any, ...]]:
    """Reads what changes with the queue, and not with the time alone."""
    names = [field.name for field in fields(kind) if field.name not in others]
    return attrgetter(*names)


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
    def listening(self) -> int:
        """The processes that listen and live."""
        return sum(one.is_alive for one in self.listeners)

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


_COUNTS: Final = _all_but(TypeCounts, "oldest_age_s")
_LISTENER: Final = _all_but(ListenerRecord, "seen_ms", "loop_lag_ms")


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
    reading = asyncio.create_task(_read(admin))
    try:
        while not (await asyncio.wait([reading], timeout=PATIENCE_S))[0]:
            # Many messages take their time; a store that does not answer this either is away.
            async with asyncio.timeout(PATIENCE_S):
                await admin.listeners()
    except TimeoutError as exc:
        msg = f"The store has not answered for {2 * PATIENCE_S:g} s. Look at its server or disk."
        raise StoreBusyError(msg) from exc
    finally:
        reading.cancel()
    return await reading


async def _read(admin: KvQueueAdmin) -> Look:
    counts = tuple(await admin.counts())
    minutes = tuple(await admin.minutes())
    listeners = tuple(await admin.listeners())
    # In a thread, because there may be 10,000 types with 60 minutes each.
    return await asyncio.to_thread(_seen, counts, minutes, listeners)


def _seen(
    counts: tuple[TypeCounts, ...],
    minutes: tuple[Minute, ...],
    listeners: tuple[ListenerRecord, ...],
) -> Look:
    digest = hashlib.blake2b(digest_size=8)
    rows = chain(map(_COUNTS, counts), map(tuple, minutes), map(_LISTENER, listeners))
    for facts in rows:
        digest.update(repr(facts).encode("utf-8", "replace"))
    return Look(counts, minutes, listeners, digest.hexdigest())
