"""The loop beside the app: wait, claim, dispatch at most n, settle, drain."""

import asyncio
import contextlib
import contextvars
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import ceil
from typing import Any, Final

from kvqueue_fastapi.deliveries import Deliveries
from kvqueue_fastapi.departure import Departure
from kvqueue_fastapi.dispatch import Dispatcher
from kvqueue_fastapi.endings import in_own_thread
from kvqueue_fastapi.handlers.table import HandlerTable
from kvqueue_fastapi.isolation import APART_S, Isolation
from kvqueue_fastapi.leases import LeaseKeeper
from kvqueue_fastapi.message import Hold
from kvqueue_fastapi.middleware import NO_HOOKS, Hooks
from kvqueue_fastapi.model import Claim, Claimed, Outcome, Settlement, Wanted
from kvqueue_fastapi.offers import Offers
from kvqueue_fastapi.prefetch import Prefetch
from kvqueue_fastapi.redaction import EVERYTHING, Redaction
from kvqueue_fastapi.reports import Reporter
from kvqueue_fastapi.rooms import Rooms
from kvqueue_fastapi.runners import Runners
from kvqueue_fastapi.sender import Sender
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.settling import Settler
from kvqueue_fastapi.store.base import SUSPECT_CRASHES, ClaimRequest, Store
from kvqueue_fastapi.turns import Turns
from kvqueue_fastapi.unhandled import UnhandledTypes
from kvqueue_fastapi.verdicts import dead

log = logging.getLogger("kvqueue_fastapi")

BACKOFF_S: Final = (0.05, 0.2, 1.0, 5.0)
"""How long to wait after the first, second, … store error in a row."""
TIDY_S: Final = 0.4
"""How often claims that wait for a slot are looked at: paused, or waiting for too long."""
STALE_S: Final = 1.0
"""Claims that have waited so long for a slot go back: others may be free for them."""
LAST_CLAIM_S: Final = 2.0
"""How long a claim that waits for a lock may still take when all else has stopped."""
CANCEL_S: Final = 0.5
"""How long a cancelled handler may take to come to its end."""


class Listener:
    """Claims what is due, runs at most `concurrency` handlers, and writes down how they ended.

    It survives every error of the store: it logs, waits a little, and goes on.
    """

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
        self._types = table.types
        self._grace_s = settings.shutdown_timeout_s
        self._lease_ms = round(settings.lease_s * 1000)
        self._poll_s = settings.poll_interval_s
        self._listener_id = 0
        self._holds: dict[int, Hold] = {}
        self._waiting: deque[Hold] = deque()
        self._runners = Runners(settings.concurrency, self._waiting, self._handle, self._failed)
        self._quarantined: dict[int, float] = {}
        self._rooms = Rooms(table, settings, store.claim_size)
        self._isolation = Isolation(self._rooms, self._runners)
        any_type = settings.unhandled == "fail"
        self._turns = Turns(store, table.types, any_type=any_type)
        self._unhandled = None if any_type else UnhandledTypes(store, frozenset(table.types))
        self._prefetch = Prefetch(self._rooms, self._claim)
        self._settler = Settler(store, self._holds, Deliveries(hooks.settled))
        self._reporter = Reporter(store, self._settler.deliveries, self._runners.running.__len__)
        self._keeper = LeaseKeeper(store, self._holds, settings.lease_s, self._reporter.look)
        self._departure = Departure(
            store, self._keeper, self._reporter, self._settler.deliveries, self._holds
        )
        late = self._departure.settle_late
        self._handle_one = Dispatcher(
            table, settings, sender, late, self._is_cancelling, redaction, hooks
        ).handle
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._offers = Offers(store, self._to_offer, self._accept_offered, self._wake)
        self._more = self._stopping = self._is_late = False
        self._lingering = 0
        self._loops: list[asyncio.Task[None]] = []
        self._unsubscribe: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Begin to listen. What dead processes left behind is taken over at once."""
        self._listener_id = await self._store.enter_listener(self._types)
        try:
            await in_own_thread(self._store.end_leases_of_the_dead)
        except BaseException:
            with contextlib.suppress(Exception):
                await in_own_thread(lambda: self._store.leave_listener(self._listener_id))
            raise
        self._reporter.begin(self._listener_id)
        self._keeper.start()
        self._unsubscribe = self._store.subscribe(self._wake.set)
        loop = asyncio.get_running_loop()
        for work in (self._claim_forever(), self._settler.run()):
            # In an empty context, so that no handler inherits that of whoever started the app.
            self._loops.append(loop.create_task(work, context=contextvars.Context()))

    async def stop(self, *, is_last: bool = True) -> None:
        """Claim no more, let handlers finish for `shutdown_timeout_s`, give back the rest.

        Args:
            is_last: the store is about to be closed, so that nobody waits long for a lock.
        """
        self._stopping = True
        self._unsubscribe()
        self._wake.set()
        try:
            await self._wind_down(is_last=is_last)
        finally:
            self._is_late = True
            # Whatever happened: threads that outlive the event loop wait for it.
            lingers = bool(self._lingering or self._runners.running)
            await in_own_thread(lambda: self._departure.leave(self._listener_id, lingers=lingers))

    @property
    def is_alive(self) -> bool:
        """Whether it claims, settles and keeps its leases."""
        ended = any(loop.done() for loop in self._loops)
        return bool(self._loops) and not ended and self._keeper.is_alive

    def is_handling_in(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether a handler runs in this task."""
        return task in self._runners.running

    # --- claiming ---

    async def _claim_forever(self) -> None:
        errors = 0
        tidied_at = time.monotonic()
        while not self._stopping:
            try:
                pause_s = await self._claim_all()
                if time.monotonic() - tidied_at > TIDY_S:
                    tidied_at = time.monotonic()
                    await self._tidy()
                errors = 0
            except Exception:
                with contextlib.suppress(Exception):  # no log that fails may end it
                    log.exception("The listener could not claim; it tries again")
                if not self._stopping:
                    self._wake.clear()
                pause_s = BACKOFF_S[min(errors, len(BACKOFF_S) - 1)]
                errors += 1
            await self._pause(pause_s, offering=not errors)
        with contextlib.suppress(Exception):  # whatever it is, it took nothing
            self._accept(await self._prefetch.rest())

    async def _claim_all(self) -> float:
        """Claim until there is nothing more, or no room. Returns seconds until to look again."""
        self._wake.clear()
        self._more = False
        self._turns.begin()
        next_due_ms: int | None = None
        while not self._stopping:
            self._rooms.measure()
            if not self._prefetch.is_pending and not self._rooms.limit():
                self._more = True
                break
            turn = await self._turns.next(self._rooms.of)
            self._more = self._more or turn.full
            cut_off = False
            parts = self._rooms.parts(turn.wanted)
            is_all = turn.last and len(parts) == 1
            if not is_all:
                self._accept(await self._prefetch.rest())
            for part in parts:
                if owed := self._isolation.owed(part):
                    await self._handle_alone(owed)
                asked = self._prefetch.take(part, is_all=is_all)
                claimed = await asked.answer
                next_due_ms = claimed.next_due_ms
                self._accept(claimed.claims)
                cut_off = self._prefetch.note(asked, claimed) or cut_off
                if claimed.isolated and await self._handle_alone(claimed.isolated):
                    cut_off = True
                self._more = self._more or cut_off
            if turn.last and not cut_off and not self._prefetch.is_pending:
                break
        return self._until_due_s(next_due_ms)

    async def _handle_alone(self, types: Sequence[str]) -> bool:
        """Handle a message that is one crash from its end, so that only itself can be to blame.

        Returns: whether there could be a slot for it.
        """
        if self._isolation.is_crowded_out():
            self._more = True
            return False
        self._accept(await self._prefetch.rest())
        self._give_back(self._waiting)
        await self._isolation.until_idle()
        # What there is room for now: what was claimed just before may have taken it.
        wanted = self._isolation.admit(types)
        if wanted and not self._stopping and len(self._runners.running) < self._rooms.slots:
            request = self._request(wanted, 1)._replace(isolated=True)
            self._accept((await self._store.claim(request)).claims)
            await self._isolation.until_idle()
            # Until its good end is written down, the death of another would be its own.
            await self._settler.until_written(APART_S)
        return True

    async def _claim(self, wanted: Sequence[Wanted], limit: int, *, quarantined: bool) -> Claimed:
        request = self._request(wanted, limit if wanted else 0)
        quarantined = quarantined and request.quarantined
        return await self._store.claim(request._replace(quarantined=quarantined))

    def _request(self, wanted: Sequence[Wanted], limit: int) -> ClaimRequest:
        return ClaimRequest(
            wanted,
            limit,
            self._lease_ms,
            self._listener_id,
            quarantined=limit > 0 and not self._is_quarantining(),
            taken=self._hold,
        )

    def _is_quarantining(self) -> bool:
        # Not for ever: those behind a handler that never returns would never begin.
        apart_since = time.monotonic() - APART_S
        return any(began > apart_since for began in self._quarantined.values())

    def _hold(self, claimed: Claimed) -> None:
        # In the store's thread: a handler that blocks the event loop holds up the answer, and
        # the keeper must know of these leases meanwhile.
        for claim in claimed.claims:
            self._holds[claim.id] = Hold(claim, claimed.claimed_at, self._lease_ms / 1000)

    def _until_due_s(self, next_due_ms: int | None) -> float:
        return self._poll_s if next_due_ms is None else min(self._poll_s, next_due_ms / 1000)

    async def _pause(self, seconds: float, *, offering: bool) -> None:
        self._look_in(seconds)
        if offering:
            self._offers.begin()
        await self._wake.wait()
        await self._offers.end()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_in(self, seconds: float) -> None:
        """Look whether there is something to claim so soon at the latest."""
        if self._waiting:
            seconds = min(seconds, TIDY_S)
        if self._quarantined:
            seconds = min(seconds, APART_S)
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._wake.set)

    def _to_offer(self) -> Iterator[ClaimRequest]:
        """What to claim of that which is sent here next, as far as there is room."""
        self._rooms.measure()
        turn = self._turns.offered(self._rooms.of)
        if turn is None:
            return
        self._more = self._more or turn.full
        parts = self._rooms.parts(turn.wanted)
        left = self._rooms.limit()
        for number, part in enumerate(parts):
            # Both may be made, so together they take no more than there is room for.
            limit = min(self._rooms.limit_of(part), ceil(left / (len(parts) - number)))
            if part and limit and not self._isolation.owed(part):
                request = self._request(part, limit)
                # Of those that must run alone, the first part alone brings one.
                yield request._replace(quarantined=request.quarantined and number == 0)
                left -= limit

    def _accept_offered(self, claimed: Claimed) -> None:
        self._accept(claimed.claims)
        self._look_in(self._until_due_s(claimed.next_due_ms))

    def _accept(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            self._rooms.take(claim.type)
            if claim.crashes >= SUSPECT_CRASHES:
                self._quarantined[claim.id] = time.monotonic()
            self._waiting.append(self._holds[claim.id])
        if self._stopping:
            self._give_back(self._waiting)
        self._runners.start()

    async def _tidy(self) -> None:
        if self._unhandled is not None:
            await self._unhandled.report()
        if not self._waiting:
            return
        paused = await self._store.paused_types()
        stale_before = time.monotonic() - STALE_S
        back = [
            hold
            for hold in self._waiting
            if hold.claim.type in paused or hold.claimed_at < stale_before
        ]
        for hold in back:
            self._waiting.remove(hold)
        self._give_back(deque(back))

    def _give_back(self, holds: deque[Hold]) -> None:
        while holds:
            hold = holds.popleft()
            claim = hold.claim
            self._settler.add(
                hold,
                Settlement(claim.id, claim.token, Outcome.RELEASE, ordering_key=claim.ordering_key),
            )
            self._make_room(claim, handled=False)

    # --- handling ---

    async def _handle(self, hold: Hold) -> None:
        if hold.has_run_out:
            # This process was frozen: another one may be at it.
            hold.ended = True
            self._give_back(deque([hold]))
            return
        settlement = await self._handle_one(hold)
        hold.ended = True
        if self._is_late and (settlement is not None or hold.settled):
            # It took longer to be cancelled than the shutdown could wait.
            await in_own_thread(lambda: self._departure.settle_late(hold, settlement))
        elif settlement is not None:
            self._end(hold, settlement)
        elif hold.settled:
            self._let_go(hold)
        else:
            self._lingering += 1

    def _failed(self, hold: Hold, error: BaseException) -> None:
        """Of what no handler may raise, such as GeneratorExit."""
        if hold.ended:
            return
        if hold.settled:
            self._let_go(hold)
        else:
            hold.error = error
            self._end(hold, dead(hold.claim, error))

    def _end(self, hold: Hold, settlement: Settlement) -> None:
        self._settler.add(hold, settlement)
        self._make_room(hold.claim)

    def _let_go(self, hold: Hold) -> None:
        """Of a message that its own handler has settled."""
        self._holds.pop(hold.claim.id, None)
        self._settler.deliveries.ended(hold, Outcome.DONE, was_held=True)
        self._make_room(hold.claim)

    def _make_room(self, claim: Claim, *, handled: bool = True) -> None:
        self._rooms.give(claim.type, handled=handled)
        if self._quarantined.pop(claim.id, None):
            self._more = True
        if self._more:
            self._wake.set()

    # --- stopping ---

    def _is_cancelling(self) -> bool:
        # An event loop that is ended by force cancels every task that there is, ours as well.
        return self._stopping or any(loop.cancelling() for loop in self._loops)

    async def _wind_down(self, *, is_last: bool) -> None:
        claiming, settling = self._loops
        # Not for ever: a claim may be waiting for a database that another program has locked.
        await asyncio.wait([claiming], timeout=CANCEL_S)
        self._give_back(self._waiting)
        await self._drain()
        if is_last:
            self._store.hurry()
        # What a claim brings now is given back, before the store forgets who holds it.
        await asyncio.wait([claiming], timeout=LAST_CLAIM_S)
        self._is_late = True
        self._settler.finish()
        if settling.cancelled():
            # An event loop that is ended by force cancels every task that there is.
            settling = asyncio.create_task(self._settler.run())
        await settling

    async def _drain(self) -> None:
        if self._runners.running:
            await asyncio.wait(self._runners.running, timeout=self._grace_s)
        for task in self._runners.running:
            task.cancel()
        if self._runners.running:
            await asyncio.wait(self._runners.running, timeout=CANCEL_S)
        for hold in self._runners.running.values():
            if hold.settled:
                continue
            log.warning(
                "The handler of %s %d did not end when it was cancelled. It keeps its message "
                "until it ends, or this process does.",
                hold.claim.type,
                hold.claim.id,
            )
