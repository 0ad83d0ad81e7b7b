"""Leases: made longer while their holder lives, ended when it died."""

import math
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from kvqueue_fastapi.model import Failure
from kvqueue_fastapi.store.base import SUSPECT_CRASHES
from kvqueue_fastapi.store.outages import Outages
from kvqueue_fastapi.store.postgres import locks
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import Row, Session
from kvqueue_fastapi.store.postgres.holds import Endings, Held
from kvqueue_fastapi.store.postgres.keys import Keys
from kvqueue_fastapi.store.postgres.picks import Moment
from kvqueue_fastapi.store.postgres.sends import columns, promote_heads
from kvqueue_fastapi.store.postgres.sessions import Sessions, Transaction

SLICE: Final = 1_000
_READY, _QUARANTINED, _ISOLATED = 0, 4, 5


def new_token() -> int:
    """A number that no other claim has; 0 is nobody's."""
    return random.getrandbits(53) + 1


async def extend(
    session: Session, leases: Sequence[tuple[int, int]], lease_ms: int, steady_ms: int | None
) -> frozenset[int]:
    """Prolong leases. Returns the ids of those that were lost."""
    ids, tokens = columns(leases, 2)
    held = {row[0] for row in await session.fetch(sql.EXTEND, steady_ms, lease_ms, ids, tokens)}
    return frozenset(ids) - held


class Undertaker:
    """Ends the leases of holders that died or fell silent.

    A crash spends no retry, but a message that has seen `max_crashes` of them is dead: it may
    be what kills its holders. Before the last one it is handled while nothing else begins, so
    that it is the only one that can have done it.

    Args:
        sessions: where it works.
        max_crashes: after how many a message is dead.
        outages: when nobody could extend a lease.
        schema: whose locks to take.
    """

    def __init__(self, sessions: Sessions, max_crashes: int, outages: Outages, schema: str) -> None:
        self._sessions = sessions
        self._max_crashes = max_crashes
        self._outages = outages
        self._schema = schema

    async def end_expired(self, moment: Moment) -> int:
        """End leases that nobody extended. Returns for how many milliseconds they are spared."""
        grace_s = await self.spared_s()
        if grace_s:
            if self._outages.lasts:
                await self._sessions.attempt(
                    lambda session: session.fetch(sql.TOUCH_EXPIRED, moment.steady_ms)
                )
            return math.ceil(grace_s * 1000)
        rows = await self._sessions.attempt(
            lambda session: session.fetch(sql.EXPIRED, moment.steady_ms, SLICE)
        )
        if rows:
            try:
                await self._sessions.transact(
                    lambda transaction: self._end_silent(transaction, rows, moment)
                )
            except locks.ShutOutError:
                return math.ceil(self._outages.grace_s() * 1000)
        return 0

    async def spared_s(self) -> float:
        """For how long no lease is to be ended, because none could be made longer."""
        if self._outages.is_shut:
            with suppress(locks.ShutOutError):
                await self._sessions.transact(locks.lock_to_write)
                self._outages.is_let_in()
        return self._outages.grace_s()

    async def _end_silent(
        self, transaction: Transaction, rows: Sequence[Row], moment: Moment
    ) -> None:
        # First of all, because who waits for a lock with the rows in hand is served before those
        # who wait for it to make their leases longer.
        await locks.lock_to_write(transaction)
        text = "the lease ended: its holder was frozen or cut off"
        await self._end(transaction, rows, text, moment, dead=False)

    async def end_of(self, listener_id: int, moment: Moment) -> int:
        """End all leases of a listener whose lock is free. Returns how many."""
        ended, is_last = 0, False
        while not is_last:
            count, is_last = await self._sessions.transact(
                lambda transaction: self._end_slice_of(transaction, listener_id, moment)
            )
            ended += count
        return ended

    async def _end_slice_of(
        self, transaction: Transaction, listener_id: int, moment: Moment
    ) -> tuple[int, bool]:
        """Returns how many, and whether there are no more."""
        found = await transaction.fetch(sql.IS_DEAD, listener_id)
        if not found:  # it is back, or somebody else has been faster
            return 0, True
        if found[0][0]:
            # It had stopped in good order, so nothing that it still held has killed it.
            released = await transaction.fetch(sql.RELEASE_ALL_OF, listener_id)
            await transaction.fetch(sql.DELETE_LISTENER, listener_id)
            return len(released), True
        rows = await transaction.fetch(sql.HELD_BY, listener_id, SLICE)
        text = "the process that handled it died"
        ended = await self._end(transaction, rows, text, moment, dead=True)
        if len(rows) < SLICE:
            await transaction.fetch(sql.DELETE_LISTENER, listener_id)
        return ended, len(rows) < SLICE or not ended

    async def _end(
        self,
        transaction: Transaction,
        candidates: Sequence[Row],
        text: str,
        moment: Moment,
        *,
        dead: bool,
    ) -> int:
        """Returns how many; those whose last crash it is wait where a caller has their key."""
        last = [row for row in candidates if row[3] + 1 >= self._max_crashes]
        keyed = {row[0]: locks.ordering(row[2]) for row in last if row[2] is not None}
        wanted = {*keyed.values(), locks.VERSIONS} if last else set()
        locked = await locks.lock_briefly(transaction, self._schema, wanted, moment.now_ms)
        transaction.xid = locked.xid
        candidates = [row for row in candidates if keyed.get(row[0]) not in locked.missing]
        keys = Keys(locked.now_ms) if last else None
        if keys is not None:
            await keys.load(transaction, ())
        endings = Endings(locked.now_ms, keys)
        ids, tokens = columns([row[:2] for row in candidates], 2)
        held = endings.see(
            await transaction.fetch(sql.HOLD_UNTOUCHED, ids, tokens, dead, moment.steady_ms)
        )
        buried = [self._end_one(endings, one, text) for one in held]
        await endings.store(transaction)
        if keys is not None:
            await keys.store(transaction)
        await promote_heads(transaction, buried, locked.now_ms)
        return len(held)

    def _end_one(self, endings: Endings, held: Held, text: str) -> str | None:
        """Returns the ordering key of which the next message may come."""
        crashes = held.crashes + 1
        if crashes < self._max_crashes:
            endings.crash(held, text, self._lane(crashes))
            return None
        failure = Failure(f"{text}; that was crash {crashes} of {self._max_crashes}")
        endings.bury(held, failure, crashes=1)
        return held.ordering_key

    def _lane(self, crashes: int) -> int:
        """The state in which a message can be claimed that has seen so many crashes."""
        if crashes >= self._max_crashes - 1:
            return _ISOLATED
        return _QUARANTINED if crashes >= SUSPECT_CRASHES else _READY
