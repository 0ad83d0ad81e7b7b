"""Claims that wait for something to claim, and are made by the commit that brings it."""

import asyncio
from collections.abc import Callable

from kvqueue_fastapi.model import Claimed
from kvqueue_fastapi.store.base import MAX_WANTED, ClaimRequest, Request
from kvqueue_fastapi.store.effects import may_change, types_sent
from kvqueue_fastapi.store.writer import WriteBatch

Wake = Callable[[], None]


class Offers:
    """What idle listeners of this process have left; made on the event loop, taken up beside it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._made: dict[asyncio.Future[Claimed], tuple[ClaimRequest, Wake]] = {}
        self._closed = False

    def make(self, request: ClaimRequest, wake: Wake) -> asyncio.Future[Claimed]:
        """Leave a claim. Returns its answer, which is cancelled where the store closes first.

        Args:
            request: what to claim.
            wake: of whoever leaves it; see `take_up`.
        """
        offer: asyncio.Future[Claimed] = self._loop.create_future()
        if self._closed:
            offer.cancel()
        else:
            self._made[offer] = request, wake
        return offer

    def withdraw(self, offer: asyncio.Future[Claimed]) -> bool:
        """Take an offer back. Returns whether it still stood; if not, its answer comes."""
        return self._made.pop(offer, None) is not None

    def take_up(self, batch: WriteBatch[Request]) -> list[Wake]:
        """Add the offers to a batch that may make something claimable.

        Returns: the wakes of those whose offers name all that it may be.
        """
        if not self._made or not may_change(batch.requests)[0]:
            return []
        sent = types_sent(batch.requests)
        named: dict[Wake, frozenset[str]] = {}
        for offer, (request, wake) in list(self._made.items()):
            wanted = [one for one in request.wanted if sent is None or one.type in sent]
            if not 0 < len(wanted) <= MAX_WANTED or not self.withdraw(offer):
                continue  # none or too many for one claim, or it was just withdrawn
            # First, so that they are answered before any of many senders goes on.
            batch.requests.insert(0, request._replace(wanted=wanted))
            batch.futures.insert(0, offer)
            named[wake] = named.get(wake, frozenset()) | {one.type for one in wanted}
        return [wake for wake, types in named.items() if sent is not None and sent <= types]

    def close(self) -> None:
        """Make none of them, now or later."""
        self._closed = True
        for offer in list(self._made):
            if self.withdraw(offer):  # else it is being made
                offer.cancel()
