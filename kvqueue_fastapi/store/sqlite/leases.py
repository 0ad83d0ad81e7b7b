"""Leases: made longer while their holder lives, ended when it died."""

import json
import random
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from kvqueue_fastapi.model import Failure
from kvqueue_fastapi.store.base import SUSPECT_CRASHES
from kvqueue_fastapi.store.sqlite import statements as sql
from kvqueue_fastapi.store.sqlite.dead_letters import Row, bury
from kvqueue_fastapi.store.sqlite.sends import promote_heads

SLICE: Final = 1_000
GRACE_S: Final = 0.75
"""How long holders have to prolong their leases after something held everybody up."""
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
        is_behind: whether this process could not look at the database just now, because it was
            frozen itself or another program held the lock: then others could not extend
            their leases either.
    """

    def __init__(self, max_crashes: int, is_behind: Callable[[], bool]) -> None:
        self._max_crashes = max_crashes
        self._is_behind = is_behind
        self._patient_until: float | None = None

    def end_expired(self, connection: sqlite3.Connection, *, now_ms: int, steady_ms: int) -> int:
        """End leases that nobody extended. Returns in how many milliseconds to look again."""
        if (patience_s := self._patience_s()) > 0:
            return round(patience_s * 1_000)
        names = {"now_ms": steady_ms, "slice": SLICE}
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

    def _patience_s(self) -> float:
        """How long to wait before leases that are over are ended; once, however long it goes on."""
        now = time.monotonic()
        if self._patient_until is None and self._is_behind():
            self._patient_until = now + GRACE_S
        left_s = 0.0 if self._patient_until is None else self._patient_until - now
        if left_s <= 0:
            self._patient_until = None
        return left_s
