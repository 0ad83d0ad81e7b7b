"""Looks at a server from outside."""

import time
from datetime import datetime

from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store.migrations import load_migrations
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import OwnSession, Patience
from kvqueue_fastapi.store.postgres.schema import PACKAGE, read_state
from kvqueue_fastapi.store.postgres.sessions import Sessions
from kvqueue_fastapi.store.surveys import StoreSurvey


async def survey(url: str, settings: KvQueueSettings) -> StoreSurvey:
    """Look at the server that a URL names, and at the number of its schema.

    Raises:
        StoreError: it cannot be reached, or refuses us.
    """
    sessions = Sessions(url, settings, Patience(settings.lease_s))
    try:
        await sessions.open()
        return await sessions.attempt(lambda session: _survey(session, sessions))
    finally:
        await sessions.close()


async def _survey(session: OwnSession, sessions: Sessions) -> StoreSurvey:
    asked_at = time.time()
    ((version, most_connections, now),) = await session.fetch(sql.SURVEY_SERVER)
    answered_at = time.time()
    assumed_at = (asked_at + answered_at) / 2
    state = await read_state(session, sessions)
    lacking = await session.fetch(sql.SURVEY_RIGHTS, sessions.schema) if state else ()
    return StoreSurvey(
        where=sessions.server,
        engine="PostgreSQL",
        version=version,
        is_there=state is not None,
        schema=0 if state is None else state.applied,
        known_schema=load_migrations(PACKAGE)[-1].number,
        lacking=tuple(f"{right} on {table}" for table, right in lacking),
        clock_ahead_s=_ahead_s(now, assumed_at),
        most_connections=most_connections,
    )


def _ahead_s(server: datetime, here: float) -> float:
    return server.timestamp() - here
