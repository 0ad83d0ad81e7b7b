"""Who listens on this database, and which of them are dead."""

import os
import random
import socket
from collections.abc import Sequence
from typing import Final

from kvqueue_fastapi.model import Report, Tally
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import OwnSession
from kvqueue_fastapi.store.postgres.leases import Undertaker
from kvqueue_fastapi.store.postgres.notices import Notices
from kvqueue_fastapi.store.postgres.picks import Moment
from kvqueue_fastapi.store.postgres.sessions import Sessions
from kvqueue_fastapi.version import __version__

MISSING_MS: Final = 700
"""For how long a lock must have been free. A process that lives and has only lost its
connection has another one long before."""


REPORT_TIMEOUT_S: Final = 1.0
"""Whoever waits for it prolongs no lease meanwhile."""


class Listeners:
    """The listeners of one database, as this process sees them and takes part.

    Args:
        sessions: where they are written down.
        notices: holds the locks of our own.
        undertaker: ends the leases of the dead.
    """

    def __init__(self, sessions: Sessions, notices: Notices, undertaker: Undertaker) -> None:
        self._sessions = sessions
        self._notices = notices
        self._undertaker = undertaker

    async def enter(self, types: Sequence[str], now_ms: int | None) -> int:
        """Show a mark of life, then say that this process listens. Returns the listener's id."""
        listener_id = random.getrandbits(62) + 1
        await self._notices.enter(
            listener_id, now_ms, socket.gethostname(), os.getpid(), sorted(types), __version__
        )
        return listener_id

    async def report(
        self, listener_id: int, report: Report, tallies: Sequence[Tally], now_ms: int | None
    ) -> None:
        """Write down what a listener says of itself, and what has ended in this minute."""
        columns = [list(column) for column in zip(*tallies, strict=True)] or [[], [], [], []]

        async def work(session: OwnSession) -> None:
            await session.fetch(sql.REPORT_LISTENER, now_ms, listener_id, *report)
            await session.fetch(sql.ADD_TO_MINUTE, now_ms, *columns)

        await self._sessions.once(work, timeout_s=REPORT_TIMEOUT_S)

    async def retire(self, listener_id: int) -> None:
        """Keep the mark of life, but let its end be no crash."""
        await self._sessions.attempt(
            lambda session: session.fetch(sql.RETIRE_LISTENER, listener_id)
        )

    async def leave(self, listener_id: int) -> None:
        """Take the mark of life away, and give back what the listener still holds."""

        async def work(session: OwnSession) -> None:
            await session.fetch(sql.RELEASE_ALL_OF, listener_id)
            await session.fetch(sql.DELETE_LISTENER, listener_id)

        try:
            await self._sessions.attempt(work)
        finally:
            await self._notices.leave(listener_id)

    async def bury_the_dead(self, moment: Moment) -> int:
        """Free what dead listeners held. Returns how many messages that were."""
        if unseen := self._notices.unseen:
            # They live, as this shows, and may not be able to connect for long.
            await self._sessions.attempt(lambda session: session.fetch(sql.SEE_LISTENERS, unseen))
        if await self._undertaker.spared_s():
            return 0  # those who were cut off as we were have a moment to come back
        freed = 0
        for listener_id in await self._sessions.attempt(self._missing):
            freed += await self._undertaker.end_of(listener_id, moment)
        return freed

    async def _missing(self, session: OwnSession) -> list[int]:
        """Those whose locks have been free for long."""
        free = [row[0] for row in await session.fetch(sql.FREE_LISTENERS, self._notices.present)]
        if not free:
            return []
        await session.fetch(sql.MISS_LISTENERS, free)
        return [row[0] for row in await session.fetch(sql.MISSED_LISTENERS, free, MISSING_MS)]
