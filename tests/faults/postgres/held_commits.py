"""Commits that the server holds up until it is told to go on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from tests.contract.harness import until

_LOCK: Final = 4711
_TRIGGERS: Final = f"""
CREATE SEQUENCE kvqueue.held_commit_gate;
CREATE FUNCTION kvqueue.held_commit() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    PERFORM pg_advisory_xact_lock_shared({_LOCK}, last_value::int) FROM kvqueue.held_commit_gate;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER held_commit AFTER INSERT OR DELETE ON kvqueue.kvqueue_messages
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION kvqueue.held_commit();
CREATE CONSTRAINT TRIGGER held_commit AFTER INSERT OR UPDATE ON kvqueue.kvqueue_kv
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION kvqueue.held_commit();
"""
_HELD: Final = f"""
SELECT xid FROM (SELECT backend_xid::text::bigint AS xid, pid FROM pg_stat_activity) AS backend
  JOIN pg_locks USING (pid)
 WHERE locktype = 'advisory' AND classid = {_LOCK} AND NOT granted
"""


class HeldCommits:
    """Holds up commits that change messages or keys, at one gate after another."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._gate = 1

    async def hold(self) -> None:
        """Hold up the next ones."""
        await self._connection.execute(f"SELECT pg_advisory_lock({_LOCK}, {self._gate})")

    async def one(self) -> int:
        """Wait until one is held up. Returns the transaction's number."""
        found: list[int] = []

        async def is_there() -> bool:
            found[:] = [row[0] for row in await self._connection.fetch(_HELD)]
            return bool(found)

        await until(is_there)
        return found[0]

    async def let_one_go(self) -> None:
        """Let be done what is held up now, and hold up what comes next."""
        self._gate += 1
        await self._connection.execute(
            # in this order, so that nothing comes through in between
            f"SELECT pg_advisory_lock({_LOCK}, {self._gate});"
            f"SELECT setval('kvqueue.held_commit_gate', {self._gate});"
            f"SELECT pg_advisory_unlock({_LOCK}, {self._gate - 1})"
        )

    async def let_go(self) -> None:
        """Let them be done."""
        await self._connection.execute(f"SELECT pg_advisory_unlock({_LOCK}, {self._gate})")
        await until(self._are_done)

    async def _are_done(self) -> bool:
        return not await self._connection.fetch(_HELD)


@asynccontextmanager
async def held_commits(url: str) -> AsyncIterator[HeldCommits]:
    """Have a server's commits held up when asked to."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(_TRIGGERS)
        yield HeldCommits(connection)
    finally:
        connection.terminate()
