"""The same as `audit`, on PostgreSQL; whoever asks waits while the server is away."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import asyncpg

from tests.crash.audit import DeadLetter, Entry, Remains

PATIENCE_S: Final = 30
PAUSE_S: Final = 0.05
_NOW: Final = "extract(epoch FROM clock_timestamp())::float8"
_COLUMNS: Final = "event, at, id, attempt, holder, crashes, lane, due"
_TRIGGERS: Final = f"""
CREATE TABLE kvqueue.crash_audit (
    position bigserial PRIMARY KEY, event text, at float8, id bigint, attempt bigint,
    holder bigint, crashes bigint, lane text, due float8);
CREATE FUNCTION kvqueue.crash_message() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    row kvqueue.kvqueue_messages := coalesce(NEW, OLD);
    event text;
    due float8 := 0;
BEGIN
    IF TG_OP = 'INSERT' THEN
        event := 'stored'; due := NEW.due_at_ms / 1000.0;
    ELSIF TG_OP = 'DELETE' THEN
        event := 'removed';
    ELSIF NEW.state = 3 AND OLD.state <> 3 THEN
        event := 'claimed'; due := OLD.due_at_ms / 1000.0;
    ELSIF OLD.state = 3 AND NEW.state <> 3 THEN
        event := CASE WHEN NEW.crashes > OLD.crashes THEN 'taken away' ELSE 'put back' END;
        row.attempt := OLD.attempt; row.holder := OLD.holder; due := NEW.due_at_ms / 1000.0;
    ELSE
        RETURN NULL;
    END IF;
    INSERT INTO kvqueue.crash_audit ({_COLUMNS})
    VALUES (event, {_NOW}, row.id, row.attempt, row.holder, row.crashes, row.ordering_key, due);
    RETURN NULL;
END $$;
CREATE TRIGGER crash_message AFTER INSERT OR UPDATE OR DELETE ON kvqueue.kvqueue_messages
FOR EACH ROW EXECUTE FUNCTION kvqueue.crash_message();
CREATE FUNCTION kvqueue.crash_listener() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE row kvqueue.kvqueue_listeners := coalesce(NEW, OLD);
BEGIN
    INSERT INTO kvqueue.crash_audit ({_COLUMNS})
    VALUES (CASE TG_OP WHEN 'INSERT' THEN 'listening' ELSE 'left' END, {_NOW}, row.pid, 0, row.id,
            0, NULL, 0);
    RETURN NULL;
END $$;
CREATE TRIGGER crash_listener AFTER INSERT OR DELETE ON kvqueue.kvqueue_listeners
FOR EACH ROW EXECUTE FUNCTION kvqueue.crash_listener();
"""
_HOLDING: Final = """
SELECT pid FROM kvqueue.kvqueue_listeners AS listener WHERE EXISTS (
    SELECT 1 FROM kvqueue.kvqueue_messages WHERE state = 3 AND holder = listener.id)
"""
# All sessions of a process have one name, and one of them holds the lock of its listener. Who
# waits for a lock may be given it while he stands still, and then keeps others from writing;
# between the parts of a statement that he uses for the first time he is not "idle".
_IS_LOCKED_BY: Final = """
WITH named AS (
    SELECT session.application_name AS name
      FROM kvqueue.kvqueue_listeners AS listener
      JOIN pg_locks AS lock ON lock.locktype = 'advisory' AND lock.objsubid = 1
       AND (lock.classid::bigint << 32) | lock.objid::bigint = listener.id
      JOIN pg_stat_activity AS session ON session.pid = lock.pid
     WHERE listener.pid = {pid})
SELECT EXISTS (SELECT 1 FROM pg_stat_activity
                WHERE (state = 'idle in transaction' OR wait_event_type = 'Lock'
                       OR (wait_event = 'ClientRead' AND backend_xid IS NOT NULL))
                  AND state_change < clock_timestamp() - {for_s} * interval '1 s'
                  AND (application_name IN (SELECT name FROM named)
                       OR NOT EXISTS (SELECT 1 FROM named)))
"""
_DEAD_LETTERS: Final = """
SELECT id, reason, crashes, data::jsonb ->> 'key',
       EXISTS (SELECT 1 FROM kvqueue.kvqueue_kv
                WHERE CASE WHEN encoding = 1
                           THEN convert_from(value, 'UTF8')::jsonb -> 'data' ->> 'key' END
                      = dead.data::jsonb ->> 'key')
  FROM kvqueue.kvqueue_dead_letters AS dead
"""


class PostgresDatabase:
    """A database on a server that may be away for a while.

    Attributes:
        url: past every network that may be cut.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        # on a thread, because the caller may be inside an event loop
        self._thread = ThreadPoolExecutor(1)

    def install(self) -> None:
        self._ask(_TRIGGERS)

    def holding(self) -> list[int]:
        return [row[0] for row in self._ask(_HOLDING)]

    def waiting(self) -> bool:
        return bool(self._ask("SELECT 1 FROM kvqueue.kvqueue_messages LIMIT 1"))

    def happened(self) -> int:
        return int(self._ask("SELECT max(position) FROM kvqueue.crash_audit")[0][0] or 0)

    def is_locked_by(self, pid: int, for_s: float) -> bool:
        time.sleep(for_s + PAUSE_S)  # so that who was stopped just now is seen as well
        return bool(self._ask(_IS_LOCKED_BY.format(pid=pid, for_s=for_s))[0][0])

    def terminate(self) -> None:
        """End all sessions of queues."""
        self._ask(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'kvqueue%'"
        )

    def read(self) -> Remains:
        entries = self._ask(f"SELECT {_COLUMNS} FROM kvqueue.crash_audit ORDER BY position")
        effects = self._ask("SELECT value FROM kvqueue.kvqueue_kv WHERE encoding = 2")
        return Remains(
            [Entry(*row) for row in entries],
            [DeadLetter(*row) for row in self._ask(_DEAD_LETTERS)],
            [row[0] for row in self._ask("SELECT id FROM kvqueue.kvqueue_messages")],
            int.from_bytes(effects[0][0], "little") if effects else 0,
            "ok",
        )

    def _ask(self, statement: str) -> list[Any]:
        return self._thread.submit(asyncio.run, self._asked(statement)).result()

    async def _asked(self, statement: str) -> list[Any]:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                connection = await asyncpg.connect(self.url, timeout=PATIENCE_S)
                try:
                    if statement is _TRIGGERS:
                        await connection.execute(statement)
                        return []
                    return list(await connection.fetch(statement))
                finally:
                    await connection.close()
            except (
                OSError,
                asyncpg.PostgresError,
                asyncpg.InterfaceError,
                asyncpg.InternalClientError,
            ):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(PAUSE_S)
