"""What transactions lock before they look, so that what they see stays true.

All of them are advisory locks that end with their transaction, in one order, so that no two
sessions wait for each other. Ordering and idempotency keys share a few hundred, because the
server has room for some thousands of locks.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple
from zlib import crc32

from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import Session

_BUCKETS: Final = 256
_ORDERING: Final = 1
_IDEMPOTENCY: Final = _ORDERING + _BUCKETS
MIGRATIONS: Final = _IDEMPOTENCY + _BUCKETS
VACUUM: Final = MIGRATIONS + 1
VERSIONS: Final = VACUUM + 1
"""The last one, because all who write keys want it: who has it waits for nobody else's."""


class Locked(NamedTuple):
    """A moment from which on others wait.

    Attributes:
        now_ms: by the server's clock, or by the one that was given.
        xid: the number of the transaction.
    """

    now_ms: int
    xid: str


def space(schema: str) -> int:
    """The first number of all of a schema's locks."""
    return crc32(f"kvqueue_fastapi {schema}".encode()) - (1 << 31)


def ordering(key: str) -> int:
    """The lock of an ordering key."""
    return _ORDERING + crc32(key.encode()) % _BUCKETS


def idempotency(message_type: str, key: str) -> int:
    """The lock of an idempotency key."""
    return _IDEMPOTENCY + crc32(f"{message_type}\0{key}".encode()) % _BUCKETS


async def lock(session: Session, schema: str, numbers: Iterable[int], now_ms: int | None) -> Locked:
    """Wait for locks, and hold them until the transaction ends."""
    wanted = sorted(set(numbers))
    (row,) = await session.fetch(sql.LOCK, now_ms, space(schema), wanted)
    return Locked(*row)
