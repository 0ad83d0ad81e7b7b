"""A PostgreSQL schema as the source or the target of a copy."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

from kvqueue_fastapi.errors import StoreError
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store.copies import (
    SLICE_BYTES,
    TABLES,
    Inventory,
    Mark,
    Row,
    Table,
    described,
    other_mark,
)
from kvqueue_fastapi.store.migrations import load_migrations, require_copyable
from kvqueue_fastapi.store.postgres import copy_statements as sql
from kvqueue_fastapi.store.postgres import statements
from kvqueue_fastapi.store.postgres.admin import Run
from kvqueue_fastapi.store.postgres.connection import OwnSession, Patience
from kvqueue_fastapi.store.postgres.database_loop import Work
from kvqueue_fastapi.store.postgres.listeners import MISSING_MS
from kvqueue_fastapi.store.postgres.schema import PACKAGE, emptying, migrate, read_state
from kvqueue_fastapi.store.postgres.sends import columns
from kvqueue_fastapi.store.postgres.sessions import Sessions, Transaction

R = TypeVar("R")

_PATIENCE_OF_S: Final = 180.0
"""Of a process with such leases: a slice may take its time on a slow network."""
_BITS: Final = {"state": 15, "lane": 15, "encoding": 15, "priority": 31}
"""Of the columns that are smaller than 64-bit numbers."""


class PostgresSource:
    """The rows of a schema, read as they are.

    Args:
        sessions: where to ask.
        run: how to get there.
    """

    def __init__(self, sessions: Sessions, run: Run) -> None:
        self.url = f"{sessions.server} ({sessions.schema})"
        self._sessions = sessions
        self._run = run

    async def inventory(self) -> Inventory:
        """Look what there is."""
        return await self._run(lambda: self._sessions.look(self._look))

    async def live_listeners(self) -> list[str]:
        """The processes that listen now, in words."""
        first = await self._listeners()
        if not any(is_free for *_, is_free in first):
            return [described(*row[:4]) for row in first]
        # One that lives and has only lost its connection has another one by then.
        await asyncio.sleep(MISSING_MS / 1000)
        dead = {row[3] for row in first if row[4]}
        return [
            described(*row[:4])
            for row in await self._listeners()
            if not row[4] or row[3] not in dead
        ]

    async def read(self, table: Table, after: Row | None, limit: int) -> list[Row]:
        """The rows behind a primary key, in its order; fewer than `limit` if they are large."""
        first = table.least if after is None else after
        past = after or (None,) * len(first)
        values = (*first, *past, limit, *([SLICE_BYTES] if table.large else ()))
        rows = await self._fetch(sql.READ_ROWS[table.name], *values)
        return [tuple(row) for row in rows]

    async def close(self) -> None:
        """Nothing to let go of: the sessions are somebody else's."""

    async def _look(self, session: OwnSession) -> Inventory:
        state = await read_state(session, self._sessions)
        if state is None:
            msg = (
                f"{self.url} holds no store of kvqueue_fastapi. Check the source's URL and schema."
            )
            raise StoreError(msg)
        require_copyable(load_migrations(PACKAGE), state.applied, state.oldest_code, self.url)
        (counters,) = await session.fetch(sql.COUNTERS)
        database_id, version, block, is_called, *ids = counters
        (counts,) = await session.fetch(sql.COUNT_ROWS)
        return Inventory(
            database_id,
            state.mark,
            {table.name: count for table, count in zip(TABLES, counts, strict=True)},
            min(
                max((block + is_called) * statements.ID_BLOCK, *((one or 0) + 1 for one in ids)),
                1 << 63,
            ),
            is_called or block > 1 or any(ids),
            version,
        )

    async def _listeners(self) -> list[tuple[str, int, str, int, bool]]:
        return [
            (row[2], row[1], str(row[3]), row[0], row[4])
            for row in await self._fetch(sql.LISTENERS)
        ]

    async def _fetch(self, statement: str, *values: Any) -> Sequence[Sequence[Any]]:
        return await self._run(
            lambda: self._sessions.look(lambda session: session.fetch(statement, *values))
        )


class PostgresSchema(PostgresSource):
    """A schema to which a copy has connected for itself."""

    def __init__(self, sessions: Sessions) -> None:
        super().__init__(sessions, _here)

    @classmethod
    async def open(cls, url: str, settings: KvQueueSettings) -> "PostgresSchema":
        """Connect, only to read."""
        sessions = Sessions(url, settings, Patience(_PATIENCE_OF_S))
        await sessions.open()
        return cls(sessions)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._sessions.close()


class PostgresTarget(PostgresSchema):
    """A schema that takes whole rows."""

    def __init__(self, sessions: Sessions) -> None:
        super().__init__(sessions)
        self.emptying = emptying(sessions)

    @classmethod
    async def open(cls, url: str, settings: KvQueueSettings) -> "PostgresTarget":
        """Connect, making the schema or bringing it up to date where needed."""
        sessions = Sessions(url, settings, Patience(_PATIENCE_OF_S))
        await sessions.open()
        try:
            await migrate(sessions, to_copy=True)
        except BaseException:
            await sessions.close()
            raise
        return cls(sessions)

    async def mark(self, before: Mark | None, after: Mark | None) -> None:
        """Set or take away the mark that keeps others out."""
        await self._sessions.transact(lambda transaction: self._move(transaction, before, after))

    async def raise_counters(self, next_id: int, last_version: int) -> None:
        """Let ids and versions that are given from now on be larger than those of the source."""
        block = -(-next_id // statements.ID_BLOCK)
        await self._fetch(sql.RAISE_BLOCK, block)
        await self._fetch(sql.RAISE_VERSION, last_version)

    async def write(self, table: Table, rows: list[Row], before: Mark, after: Mark) -> None:
        """Store rows, and move the mark. Rows that are there already stay as they are."""
        values = columns(rows, len(table.columns))
        for name, column in zip(table.columns, values, strict=True):
            if not _all_fit(name, column):
                raise _unstorable(table, rows, name, column)

        async def work(transaction: Transaction) -> None:
            await self._move(transaction, before, after)
            await transaction.fetch(sql.WRITE_ROWS[table.name], *values)

        await self._sessions.transact(work)

    async def _move(
        self, transaction: Transaction, before: Mark | None, after: Mark | None
    ) -> None:
        texts = (mark and mark.as_text() for mark in (before, after))
        moved = await transaction.fetch(sql.SET_MARK, *texts)
        if not moved:
            raise other_mark(self.url)
        transaction.xid = moved[0][0]


async def _here(work: Work[R]) -> R:
    coming: Coroutine[Any, Any, R] = work()
    return await coming


def _all_fit(name: str, column: Sequence[Any]) -> bool:
    """Whether PostgreSQL can store these; all at once, because there are many."""
    if name in _BITS:
        most = 1 << _BITS[name]
        return bool(-most <= min(column) and max(column) < most)
    text = "".join([one for one in column if isinstance(one, str)])
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unstorable(table: Table, rows: list[Row], name: str, column: Sequence[Any]) -> StoreError:
    row, value = next(
        (row, value) for row, value in zip(rows, column, strict=True) if not _all_fit(name, [value])
    )
    if name in _BITS:
        why = f"{value}, allowed are numbers of {_BITS[name] + 1} bits"
    else:
        why = "text with a NUL character or with bytes that are no UTF-8"
    where = table.named(table.key_of(row))
    return StoreError(
        f"PostgreSQL cannot store {where} of {table.name}: its {name} is {why}. Another program "
        "has written it. Put it right in the source, or remove that row there; then copy again."
    )
