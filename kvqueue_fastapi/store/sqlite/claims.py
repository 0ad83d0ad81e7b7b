"""Messages on their way out: what is due, in whose hands, until when."""

import json
import sqlite3
from typing import Any, Final

from kvqueue_fastapi.model import Claim, Claimed
from kvqueue_fastapi.store.base import ClaimRequest
from kvqueue_fastapi.store.sqlite import statements as sql
from kvqueue_fastapi.store.sqlite.leases import Undertaker, new_token

PROMOTION_SLICE: Final = 1_000


def claim(
    connection: sqlite3.Connection,
    request: ClaimRequest,
    undertaker: Undertaker,
    *,
    now_ms: int,
    steady_ms: int,
) -> Claimed:
    """Take what is due. Returns the quarantined one first, then the others as they take turns."""
    due_ms, any_quarantined = make_ready(connection, undertaker, now_ms=now_ms, steady_ms=steady_ms)
    taken: list[Claim] = []
    if any_quarantined and request.quarantined:
        taken += _take(connection, sql.PICK_QUARANTINED, request, steady_ms, limit=1)
    if request.limit > 0:
        taken += _take(connection, sql.PICK, request, steady_ms, limit=request.limit)
    return Claimed(taken, None if due_ms is None else max(0, due_ms - now_ms))


def make_ready(
    connection: sqlite3.Connection, undertaker: Undertaker, *, now_ms: int, steady_ms: int
) -> tuple[int | None, bool]:
    """Make claimable what has become due or whose lease has ended.

    Returns: when the next delayed message is due, and whether any message is quarantined.
    """
    due_ms, lease_end_ms, any_quarantined = connection.execute(sql.PROBE).fetchone()
    if due_ms is not None and due_ms <= now_ms:
        due_ms = _promote_due(connection, now_ms)
        any_quarantined = True
    if lease_end_ms is not None and lease_end_ms <= steady_ms:
        undertaker.end_expired(connection, now_ms=now_ms, steady_ms=steady_ms)
        any_quarantined = True
    return due_ms, bool(any_quarantined)


def _promote_due(connection: sqlite3.Connection, now_ms: int) -> int | None:
    connection.execute(sql.PROMOTE_DUE, {"now_ms": now_ms, "slice": PROMOTION_SLICE})
    next_due_ms: int | None = connection.execute(sql.NEXT_DUE).fetchone()[0]
    return next_due_ms


def _take(
    connection: sqlite3.Connection,
    pick: str,
    request: ClaimRequest,
    steady_ms: int,
    *,
    limit: int,
) -> list[Claim]:
    token = new_token()
    names: dict[str, Any] = {
        "wanted": json.dumps(request.wanted),
        "limit": limit,
        "token": token,
    }
    picked = connection.execute(pick, names).fetchone()
    if picked is None or picked[0] == "[]":
        return []
    connection.execute(
        sql.TAKE,
        {
            "ids": picked[0],
            "token": token,
            "holder": request.listener_id,
            "lease_until_ms": steady_ms + request.lease_ms,
        },
    )
    return [Claim._make(row) for row in json.loads(picked[1])]
