"""A message that is one crash from its end: nothing else begins just before and after it."""

import asyncio
from collections.abc import Iterable
from typing import Final

from kvqueue_fastapi.message import Hold
from kvqueue_fastapi.model import Wanted
from kvqueue_fastapi.rooms import Rooms
from kvqueue_fastapi.runners import Runners

APART_S: Final = 10.0
"""For so long others are kept apart, and no longer: a handler may take hours."""


class Isolation:
    """Finds the moment for an isolated message, and makes up for it where there was no room.

    Args:
        rooms: what there is room for.
        runners: where others are handled.
    """

    def __init__(self, rooms: Rooms, runners: Runners) -> None:
        self._rooms = rooms
        self._runners = runners
        self._lasting: set[Hold] = set()
        self._owed: set[str] = set()

    def owed(self, wanted: Iterable[Wanted]) -> list[str]:
        """Types whose isolated message had no room the last time: it comes before the others."""
        return [one.type for one in wanted if one.type in self._owed]

    def admit(self, types: Iterable[str]) -> list[Wanted]:
        """Those of some types that have room now; the others are owed it."""
        self._owed.update(types)
        wanted = self._rooms.left([Wanted(kind, 1) for kind in types])
        self._owed.difference_update(one.type for one in wanted)
        return wanted

    def is_crowded_out(self) -> bool:
        """Whether handlers that have outlasted a wait take all the slots."""
        lasting = self._lasting.intersection(self._runners.running.values())
        return len(lasting) >= self._rooms.slots

    async def until_idle(self) -> None:
        """Wait until nothing runs, or only what has outlasted such a wait."""
        self._lasting.intersection_update(self._runners.running.values())
        if awaited := self._runners.others_than(self._lasting):
            _, pending = await asyncio.wait(awaited, timeout=APART_S)
            running = self._runners.running
            self._lasting.update(running[runner] for runner in pending if runner in running)
