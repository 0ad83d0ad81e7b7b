"""What transactions lock before they look, so that what they see stays true.

All of them are advisory locks that end with their transaction. Batches take theirs in one order,
so that no two wait for each other. Ordering and idempotency keys share a few hundred, because
the server has room for some thousands of locks.
"""

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple
from zlib import crc32

import asyncpg

from kvqueue_fastapi.errors import StoreBusyError
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import KeysLockedError, OwnSession, Row, Session

_BUCKETS: Final = 256
_ORDERING: Final = 1
_IDEMPOTENCY: Final = _ORDERING + _BUCKETS
MIGRATIONS: Final = _IDEMPOTENCY + _BUCKETS
VACUUM: Final = MIGRATIONS + 1
VERSIONS: Final = VACUUM + 1
"""The last one, because all who write keys want it: who has it waits for nobody else's."""

_TURN: Final = 1_000
"""Added to the number of a key's lock, for whose turn it is among those who share it.

A caller's own transaction has a key for as long as it likes, a batch of ours for a commit. With
one lock for both, a batch could not tell for whom it waits.
"""

_ONE_IN_HAND_MS: Final = 500
"""Less than the second after which the server ends one of those who wait for each other."""


class StillHeldError(StoreBusyError):
    """A caller's transaction has a key, and goes on and on.

    Attributes:
        lock: the number of the key's lock.
    """

    def __init__(self, lock: int) -> None:
        self.lock = lock
        super().__init__(
            "A transaction that has sent with the same ordering or idempotency key is still open. "
            "Look for it in pg_stat_activity; commit sooner."
        )


class ShutOutError(StoreBusyError):
    """Another program's lock lets nobody write, while reads may pass."""

    def __init__(self) -> None:
        super().__init__(
            "Another session has locked the table of messages. Look for it in pg_locks."
        )


class Locked(NamedTuple):
    """A moment from which on others wait.

    Attributes:
        now_ms: by the server's clock, or by the one that was given.
        xid: the number of the transaction.
        missing: the locks that callers' transactions have or wait for.
    """

    now_ms: int
    xid: str
    missing: frozenset[int] = frozenset()


def space(schema: str) -> int:
    """The first number of all of a schema's locks."""
    return crc32(f"kvqueue_fastapi {schema}".encode()) - (1 << 31)


def ordering(key: str) -> int:
    """The lock of an ordering key."""
    return _ORDERING + crc32(key.encode()) % _BUCKETS


def idempotency(message_type: str, key: str) -> int:
    """The lock of an idempotency key."""
    return _IDEMPOTENCY + crc32(f"{message_type}\0{key}".encode()) % _BUCKETS


async def lock(
    session: Session, schema: str, numbers: Collection[int], now_ms: int | None
) -> Locked:
    """Wait for locks, and hold them until the transaction ends, which may be long."""
    wanted = sorted(set(numbers))
    (row,) = await session.fetch(sql.LOCK, now_ms, space(schema), wanted)
    return Locked(*row)


async def lock_briefly(
    session: Session, schema: str, numbers: Collection[int], now_ms: int | None
) -> Locked:
    """Take locks until the transaction ends, which is soon, and wait for nobody who takes longer.

    Those of keys are shared by all who do so, and each has his turn; see `_TURN`.

    Raises:
        KeysLockedError: one was not free for so long.
    """
    keys = sorted(set(numbers) - {VERSIONS})
    turns = [number + _TURN for number in keys]
    if VERSIONS in numbers:
        turns.append(VERSIONS)
    (row,) = await _fetch(session, sql.LOCK_SHARED, now_ms, space(schema), keys, turns)
    return Locked(row[0], row[1], frozenset(row[2] or ()))


async def committed_version(session: Session, schema: str) -> int:
    """The last version of keys, when whoever writes a later one has come to an end.

    Raises:
        KeysLockedError: he has not for so long.
    """
    (row,) = await _fetch(session, sql.COMMITTED_VERSION, space(schema), VERSIONS)
    return int(row[0])


async def lock_to_write(transaction: OwnSession) -> None:
    """Lock the table of messages as each write does, but without waiting.

    Raises:
        ShutOutError: a write would have to wait.
    """
    try:
        await transaction.execute(sql.LOCK_TO_WRITE)
    except asyncpg.LockNotAvailableError as error:
        raise ShutOutError from error


async def wait_for(session: Session, schema: str, numbers: Sequence[int], within_ms: int) -> None:
    """Stand in the queue for the locks of keys, and share them with others who have them briefly.

    Args:
        session: within a transaction.
        schema: whose.
        numbers: of the locks, one after another.
        within_ms: how long to wait for the first one. Whoever has it waits no longer than
            `_ONE_IN_HAND_MS` for another.

    Raises:
        StillHeldError: one was not free for so long.
    """
    usual = ""
    for number in numbers:
        ((before, _),) = await session.fetch(sql.LIMIT_WAITS, f"{within_ms}ms")
        usual = usual or before
        try:
            await session.fetch(sql.WAIT_FOR_LOCK, space(schema), number)
        except asyncpg.LockNotAvailableError as error:
            raise StillHeldError(number) from error
        within_ms = min(within_ms, _ONE_IN_HAND_MS)
    await session.fetch(sql.LIMIT_WAITS, usual)


async def _fetch(session: Session, statement: str, *values: object) -> Sequence[Row]:
    """Run a statement that waits for nothing but locks of keys."""
    try:
        return await session.fetch(statement, *values)
    except asyncpg.LockNotAvailableError as error:
        raise KeysLockedError(str(error)) from error
