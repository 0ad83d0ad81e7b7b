"""Which message types a listener asks for next, so that every type has its turn."""

from collections.abc import Callable
from typing import Final, NamedTuple

from kvqueue_fastapi.model import BARE_TYPE, Wanted
from kvqueue_fastapi.store.base import MAX_WANTED, Store

MOST_OFFERED: Final = 256
"""An offer is made after each message that comes to an idle listener, so it must be quick."""
PAGE: Final = 256
"""How many types with something to claim are looked at in one go."""


class Turn(NamedTuple):
    """What to ask for in one claim.

    Attributes:
        wanted: types with room, at most `MAX_WANTED` of them where it is no offer.
        full: whether a type was left out because it has no room.
        last: whether every type has had its turn since `begin`.
    """

    wanted: list[Wanted]
    full: bool
    last: bool


class Turns:
    """Takes types in turns.

    A few types are simply asked for, in rotation. Where there are many, or where any type at
    all is taken, those that have something to claim are looked up, page by page.

    Args:
        store: to look types up in.
        types: what this process handles.
        any_type: whether it takes types that it has no handler for, too.
    """

    def __init__(self, store: Store, types: tuple[str, ...], *, any_type: bool) -> None:
        self._store = store
        self._types = types
        self._handled = frozenset(types)
        self._any_type = any_type
        self._looks_up = any_type or len(types) > MAX_WANTED
        self._first = 0
        self._after = ""
        self._whole = True

    def begin(self) -> None:
        """Count turns anew: a round that is under way now is not the last one."""
        self._whole = not self._after

    async def next(self, room_of: Callable[[str], int]) -> Turn:
        """Choose the types for one claim.

        Args:
            room_of: how many more of a type may be claimed now.
        """
        if self._looks_up:
            return await self._look_up(room_of)
        self._first += 1
        return self._of_all(room_of)

    def offered(self, room_of: Callable[[str], int]) -> Turn | None:
        """Choose types for an offer, which may name more of them; None: there are too many."""
        if self._any_type or len(self._types) > MOST_OFFERED:
            return None
        return self._of_all(room_of)

    def _of_all(self, room_of: Callable[[str], int]) -> Turn:
        start = self._first % max(1, len(self._types))
        rooms = [Wanted(k, room_of(k)) for k in self._types[start:] + self._types[:start]]
        wanted = [one for one in rooms if one.room > 0]
        return Turn(wanted, full=len(wanted) < len(rooms), last=True)

    async def _look_up(self, room_of: Callable[[str], int]) -> Turn:
        if not self._after:
            self._first += 1
        page = await self._store.ready_types(after=self._after, limit=PAGE)
        self._after = page[-1] if len(page) == PAGE else ""
        wanted: list[Wanted] = []
        full = False
        for kind in page:
            if not (self._any_type and kind != BARE_TYPE) and kind not in self._handled:
                continue  # bare values are left to whoever calls listen_queue
            room = room_of(kind)
            if room <= 0:
                full = True
                continue
            wanted.append(Wanted(kind, room))
            if len(wanted) == MAX_WANTED and kind != page[-1]:
                # The next turn goes on behind the last type of this one.
                self._after = kind
                break
        # Where there is room for few, another of them comes first in each round.
        start = self._first % max(1, len(wanted))
        last = self._whole and not self._after
        self._whole = self._whole or not self._after
        return Turn(wanted[start:] + wanted[:start], full, last)
