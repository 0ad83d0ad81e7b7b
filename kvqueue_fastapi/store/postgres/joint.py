"""Messages that are committed with what the caller writes, in the caller's own transaction."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from kvqueue_fastapi.errors import KvQueueClosedError
from kvqueue_fastapi.model import AtomicWrite, Send
from kvqueue_fastapi.store.borrowed import outside_transaction, refuse_database
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.batch import Batch, is_only_sent
from kvqueue_fastapi.store.postgres.borrowed import Borrowed, borrow, failure, read_only, stale
from kvqueue_fastapi.store.postgres.commits import Commits
from kvqueue_fastapi.store.postgres.connection import Row
from kvqueue_fastapi.store.postgres.database_loop import DatabaseLoop
from kvqueue_fastapi.store.postgres.ids import Ids
from kvqueue_fastapi.store.postgres.sends import KnownTypes
from kvqueue_fastapi.store.postgres.sessions import Sessions


class _Look(NamedTuple):
    """What a connection shows of itself.

    Attributes:
        database_id: of the queue's tables there.
        database: its name.
        isolation: of the transaction.
        xid: the transaction's number; None: nothing may be written in it.
    """

    database_id: str
    database: str
    isolation: str
    xid: str | None


class JointSends:
    """Sends through connections that callers lend.

    What can be done before is done on connections of our own, so that the caller's transaction
    holds no lock that others who send would wait for: the ids, and the note of a new type.

    Args:
        database: where our own connections are.
        sessions: they.
        batch: stores messages, on whichever connection.
        types: whose first send is noted.
        ids: of new messages.
        commits: watches the callers' transactions.
        now_ms: when; None: the server knows.
    """

    def __init__(
        self,
        database: DatabaseLoop,
        sessions: Sessions,
        batch: Batch,
        types: KnownTypes,
        ids: Ids,
        commits: Commits,
        now_ms: Callable[[], int | None],
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._batch = batch
        self._types = types
        self._ids = ids
        self._commits = commits
        self._now_ms = now_ms
        self._own: _Look | None = None

    async def send(self, connection: Any, sends: Sequence[Send]) -> list[int]:
        """Store messages in the transaction of a caller's connection; see `Store.send_within`."""
        try:
            session = await borrow(connection, self._sessions.schema)
            ids, own = await self._database.run(lambda: self._prepare(sends))
            session.xid = xid = await self._look(session, own, sends)
            stored = await self._store(session, sends, ids)
        except Exception as error:  # noqa: BLE001 because whatever it is, it is told as ours
            found = failure(error, self._sessions.server)
            raise found from found.__cause__
        with contextlib.suppress(KvQueueClosedError):
            self._database.soon(lambda: self._commits.expect(xid))
        return stored

    async def _prepare(self, sends: Sequence[Send]) -> tuple[list[int], _Look]:
        async def fetch(statement: str, *values: Any) -> Sequence[Row]:
            return await self._sessions.attempt(lambda session: session.fetch(statement, *values))

        types = {send.type for send in sends}
        if not self._types.has(types):
            await self._sessions.attempt(
                lambda session: self._types.remember(session, types, self._now_ms())
            )
            self._types.know(types)
        if self._own is None:
            self._own = _Look(*(await fetch(sql.LOOK))[0])
        return await self._ids.take(len(sends), fetch), self._own

    async def _look(self, session: Borrowed, own: _Look, sends: Sequence[Send]) -> str:
        """See where a connection leads and in what state it is. Returns its transaction's number.

        Raises:
            InvalidOptionError: no message can be sent there.
        """
        rows = await session.fetch(sql.LOOK)
        found = _Look(*rows[0]) if rows else own._replace(database_id="")
        # Both, because a database may be a copy of another one, with its id.
        if (found.database_id, found.database) != (own.database_id, own.database):
            refuse_database(f"the database {found.database!r}", self._sessions.server)
        if not await session.is_in_transaction():
            raise outside_transaction()
        if found.xid is None:
            raise read_only()
        if found.isolation in _STALE and any(send.ordering_key is not None for send in sends):
            raise stale(found.isolation)
        return found.xid

    async def _store(
        self, session: Borrowed, sends: Sequence[Send], ids: Sequence[int]
    ) -> list[int]:
        write = AtomicWrite(sends=sends)
        if is_only_sent(write):
            await self._batch.send(session, sends, ids, self._now_ms())
            return list(ids)
        (answer,) = await self._batch.apply(session, [write], self._now_ms(), [ids])
        if isinstance(answer, Exception):
            raise answer
        return list(answer.message_ids)


_STALE = ("repeatable read", "serializable")
