"""Messages on their way out: what is due, in whose hands, until when."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from kvqueue_fastapi.model import Claimed
from kvqueue_fastapi.store.base import ClaimRequest
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import OwnSession, Session, is_cut
from kvqueue_fastapi.store.postgres.leases import Undertaker, new_token
from kvqueue_fastapi.store.postgres.picks import (
    Head,
    Moment,
    Readiness,
    Taken,
    heads,
    isolated_of,
    probe,
    promote_due,
    take,
    without,
)
from kvqueue_fastapi.store.postgres.sessions import Sessions, Transaction

REMEMBERED_S: Final = 0.03
"""While claims are full, what there is to claim is looked for so often at the most, and not
before each of them: what is due, what comes before what was found, what is of another type."""
MOST_REMEMBERED_S: Final = 1.0
"""So often at the least, however long a look takes."""
LOOK_SHARE: Final = 0.1
"""Of the time."""


class _Known(NamedTuple):
    """What a look has shown.

    Attributes:
        until: when it is worth another look, on `time.monotonic`.
        heads: where the ready messages of each type began, of those that had any.
    """

    until: float
    readiness: Readiness
    heads: Mapping[str, Head]

    def narrowed(self, request: ClaimRequest) -> ClaimRequest:
        """The request, for those types alone of which there were some."""
        return request._replace(wanted=[one for one in request.wanted if one.type in self.heads])


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
        self._remembered: _Known | None = None
        self._most: int | None = None

    async def claim(self, request: ClaimRequest) -> tuple[Claimed, bool]:
        """Take what is due. Returns it, and whether others may have missed what is left.

        One after another, because of two at a time the second could take what comes first.
        """
        async with self._turn:
            claimed, left_over = await self._claim(request)
        # The next claim is on its way to the server while this one is written into the book.
        await asyncio.sleep(0)
        if request.taken is not None:
            request.taken(claimed)
        return claimed, left_over

    async def _claim(self, request: ClaimRequest) -> tuple[Claimed, bool]:
        tokens: list[int] = []
        try:
            return await self._claim_by(request, tokens)
        except BaseException:
            # What was taken before it failed goes back with the next claim.
            self.doubt(tokens)
            raise

    async def _claim_by(self, request: ClaimRequest, tokens: list[int]) -> tuple[Claimed, bool]:
        moment = self._moment()
        began = claimed_at = time.monotonic()
        known, made_ready = self._known(moment), False
        if known is None:
            readiness, made_ready = await self._make_ready(moment)
            claimed_at = time.monotonic()
            taken = await self._take(request, readiness, moment, tokens)
            if _is_full(taken, request):
                await self._remember(request, readiness, began)
        else:
            readiness = known.readiness
            narrowed = known.narrowed(request)
            taken = await self._take(narrowed, readiness, moment, tokens, known.heads)
            if not _is_full(taken, request):
                # There was less than it seemed, so it is worth a look at what else there is.
                self._remembered = None
                readiness, made_ready = await self._make_ready(moment)
                rest = without(request, taken.claims)
                more = await self._take(rest, readiness, moment, tokens)
                claims = [*taken.claims, *more.claims]
                taken = more._replace(claims=claims)
        isolated: list[str] = []
        if readiness.any_isolated and not request.isolated:
            isolated = await self._sessions.attempt(
                lambda session: isolated_of(session, taken.wanted)
            )
        claimed = Claimed(
            taken.claims, readiness.wait_ms, claimed_at, isolated, made_ready, taken.cut_short
        )
        return claimed, taken.left_over

    def forget(self) -> None:
        """Look again before the next claim: something was stored before what was found."""
        self._remembered = None

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

    def _known(self, moment: Moment) -> _Known | None:
        """What the last look has shown, if one claim after another is full since, for a moment."""
        if moment.now_ms is not None or self._remembered is None:
            return None
        return self._remembered if time.monotonic() < self._remembered.until else None

    async def _remember(self, request: ClaimRequest, readiness: Readiness, began: float) -> None:
        places = await self._sessions.attempt(lambda session: heads(session, request.wanted))
        now = time.monotonic()
        # Where a transaction that stays open elsewhere keeps what was handled in the index, a
        # look may take long, and is to take no more than its share of the time.
        for_s = min(max(REMEMBERED_S, (now - began) / LOOK_SHARE), MOST_REMEMBERED_S)
        if readiness.wait_ms is not None:
            for_s = min(for_s, readiness.wait_ms / 1000)
        self._remembered = _Known(now + for_s, readiness, places)

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

    async def _take(
        self,
        request: ClaimRequest,
        readiness: Readiness,
        moment: Moment,
        tokens: list[int],
        firsts: Mapping[str, Head] | None = None,
    ) -> Taken:
        async def work(session: OwnSession) -> Taken:
            await self._give_back_doubtful(session)
            # Another one for each attempt: what was doubtful must never be what is held.
            token = new_token()
            tokens.append(token)
            limit = request.limit if self._most is None else min(request.limit, self._most)
            part = request._replace(limit=limit)
            try:
                taken = await take(session, part, readiness, token, moment, firsts)
            except BaseException as error:
                if is_cut(error):
                    # What it took, if it did, goes back before the next one.
                    self._doubtful.add(token)
                if isinstance(error, TimeoutError):
                    # It may have been more than comes through in that time.
                    self._most = max(1, limit // 2)
                raise
            if self._most is not None:
                self._most = None if limit == request.limit else limit + max(1, limit // 8)
            return taken._replace(cut_short=_is_full(taken, part) and limit < request.limit)

        return await self._sessions.attempt(work)

    async def _give_back_doubtful(self, session: Session) -> None:
        doubtful = list(self._doubtful)
        if doubtful:
            await session.fetch(sql.RELEASE_TOKENS, doubtful)
            self._doubtful.difference_update(doubtful)


def _is_full(taken: Taken, request: ClaimRequest) -> bool:
    return taken.cut_short or len(taken.claims) >= request.limit > 0
