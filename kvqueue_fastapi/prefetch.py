"""The claim that is under way beside the one that is awaited, while a backlog is deep.

The store goes from one to the next without a word from the event loop, which is busy with
handlers then: that takes as long as the claim itself.
"""

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol

from kvqueue_fastapi.model import Claim, Claimed, Wanted
from kvqueue_fastapi.rooms import Rooms, is_cut_off


class AskStore(Protocol):
    """Makes a claim."""

    def __call__(
        self, wanted: Sequence[Wanted], limit: int, *, quarantined: bool
    ) -> Coroutine[Any, Any, Claimed]:
        """Take so many of these types; and a quarantined one, where there may be one."""
        ...


class Asked(NamedTuple):
    """A claim that is under way, or about to be.

    Attributes:
        wanted: of which types, and how many of each at the most.
        limit: how many at the most.
        answer: what it brings.
    """

    wanted: Sequence[Wanted]
    limit: int
    answer: Awaitable[Claimed]


class Prefetch:
    """Begins claims, one ahead of what is awaited where there is much to claim.

    Args:
        rooms: what there is room for.
        ask_store: makes a claim. The store answers claims in the order in which they began.
    """

    def __init__(self, rooms: Rooms, ask_store: AskStore) -> None:
        self._rooms = rooms
        self._ask_store = ask_store
        self._next: Asked | None = None
        self._is_deep = False

    @property
    def is_pending(self) -> bool:
        """Whether a claim is under way that nobody awaits yet."""
        return self._next is not None

    def take(self, part: Sequence[Wanted], *, is_all: bool) -> Asked:
        """Give the claim to await next: the one that is under way, or else one of these types.

        Args:
            part: the types.
            is_all: whether no others have a turn. Else nothing is begun ahead, and nothing must
                be under way: it would take their turn.
        """
        asked, self._next = self._next, None
        if asked is None:
            wanted = self._rooms.left(part)
            limit = self._rooms.limit_of(wanted)
            asked = Asked(wanted, limit, self._ask_store(wanted, limit, quarantined=True))
        if is_all and self._is_deep and self._rooms.share_slots_alone(part):
            self._begin(part, besides=asked.limit)
        return asked

    def note(self, asked: Asked, claimed: Claimed) -> bool:
        """Remember how much came. Returns whether there may be more of what was asked for."""
        self._is_deep = len(claimed.claims) >= asked.limit > 0
        return claimed.cut_short or is_cut_off(asked.wanted, claimed.claims, asked.limit)

    async def rest(self) -> Sequence[Claim]:
        """Await what is under way, and begin nothing more."""
        asked, self._next = self._next, None
        return () if asked is None else (await asked.answer).claims

    def _begin(self, part: Sequence[Wanted], besides: int) -> None:
        limit = self._rooms.limit(besides)
        if not limit:
            return
        wanted = [Wanted(kind, limit) for kind, _ in part]
        # One that is quarantined runs alone among its kind, so the claim before it may bring one.
        work = self._ask_store(wanted, limit, quarantined=False)
        # Not by the loop's task factory: an eager one would begin it before the one ahead of it.
        answer = asyncio.Task(work, loop=asyncio.get_running_loop())
        self._next = Asked(wanted, limit, answer)
