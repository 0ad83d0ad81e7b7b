"""Handles what is due, one message after another, while the caller waits."""

import asyncio
import contextvars
import logging
import threading

from kvqueue_fastapi.deliveries import Deliveries
from kvqueue_fastapi.dispatch import Dispatcher
from kvqueue_fastapi.endings import in_own_thread
from kvqueue_fastapi.handlers.table import HandlerTable
from kvqueue_fastapi.leases import LeaseKeeper
from kvqueue_fastapi.message import Hold
from kvqueue_fastapi.middleware import NO_HOOKS, Hooks
from kvqueue_fastapi.model import Claimed, Outcome, Settlement
from kvqueue_fastapi.redaction import EVERYTHING, Redaction
from kvqueue_fastapi.sender import Sender
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store.base import ClaimRequest, Store
from kvqueue_fastapi.turns import Turns

log = logging.getLogger("kvqueue_fastapi")


class Drain:
    """What `run_until_idle` runs: a listener without a loop."""

    def __init__(
        self,
        store: Store,
        table: HandlerTable,
        settings: KvQueueSettings,
        sender: Sender,
        redaction: Redaction = EVERYTHING,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        self._store = store
        self._table = table
        self._any_type = settings.unhandled == "fail"
        self._lease_s = settings.lease_s
        self._cancelled = False
        self._dispatcher = Dispatcher(
            table, settings, sender, self._settle_late, lambda: self._cancelled, redaction, hooks
        )
        self._deliveries = Deliveries(hooks.settled)
        self._settled_late: dict[int, threading.Event] = {}

    async def run(self) -> int:
        """Handle until nothing is due. Returns how many deliveries there were."""
        turns = Turns(self._store, self._table.types, any_type=self._any_type)
        holds: dict[int, Hold] = {}

        def hold(claimed: Claimed) -> None:
            holds.update(
                (claim.id, Hold(claim, claimed.claimed_at, self._lease_s))
                for claim in claimed.claims
            )

        listener_id = await self._store.enter_listener(self._table.types)
        keeper = LeaseKeeper(self._store, holds, self._lease_s)
        keeper.start()
        handled, idle = 0, False
        try:
            while not idle:
                turn = await turns.next(lambda _: 1)
                request = ClaimRequest(
                    turn.wanted,
                    limit=1 if turn.wanted else 0,
                    lease_ms=round(self._lease_s * 1000),
                    listener_id=listener_id,
                    taken=hold,
                )
                claimed = await self._store.claim(request)
                if claimed.isolated and not claimed.claims:
                    claimed = await self._store.claim(request._replace(isolated=True))
                for claim in claimed.claims:
                    await self._handle(holds[claim.id])
                    del holds[claim.id]
                    handled += 1
                idle = turn.last and not claimed.claims
                if claimed.claims:
                    turns.begin()
        finally:
            await in_own_thread(keeper.stop)
            await in_own_thread(lambda: self._store.leave_listener(listener_id))
        return handled

    async def _handle(self, hold: Hold) -> None:
        # In a task and an empty context of its own, as in the listener.
        task = asyncio.get_running_loop().create_task(
            self._dispatcher.handle(hold), context=contextvars.Context()
        )
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            self._cancelled = True
            task.cancel()
            await asyncio.wait([task])
            await self._end(hold, task.result())
            raise
        await self._end(hold, task.result())

    async def _end(self, hold: Hold, settlement: Settlement | None) -> None:
        hold.ended = True
        if settlement is not None:
            (held,) = await self._store.settle([settlement])
            was_held = held if isinstance(held, bool) else await asyncio.shield(held)
            self._deliveries.ended(hold, settlement.outcome, was_held=was_held)
        elif not hold.settled:
            # A thread cannot be stopped, and its message must not be given back before it ends.
            await in_own_thread(self._late(hold).wait)
            del self._settled_late[hold.claim.id]
        else:
            self._deliveries.ended(hold, Outcome.DONE, was_held=True)

    def _late(self, hold: Hold) -> threading.Event:
        return self._settled_late.setdefault(hold.claim.id, threading.Event())

    def _settle_late(self, hold: Hold, settlement: Settlement) -> None:
        try:
            (held,) = self._store.settle_now([settlement])
            self._deliveries.ended(hold, settlement.outcome, was_held=held)
        except Exception:
            log.exception("Message %d could not be settled; it comes again", hold.claim.id)
        self._late(hold).set()
