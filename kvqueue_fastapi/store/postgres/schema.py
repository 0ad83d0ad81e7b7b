"""Brings a database up to this code's schema, once, whoever starts first."""

from typing import Final

from kvqueue_fastapi.errors import StoreError
from kvqueue_fastapi.store.migrations import Migration, load_migrations, pending
from kvqueue_fastapi.store.postgres import locks
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import Session
from kvqueue_fastapi.store.postgres.sessions import Sessions, Transaction

PACKAGE: Final = "kvqueue_fastapi.store.postgres"


async def migrate(sessions: Sessions, migrations: tuple[Migration, ...] | None = None) -> None:
    """Apply what is missing, under a lock.

    A role that only runs needs no right to do it where nothing is missing.

    Raises:
        SchemaTooNewError: the database asks for newer code.
    """
    known = migrations or load_migrations(PACKAGE)
    if await sessions.attempt(lambda session: _is_current(session, sessions, known)):
        return
    await sessions.transact(lambda transaction: _migrate(transaction, sessions, known))


async def _is_current(session: Session, sessions: Sessions, known: tuple[Migration, ...]) -> bool:
    return await _has_schema(session, sessions) and not await _missing(session, known)


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
    for migration in await _missing(transaction, known):
        await transaction.execute(migration.sql)
        await transaction.fetch(sql.UPDATE_SCHEMA, migration.number, migration.oldest_code)


async def _has_schema(session: Session, sessions: Sessions) -> bool:
    return bool((await session.fetch(sql.HAS_SCHEMA, sessions.schema))[0][0])


async def _missing(session: Session, known: tuple[Migration, ...]) -> list[Migration]:
    rows = await session.fetch(sql.READ_SCHEMA)
    if not rows:
        msg = (
            "The table kvqueue_schema has no row: another program has removed it. Restore a backup."
        )
        raise StoreError(msg)
    return pending(known, *rows[0])
