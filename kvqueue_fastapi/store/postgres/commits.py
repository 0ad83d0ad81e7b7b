"""Transactions of callers, which hold messages and are watched until they end.

Asked of the server, because no driver tells of it alike: not of a savepoint, not of a commit
in another process. NOTIFY within them would tell, but it keeps all commits of the database
waiting for each other, and a full queue of notices would fail the caller's.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

from kvqueue_fastapi.errors import KvQueueError
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.database_loop import DatabaseLoop
from kvqueue_fastapi.store.postgres.sessions import Sessions

log = logging.getLogger("kvqueue_fastapi")

SHORTEST_REST_S: Final = 0.002
LONGEST_REST_S: Final = 0.1
FORGET_S: Final = 3_600.0
"""A transaction that is still open then is found by the poll, if it ever commits."""
_AGE_SHARE: Final = 8
"""The older a transaction, the later its end may be noticed: by this part of its age."""
_CLOSE_S: Final = 1.0


class Commits:
    """Notices the commits of callers' transactions, in the database's event loop.

    Args:
        database: its event loop.
        sessions: where to ask.
        committed: called when something was.
    """

    def __init__(
        self, database: DatabaseLoop, sessions: Sessions, committed: Callable[[], None]
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._committed = committed
        self._seen_at: dict[str, float] = {}
        self._new = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def expect(self, xid: str) -> None:
        """Watch a transaction, given by its number, until it ends."""
        self._seen_at.setdefault(xid, time.monotonic())
        self._new.set()
        if self._task is None and not self._closed:
            self._task = self._database.keep(self._watch())

    async def close(self) -> None:
        """Tell of those that were committed by now, and watch no more."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_CLOSE_S)
        if self._seen_at:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look(), _CLOSE_S)

    async def _watch(self) -> None:
        try:
            while self._seen_at:
                await self._rest()
                await self._look()
        finally:
            self._task = None

    async def _rest(self) -> None:
        """A moment, however many come; a longer one while all that are open have been for long."""
        self._new.clear()
        age_s = time.monotonic() - max(self._seen_at.values())
        await asyncio.sleep(SHORTEST_REST_S)
        rest_s = min(age_s / _AGE_SHARE, LONGEST_REST_S) - SHORTEST_REST_S
        if rest_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._new.wait(), rest_s)

    async def _look(self) -> None:
        asked = list(self._seen_at)
        try:
            rows = await self._sessions.attempt(
                lambda session: session.fetch(sql.HOW_THEY_ENDED, asked)
            )
        except KvQueueError as error:
            # Such as a number that the server does not know, because another has its place.
            log.debug("How transactions ended is not known: %s", error)
            rows = [(xid, None) for xid in asked]
        before = time.monotonic() - FORGET_S
        ended = {xid: status for xid, status in rows if status != "in progress"}
        for xid in asked:
            if xid in ended or self._seen_at[xid] < before:
                del self._seen_at[xid]
        # What nobody knows any more may have been committed.
        if any(status != "aborted" for status in ended.values()):
            self._committed()
