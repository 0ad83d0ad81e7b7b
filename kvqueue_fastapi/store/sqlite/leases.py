"""Leases: made longer while their holder lives, ended when it died."""

import json
import math
import random
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from kvqueue_fastapi.model import Failure
from kvqueue_fastapi.store.base import SUSPECT_CRASHES
from kvqueue_fastapi.store.outages import Outages
from kvqueue_fastapi.store.sqlite import statements as sql
from kvqueue_fastapi.store.sqlite.dead_letters import Row, bury
from kvqueue_fastapi.store.sqlite.sends import promote_heads

SLICE: Final = 1_000
_READY, _QUARANTINED, _ISOLATED = 0, 4, 5


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
    be what kills its holders. Before the last one it is handled while nothing else begins, so
    that it is the only one that can have done it.

    Args:
        max_crashes: after how many a message is dead.
        outages: when nobody could extend a lease.
    """

    def __init__(self, max_crashes: int, outages: Outages) -> None:
        self._max_crashes = max_crashes
        self._outages = outages

    def end_expired(self, connection: sqlite3.Connection, *, now_ms: int, steady_ms: int) -> int:
        """End leases that nobody extended. Returns for how many milliseconds they are spared."""
        names = {"now_ms": steady_ms, "slice": SLICE}
        grace_s = self._outages.grace_s()
        if grace_s:
            if self._outages.lasts:
                # Only a commit that writes can show that it is over.
                connection.execute(sql.TOUCH_EXPIRED, names)
            return math.ceil(grace_s * 1000)
        rows = connection.execute(sql.EXPIRED, names).fetchall()
        self._end(connection, rows, "the lease ended: its holder was frozen or cut off", now_ms)
        return 0

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
                names = {"id": row[0], "now_ms": now_ms, "text": text, "lane": self._lane(crashes)}
                connection.execute(sql.TAKE_AWAY, names)
            else:
                failure = Failure(f"{text}; that was crash {crashes} of {self._max_crashes}")
                bury(connection, row, failure, now_ms, crashes=1)
                buried.append(row[4])
        promote_heads(connection, buried, now_ms)

    def _lane(self, crashes: int) -> int:
        """The state in which a message can be claimed that has seen so many crashes."""
        if crashes >= self._max_crashes - 1:
            return _ISOLATED
        return _QUARANTINED if crashes >= SUSPECT_CRASHES else _READY
