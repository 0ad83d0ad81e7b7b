"""Claims that an idle listener leaves in the store, for the commit of the next send to make."""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

from kvqueue_fastapi.model import Claimed
from kvqueue_fastapi.rooms import is_cut_off
from kvqueue_fastapi.store.base import ClaimRequest, Store


class Offers:
    """Leaves claims in the store, again and again, while the listener has nothing to do.

    A lone message is then claimed by the commit that stores it, and not by one more.

    Args:
        store: where they are left.
        requests: gives what to claim, as far as there is room for it now.
        accept: takes what was claimed.
        wake: ends the listener's pause, where it has to claim by itself.
    """

    def __init__(
        self,
        store: Store,
        requests: Callable[[], Iterable[ClaimRequest]],
        accept: Callable[[Claimed], None],
        wake: asyncio.Event,
    ) -> None:
        self._store = store
        self._requests = requests
        self._accept = accept
        self._wake = wake
        self._left: set[asyncio.Future[Claimed]] = set()
        self._pausing = False

    def begin(self) -> None:
        """Leave claims from now on."""
        self._pausing = True
        self._leave()

    async def end(self) -> None:
        """Take them back, and wait for those that are being made."""
        self._pausing = False
        left, self._left = self._left, set()
        if answered := [offer for offer in left if not self._store.withdraw(offer)]:
            await asyncio.wait(answered)

    def _leave(self) -> None:
        if not self._pausing or self._wake.is_set():
            return
        # Anew, because each claim changes what there is room for.
        self._left = {offer for offer in self._left if not self._store.withdraw(offer)}
        if self._left:
            return  # behind the answer that comes
        for request in self._requests():
            offer = self._store.offer(request, self._wake.set)
            offer.add_done_callback(partial(self._take, request))
            self._left.add(offer)

    def _take(self, request: ClaimRequest, offer: asyncio.Future[Claimed]) -> None:
        self._left.discard(offer)
        if offer.cancelled() or offer.exception() is not None:
            self._wake.set()  # the next claim meets the same error, and tells
            return
        claimed = offer.result()
        self._accept(claimed)
        if claimed.isolated or is_cut_off(request.wanted, claimed.claims, request.limit):
            self._wake.set()
        elif self._pausing:
            # Behind the handlers that begin now.
            asyncio.get_running_loop().call_soon(self._leave)
