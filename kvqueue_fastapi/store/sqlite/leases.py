"""Leases: made longer while their holder lives, ended when it died."""

import json
import random
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from kvqueue_fastapi.model import Failure
from kvqueue_fastapi.store.sqlite import statements as sql
from kvqueue_fastapi.store.sqlite.dead_letters import Row, bury
from kvqueue_fastapi.store.sqlite.sends import promote_heads

SLICE: Final = 1_000


def new_token() -> int:
    """A number that no other claim has; 0 is nobody's."""
    return random.getrandbits(53) + 1


def extend(
    connection: sqlite3.Connection, leases: Sequence[tuple[int, int]], lease_until_ms: int
) -> frozenset[int]:
    """Prolong leases. Returns the ids of those that were lost."""
    names: dict[str, Any] = {"leases": json.dumps(leases), "lease_until_ms": lease_until_ms}
    if connection.execute(sql.EXTEND, names).rowcount == len(leases):
        return frozenset()
    held = {row[0] for row in connection.execute(sql.STILL_HELD, names)}
    return frozenset(message_id for message_id, _ in leases if message_id not in held)


class Undertaker:
    """Ends the leases of holders that died or fell silent.

    A crash spends no retry, but a message that has seen `max_crashes` of them is dead: it may
    be what kills its holders.
    """

    def __init__(self, max_crashes: int) -> None:
        self._max_crashes = max_crashes

    def end_expired(self, connection: sqlite3.Connection, *, now_ms: int, steady_ms: int) -> int:
        """End leases that nobody extended. Returns how many."""
        names = {"now_ms": steady_ms, "slice": SLICE}
        rows = connection.execute(sql.EXPIRED, names).fetchall()
        self._end(connection, rows, "the lease ended: its holder was frozen or cut off", now_ms)
        return len(rows)

    def end_of(self, connection: sqlite3.Connection, listener_id: int, now_ms: int) -> int:
        """End all leases of a dead listener. Returns how many."""
        ended = 0
        if connection.execute(sql.IS_RETIRED, {"id": listener_id}).fetchone():
            # It had stopped in good order, so nothing that it still held has killed it.
            ended = connection.execute(sql.RELEASE_ALL_OF, {"holder": listener_id}).rowcount
        while rows := connection.execute(
            sql.HELD_BY, {"holder": listener_id, "slice": SLICE}
        ).fetchall():
            self._end(connection, rows, "the process that handled it died", now_ms)
            ended += len(rows)
        connection.execute(sql.DELETE_LISTENER, {"id": listener_id})
        return ended

    def _end(
        self, connection: sqlite3.Connection, rows: Iterable[Row], text: str, now_ms: int
    ) -> None:
        buried: list[str | None] = []
        for row in rows:
            crashes = row[5] + 1
            if crashes < self._max_crashes:
                names = {"id": row[0], "now_ms": now_ms, "text": text}
                connection.execute(sql.QUARANTINE, names)
            else:
                failure = Failure(f"{text}; that was crash {crashes} of {self._max_crashes}")
                bury(connection, row, failure, now_ms, crashes=1)
                buried.append(row[4])
        promote_heads(connection, buried, now_ms)
