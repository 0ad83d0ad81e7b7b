"""What a caller lends: its own connection, told from everything else without importing a driver.

Whoever has an object of a driver has imported the driver, so `sys.modules` knows its classes.
"""

import sys
from typing import Any, Final, NoReturn

from kvqueue_fastapi.errors import InvalidOptionError

_ALCHEMY: Final = "sqlalchemy.ext.asyncio"
_REMEDIES: Final = (
    (_ALCHEMY, "AsyncEngine", "Write `async with engine.begin() as connection`."),
    (_ALCHEMY, "async_sessionmaker", "Write `async with sessions.begin() as session`."),
    ("sqlalchemy.orm", "Session", "It is a sync one: use an AsyncSession."),
    ("sqlalchemy.orm", "scoped_session", "It is a sync one: use an AsyncSession."),
    ("sqlalchemy", "Connection", "It is a sync one: use an AsyncConnection."),
    ("sqlalchemy", "Engine", "It is a sync one: use an AsyncEngine and its connections."),
    ("asyncpg", "Pool", "Take a connection of it, and begin a transaction there."),
    ("psycopg_pool", "AsyncConnectionPool", "Take a connection of it."),
    ("psycopg_pool", "ConnectionPool", "It is a sync one: use an AsyncConnectionPool."),
    ("psycopg", "Connection", "It is a sync one: use psycopg.AsyncConnection."),
    ("psycopg2.extensions", "connection", "It is a sync one: use psycopg.AsyncConnection."),
    ("sqlite3", "Connection", "It is a sync one: use aiosqlite."),
)


def is_a(connection: object, module: str, name: str) -> bool:
    """Whether it is of a class of a module that somebody else has imported."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(connection, kind)


async def alchemy_connection(connection: Any) -> Any:
    """SQLAlchemy's `AsyncConnection` in what is lent; None: it is nothing of SQLAlchemy's.

    A session that has not begun begins.
    """
    if is_a(connection, _ALCHEMY, "async_scoped_session"):
        connection = connection()
    if is_a(connection, _ALCHEMY, "AsyncSession"):
        return await connection.connection()
    return connection if is_a(connection, _ALCHEMY, "AsyncConnection") else None


def not_taken(connection: object, accepted: str) -> InvalidOptionError:
    """The refusal of what no message can be sent through."""
    kind = type(connection)
    remedy = next(
        (f" {text}" for module, name, text in _REMEDIES if is_a(connection, module, name)), ""
    )
    return InvalidOptionError(
        f"connection is a {kind.__module__}.{kind.__qualname__}, allowed is {accepted}.{remedy}"
    )


def closed() -> InvalidOptionError:
    """The refusal of a connection that is not open."""
    return InvalidOptionError("The connection is closed, or not opened yet. Give an open one.")


def outside_transaction() -> InvalidOptionError:
    """The refusal of a connection on which each statement is a transaction of its own."""
    return InvalidOptionError(
        "The connection is not in a transaction (it is in autocommit), so the message would be "
        "sent whatever becomes of what else is written. Begin a transaction first."
    )


def elsewhere(found: str, own: str) -> InvalidOptionError:
    """The refusal of a connection to another database.

    Args:
        found: where it leads.
        own: where the queue is.
    """
    return InvalidOptionError(
        f"The connection leads to {found}, the queue is in {own}: no transaction spans both. "
        "Send through a connection to the queue's database, or set KVQUEUE_URL to this one."
    )


def refuse_database(found: str, own: str) -> NoReturn:
    """Raise the refusal of a connection to another database; see `elsewhere`."""
    raise elsewhere(found, own)
