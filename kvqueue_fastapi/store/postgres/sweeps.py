"""What is past its time goes, a slice at a time; what has gone leaves room."""

import contextlib
import logging
from typing import Final

import asyncpg

from kvqueue_fastapi.store.base import MINUTE_MS, MINUTES_KEPT
from kvqueue_fastapi.store.postgres import locks
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import OwnSession
from kvqueue_fastapi.store.postgres.sessions import Sessions

log = logging.getLogger("kvqueue_fastapi")

SLICE: Final = 500
VACUUM_EVERY: Final = 50_000
"""Messages that one process has handled. The server's own clean-up wakes once a minute, in
which a claim would have become twice as slow."""
_VACUUM_TIMEOUT_S: Final = 600.0


async def sweep(sessions: Sessions, *, now_ms: int | None, retention_ms: int) -> int:
    """Remove a slice of old dead letters, spent idempotency keys, expired keys and old minutes.

    Returns: how many rows went; 0: there is nothing left to sweep.
    """

    async def work(session: OwnSession) -> int:
        gone = len(await session.fetch(sql.SWEEP_DEAD_LETTERS, now_ms, retention_ms, SLICE))
        gone += len(await session.fetch(sql.SWEEP_IDEMPOTENCY, now_ms, SLICE))
        gone += len(await session.fetch(sql.SWEEP_MINUTES, now_ms, MINUTES_KEPT * MINUTE_MS, SLICE))
        return gone + len(await session.fetch(sql.SWEEP_KEYS, now_ms, SLICE))

    return await sessions.attempt(work)


async def vacuum(sessions: Sessions) -> None:
    """Free the room of handled messages, unless another process is at it."""
    try:
        connection = await sessions.connector.connect_to_listen()
    except Exception as error:  # noqa: BLE001 because the server's own clean-up comes as well
        log.debug("The messages' table could not be vacuumed: %s", error)
        return
    session = OwnSession(connection, sessions.schema, _VACUUM_TIMEOUT_S)
    try:
        space = locks.space(sessions.schema)
        if (await session.fetch(sql.TRY_LOCK, space, locks.VACUUM))[0][0]:
            # Without the right to do so the server only warns.
            await session.execute(sql.VACUUM)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        log.debug("The messages' table could not be vacuumed: %s", error)
    finally:
        with contextlib.suppress(Exception):
            await connection.close(timeout=1)
