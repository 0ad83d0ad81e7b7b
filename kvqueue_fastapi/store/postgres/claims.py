"""Messages on their way out: what is due, in whose hands, until when."""

import asyncio
import time
from collections.abc import Callable, Iterable

from kvqueue_fastapi.model import Claimed
from kvqueue_fastapi.store.base import ClaimRequest
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import OwnSession, Session, is_cut
from kvqueue_fastapi.store.postgres.leases import Undertaker, new_token
from kvqueue_fastapi.store.postgres.picks import (
    Moment,
    Readiness,
    Taken,
    isolated_of,
    probe,
    promote_due,
    take,
    without,
)
from kvqueue_fastapi.store.postgres.sessions import Sessions, Transaction

REMEMBERED_S = 0.03
"""While claims are full, what is due is looked for so often, and not before each of them."""


class Claims:
    """Takes messages.

    Args:
        sessions: where.
        undertaker: ends leases that nobody extended.
        moment: the time of a claim.
    """

    def __init__(
        self, sessions: Sessions, undertaker: Undertaker, moment: Callable[[], Moment]
    ) -> None:
        self._sessions = sessions
        self._undertaker = undertaker
        self._moment = moment
        self._turn = asyncio.Lock()
        self._doubtful: set[int] = set()
        self._remembered: tuple[float, Readiness] | None = None

    async def claim(self, request: ClaimRequest) -> tuple[Claimed, bool]:
        """Take what is due. Returns it, and whether others may have missed what is left.

        One after another, because of two at a time the second could take what comes first.
        """
        async with self._turn:
            return await self._claim(request)

    async def _claim(self, request: ClaimRequest) -> tuple[Claimed, bool]:
        moment = self._moment()
        claimed_at = time.monotonic()
        readiness, made_ready = self._known(moment), False
        looked = readiness is None
        if readiness is None:
            readiness, made_ready = await self._make_ready(moment)
            claimed_at = time.monotonic()
        taken = await self._take(request, readiness, moment)
        is_full = len(taken.claims) >= request.limit > 0
        if is_full and looked:
            self._remember(readiness)
        elif not is_full and not looked:
            # There was less than it seemed, so it is worth a look at what else there is.
            self._remembered = None
            readiness, made_ready = await self._make_ready(moment)
            more = await self._take(without(request, taken.claims), readiness, moment)
            taken = Taken([*taken.claims, *more.claims], more.wanted, more.left_over)
        isolated: list[str] = []
        if readiness.any_isolated and not request.isolated:
            isolated = await self._sessions.attempt(
                lambda session: isolated_of(session, taken.wanted)
            )
        claimed = Claimed(taken.claims, readiness.wait_ms, claimed_at, isolated, made_ready)
        if request.taken is not None:
            request.taken(claimed)
        return claimed, taken.left_over

    def doubt(self, tokens: Iterable[int]) -> None:
        """Have what was taken by these tokens given back, if it was: nobody handles it."""
        self._doubtful.update(tokens)

    async def claim_within(
        self, transaction: Transaction, request: ClaimRequest, token: int
    ) -> tuple[Claimed, bool]:
        """Take what the same transaction has stored, and what else is due."""
        moment = self._moment()
        claimed_at = time.monotonic()
        readiness = await probe(transaction, moment)
        made_ready = readiness.due_in_ms is not None and readiness.due_in_ms <= 0
        if made_ready:
            await promote_due(transaction, moment)
            readiness = (await probe(transaction, moment))._replace(any_quarantined=True)
        transaction.xid = readiness.xid
        taken = await take(transaction, request, readiness, token, moment)
        isolated = await isolated_of(transaction, taken.wanted) if readiness.any_isolated else []
        claimed = Claimed(taken.claims, readiness.wait_ms, claimed_at, isolated, made_ready)
        return claimed, taken.left_over

    def _known(self, moment: Moment) -> Readiness | None:
        """What the last look has shown, if one claim after another is full since, for a moment."""
        if moment.now_ms is not None or self._remembered is None:
            return None
        until, readiness = self._remembered
        return readiness if time.monotonic() < until else None

    def _remember(self, readiness: Readiness) -> None:
        wait_ms = readiness.wait_ms
        for_s = REMEMBERED_S if wait_ms is None else min(REMEMBERED_S, wait_ms / 1000)
        self._remembered = (time.monotonic() + for_s, readiness)

    async def ready_types(self, after: str, limit: int) -> tuple[list[str], bool]:
        """Types with something to claim, in order, and whether some was made claimable now."""
        _, made_ready = await self._make_ready(self._moment())
        found: set[str] = set()
        for statement in (sql.READY_TYPES, sql.QUARANTINED_TYPES, sql.ISOLATED_TYPES):
            found.update(await self._types(statement, after, limit))
        return sorted(found, key=str.encode)[:limit], made_ready

    async def _types(self, statement: str, after: str, limit: int) -> list[str]:
        rows = await self._sessions.attempt(lambda session: session.fetch(statement, after, limit))
        return [row[0] for row in rows]

    async def _make_ready(self, moment: Moment) -> tuple[Readiness, bool]:
        """Make claimable what has become due or whose lease has ended."""
        readiness = await self._sessions.attempt(lambda session: probe(session, moment))
        if not readiness.is_overdue:
            return readiness, False
        made_ready = False
        if readiness.due_in_ms is not None and readiness.due_in_ms <= 0:
            await self._sessions.attempt(lambda session: promote_due(session, moment))
            made_ready = True
        spared_ms = 0
        if readiness.lease_ends_in_ms is not None and readiness.lease_ends_in_ms <= 0:
            spared_ms = await self._undertaker.end_expired(moment)
            made_ready = made_ready or not spared_ms
        readiness = await self._sessions.attempt(lambda session: probe(session, moment))
        if spared_ms and readiness.is_overdue:
            readiness = readiness._replace(lease_ends_in_ms=spared_ms)
        return readiness, made_ready

    async def _take(self, request: ClaimRequest, readiness: Readiness, moment: Moment) -> Taken:
        async def work(session: OwnSession) -> Taken:
            await self._give_back_doubtful(session)
            # Another one for each attempt: what was doubtful must never be what is held.
            token = new_token()
            try:
                return await take(session, request, readiness, token, moment)
            except BaseException as error:
                if is_cut(error):
                    # What it took, if it did, goes back before the next one.
                    self._doubtful.add(token)
                raise

        return await self._sessions.attempt(work)

    async def _give_back_doubtful(self, session: Session) -> None:
        doubtful = list(self._doubtful)
        if doubtful:
            await session.fetch(sql.RELEASE_TOKENS, doubtful)
            self._doubtful.difference_update(doubtful)
