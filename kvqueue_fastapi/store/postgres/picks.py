"""The statements of a claim: what there is, what is due, what is taken."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from kvqueue_fastapi.model import Claim, Wanted
from kvqueue_fastapi.store.base import ClaimRequest
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import Session
from kvqueue_fastapi.store.postgres.sends import columns

PROMOTION_SLICE: Final = 1_000


class Moment(NamedTuple):
    """The time of a claim, where it is given; None: the server knows it."""

    now_ms: int | None
    steady_ms: int | None


class Readiness(NamedTuple):
    """What there may be to claim.

    Attributes:
        due_in_ms: until the next delayed message is due; None: none is delayed.
        lease_ends_in_ms: until the next lease ends; None: nothing is claimed.
        any_quarantined: whether any message is quarantined.
        any_isolated: whether any message is isolated.
        xid: the number of the transaction, where it has written something.
    """

    due_in_ms: int | None
    lease_ends_in_ms: int | None
    any_quarantined: bool
    any_isolated: bool
    xid: str | None = None

    @property
    def wait_ms(self) -> int | None:
        """In how many milliseconds there may be more to make ready; None: never."""
        waits = [one for one in (self.due_in_ms, self.lease_ends_in_ms) if one is not None]
        return max(0, min(waits)) if waits else None

    @property
    def is_overdue(self) -> bool:
        """Whether there is something to make ready now."""
        return self.wait_ms == 0


class Head(NamedTuple):
    """Where the ready messages of a type began."""

    priority: int
    due_at_ms: int


class Taken(NamedTuple):
    """What a claim took.

    Attributes:
        claims: in the order in which they are to be handled.
        wanted: the room that is left of each type, but for what was ready.
        left_over: whether others, who looked meanwhile, may have missed what it left.
        cut_short: whether it was given less room than was wanted, and filled it.
    """

    claims: list[Claim]
    wanted: Sequence[Wanted] = ()
    left_over: bool = False
    cut_short: bool = False


async def probe(session: Session, moment: Moment) -> Readiness:
    """See what there may be to claim."""
    (row,) = await session.fetch(sql.PROBE, *moment)
    return Readiness(*row)


async def promote_due(session: Session, moment: Moment) -> None:
    """Make claimable what has become due."""
    await session.fetch(sql.PROMOTE_DUE, moment.now_ms, PROMOTION_SLICE)


async def heads(session: Session, wanted: Sequence[Wanted]) -> dict[str, Head]:
    """Where the ready messages of each type begin; types that have none are missing."""
    rows = await session.fetch(sql.HEADS, [one.type for one in wanted])
    return {kind: Head(*place) for kind, *place in rows}


async def take(
    session: Session,
    request: ClaimRequest,
    readiness: Readiness,
    token: int,
    moment: Moment,
    firsts: Mapping[str, Head] | None = None,
) -> Taken:
    """Take what is ready: the quarantined one first, then the others as they take turns.

    Args:
        session: where.
        request: what to take.
        readiness: what there may be.
        token: of the claims.
        moment: when.
        firsts: where each wanted type begins at the earliest; None: wherever it does.
    """
    if request.isolated:
        if not readiness.any_isolated:
            return Taken([])
        first = await _first(session, sql.CLAIM_ISOLATED, request, token, moment)
        return Taken(first, left_over=bool(first) and len(request.wanted) > 1)
    claims: list[Claim] = []
    wanted = request.wanted
    if readiness.any_quarantined and request.quarantined:
        claims = await _first(session, sql.CLAIM_QUARANTINED, request, token, moment)
        wanted = _without(wanted, claims)
    # Of several types more were locked than were taken.
    left_over = bool(claims) and len(wanted) > 1
    if request.limit <= 0:
        return Taken(claims, wanted, left_over)
    claiming = (token, request.listener_id, request.lease_ms, moment.steady_ms, request.limit)
    if firsts is None:
        rows = await session.fetch(sql.CLAIM, *_asked(wanted), *claiming)
    else:
        places = columns([firsts[one.type] for one in wanted], 2)
        rows = await session.fetch(sql.CLAIM_FROM_HEADS, *_asked(wanted), *claiming, *places)
    ready = list(map(Claim._make, rows))
    left_over = left_over or (len(wanted) > 1 and len(ready) == request.limit)
    return Taken(claims + ready, wanted, left_over)


async def isolated_of(session: Session, wanted: Sequence[Wanted]) -> list[str]:
    """Types of which a message waits that is one crash from its end."""
    return [row[0] for row in await session.fetch(sql.ISOLATED_OF, *_asked(wanted))]


async def _first(
    session: Session, statement: str, request: ClaimRequest, token: int, moment: Moment
) -> list[Claim]:
    rows = await session.fetch(
        statement,
        *_asked(request.wanted),
        token,
        request.listener_id,
        request.lease_ms,
        moment.steady_ms,
    )
    return list(map(Claim._make, rows))


def _asked(wanted: Sequence[Wanted]) -> list[list[object]]:
    return columns(wanted, 2)


def without(request: ClaimRequest, taken: Sequence[Claim]) -> ClaimRequest:
    """What is left to claim of a request."""
    return request._replace(
        wanted=_without(request.wanted, taken), limit=request.limit - len(taken)
    )


def _without(wanted: Sequence[Wanted], taken: Sequence[Claim]) -> Sequence[Wanted]:
    """The room that is left of each type."""
    types = [claim.type for claim in taken]
    return [Wanted(kind, room - types.count(kind)) for kind, room in wanted] if types else wanted
