"""Messages on their way out: what is due, in whose hands, until when."""

import json
import sqlite3
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from kvqueue_fastapi.model import Claim, Claimed, Wanted
from kvqueue_fastapi.store.base import ClaimRequest
from kvqueue_fastapi.store.sqlite import statements as sql
from kvqueue_fastapi.store.sqlite.leases import Undertaker, new_token

PROMOTION_SLICE: Final = 1_000


class Picks(NamedTuple):
    """Two ways to choose messages.

    Attributes:
        together: gives all of them in one row, as JSON.
        large: gives a row for each, which has room for larger ones.
    """

    together: str
    large: str


READY: Final = Picks(sql.PICK, sql.PICK_LARGE)
QUARANTINED: Final = Picks(sql.PICK_QUARANTINED, sql.PICK_LARGE_QUARANTINED)
ISOLATED: Final = Picks(sql.PICK_ISOLATED, sql.PICK_LARGE_ISOLATED)


class Readiness(NamedTuple):
    """What there may be to claim.

    Attributes:
        wait_ms: in how many milliseconds there may be more to make ready; None: never.
        any_quarantined: whether any message may be quarantined.
        any_isolated: the same of isolated ones.
        changed: whether something has just been made ready.
    """

    wait_ms: int | None
    any_quarantined: bool
    any_isolated: bool
    changed: bool


def claim(
    connection: sqlite3.Connection,
    request: ClaimRequest,
    undertaker: Undertaker,
    *,
    now_ms: int,
    steady_ms: int,
) -> Claimed:
    """Take what is due. Returns the quarantined one first, then the others as they take turns."""
    # Before the commit, because a process may be frozen right after it.
    claimed_at = time.monotonic()
    readiness = make_ready(connection, undertaker, now_ms=now_ms, steady_ms=steady_ms)
    taken: list[Claim] = []
    if request.isolated:
        if readiness.any_isolated:
            taken += _take(connection, ISOLATED, request, steady_ms, limit=1)
        return Claimed(taken, readiness.wait_ms, claimed_at, made_ready=readiness.changed)
    if readiness.any_quarantined and request.quarantined:
        taken += _take(connection, QUARANTINED, request, steady_ms, limit=1)
        request = request._replace(wanted=_without(request.wanted, taken))
    if request.limit > 0:
        taken += _take(connection, READY, request, steady_ms, limit=request.limit)
    isolated = _isolated(connection, request.wanted) if readiness.any_isolated else ()
    return Claimed(taken, readiness.wait_ms, claimed_at, isolated, readiness.changed)


def make_ready(
    connection: sqlite3.Connection, undertaker: Undertaker, *, now_ms: int, steady_ms: int
) -> Readiness:
    """Make claimable what has become due or whose lease has ended."""
    due_ms, lease_end_ms, any_quarantined, any_isolated = connection.execute(sql.PROBE).fetchone()
    waits_ms: list[int] = []
    changed = False
    if due_ms is not None and due_ms <= now_ms:
        due_ms = _promote_due(connection, now_ms)
        changed = True
    if due_ms is not None:
        waits_ms.append(due_ms - now_ms)
    if lease_end_ms is not None:
        waits_ms.append(lease_end_ms - steady_ms)
        if lease_end_ms <= steady_ms:
            spared_ms = undertaker.end_expired(connection, now_ms=now_ms, steady_ms=steady_ms)
            waits_ms[-1] = spared_ms
            changed = changed or not spared_ms
    wait_ms = max(0, min(waits_ms)) if waits_ms else None
    any_quarantined, any_isolated = any_quarantined or changed, any_isolated or changed
    return Readiness(wait_ms, bool(any_quarantined), bool(any_isolated), changed)


def _isolated(connection: sqlite3.Connection, wanted: Sequence[Wanted]) -> list[str]:
    names = {"wanted": json.dumps(wanted)}
    return [row[0] for row in connection.execute(sql.ISOLATED_OF, names)]


def _promote_due(connection: sqlite3.Connection, now_ms: int) -> int | None:
    connection.execute(sql.PROMOTE_DUE, {"now_ms": now_ms, "slice": PROMOTION_SLICE})
    next_due_ms: int | None = connection.execute(sql.NEXT_DUE).fetchone()[0]
    return next_due_ms


def _without(wanted: Sequence[Wanted], taken: Sequence[Claim]) -> Sequence[Wanted]:
    """The room that is left of each type."""
    types = [claim.type for claim in taken]
    return [Wanted(kind, room - types.count(kind)) for kind, room in wanted] if types else wanted


def _take(
    connection: sqlite3.Connection,
    picks: Picks,
    request: ClaimRequest,
    steady_ms: int,
    *,
    limit: int,
) -> list[Claim]:
    token = new_token()
    names = {"wanted": json.dumps(request.wanted), "limit": limit, "token": token}
    ids, claims = _pick(connection, picks, names)
    if claims:
        connection.execute(
            sql.TAKE,
            {
                "ids": ids,
                "token": token,
                "holder": request.listener_id,
                "lease_until_ms": steady_ms + request.lease_ms,
            },
        )
    return claims


def _pick(
    connection: sqlite3.Connection, picks: Picks, names: dict[str, Any]
) -> tuple[str, list[Claim]]:
    """Choose messages. Returns their ids as JSON, and the claims."""
    while True:
        try:
            ids, rows = connection.execute(picks.together, names).fetchone() or ("[]", "[]")
            return ids, [Claim._make(row) for row in json.loads(rows)]
        except sqlite3.DataError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_TOOBIG:
                raise
        # Together they do not fit into one value of SQLite's, so fewer are tried.
        if names["limit"] == 1:
            claims = [Claim._make(row) for row in connection.execute(picks.large, names)]
            return json.dumps([claim.id for claim in claims]), claims
        names["limit"] = max(1, names["limit"] // 4)
