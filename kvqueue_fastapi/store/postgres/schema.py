"""Brings a database up to this code's schema, once, whoever starts first."""

from typing import Final, NamedTuple

from kvqueue_fastapi.errors import StoreError
from kvqueue_fastapi.store.copies import unfinished
from kvqueue_fastapi.store.migrations import Migration, load_migrations, pending
from kvqueue_fastapi.store.postgres import locks
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import Session
from kvqueue_fastapi.store.postgres.sessions import Sessions, Transaction

PACKAGE: Final = "kvqueue_fastapi.store.postgres"


class State(NamedTuple):
    """The row of kvqueue_schema.

    Attributes:
        mark: of a copy into this store that is not finished.
    """

    applied: int
    oldest_code: int
    mark: str | None


async def migrate(
    sessions: Sessions, migrations: tuple[Migration, ...] | None = None, *, to_copy: bool = False
) -> None:
    """Apply what is missing, under a lock.

    A role that only runs needs no right to do it where nothing is missing.

    Args:
        sessions: where.
        migrations: None: all that this code knows.
        to_copy: whether it is a copy that asks, which alone may go on with an unfinished one.

    Raises:
        SchemaTooNewError: the database asks for newer code.
        StoreError: another store was copied into this one in part.
    """
    known = migrations or load_migrations(PACKAGE)
    state = await sessions.attempt(lambda session: read_state(session, sessions))
    if state is not None and state.mark is not None and not to_copy:
        raise unfinished(sessions.server, state.mark, emptying(sessions))
    if state is None or pending(known, state.applied, state.oldest_code):
        await sessions.transact(lambda transaction: _migrate(transaction, sessions, known))


def emptying(sessions: Sessions) -> str:
    """What empties a database, in words."""
    return f"run DROP SCHEMA {sessions.schema} CASCADE, if nothing else is in it"


async def read_state(session: Session, sessions: Sessions) -> State | None:
    """The row of kvqueue_schema; None: there is no such table."""
    return await _read(session) if await _has_schema(session, sessions) else None


async def _migrate(
    transaction: Transaction, sessions: Sessions, known: tuple[Migration, ...]
) -> None:
    locked = await locks.lock(transaction, sessions.schema, [locks.MIGRATIONS], None)
    transaction.xid = locked.xid
    if not await _has_schema(transaction, sessions):
        if not (await transaction.fetch(sql.HAS_NAMESPACE, sessions.schema))[0][0]:
            await transaction.execute(sql.CREATE_SCHEMA)
        await transaction.execute(sql.CREATE_SCHEMA_TABLE)
        await transaction.execute(sql.INSERT_SCHEMA)
    state = await _read(transaction)
    for migration in pending(known, state.applied, state.oldest_code):
        await transaction.execute(migration.sql)
        await transaction.fetch(sql.UPDATE_SCHEMA, migration.number, migration.oldest_code)


async def _has_schema(session: Session, sessions: Sessions) -> bool:
    return bool((await session.fetch(sql.HAS_SCHEMA, sessions.schema))[0][0])


async def _read(session: Session) -> State:
    rows = await session.fetch(sql.READ_SCHEMA)
    if not rows:
        msg = (
            "The table kvqueue_schema has no row: another program has removed it. Restore a backup."
        )
        raise StoreError(msg)
    return State(*rows[0])
