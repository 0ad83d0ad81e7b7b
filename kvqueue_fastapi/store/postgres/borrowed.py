"""A caller's own connection, of whatever driver, as a session of this engine."""

import re
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, Protocol

from kvqueue_fastapi.errors import InvalidOptionError, KvQueueError, StoreBusyError, StoreError
from kvqueue_fastapi.store.borrowed import (
    alchemy_connection,
    closed,
    elsewhere,
    is_a,
    not_taken,
    refuse_database,
)
from kvqueue_fastapi.store.postgres.connection import Row, in_schema

ACCEPTED: Final = (
    "an AsyncSession or AsyncConnection of SQLAlchemy (on asyncpg or psycopg), a connection of "
    "asyncpg, or psycopg's AsyncConnection"
)
_IDLE: Final = 0
_NO_PIPELINE: Final = 0
_PARAMETER: Final = re.compile(r"\$(\d+)")


class Borrowed(Protocol):
    """A caller's connection.

    Attributes:
        xid: the number of its transaction, where that is known.
    """

    xid: str | None

    async def fetch(self, statement: str, *values: Any) -> Sequence[Row]:
        """Run a statement of this engine in the caller's transaction, and give all its rows."""
        ...

    async def is_in_transaction(self) -> bool:
        """Whether the statement before this was part of a transaction that still goes on."""
        ...


async def borrow(connection: Any, schema: str) -> Borrowed:
    """Take what a caller lends.

    Args:
        connection: what it gave.
        schema: the quoted name of the queue's.

    Raises:
        InvalidOptionError: it is nothing through which a message can be sent here.
    """
    if (alchemy := await alchemy_connection(connection)) is not None:
        if alchemy.dialect.name != "postgresql":
            refuse_database(f"a database of {alchemy.dialect.name}", "PostgreSQL")
        _require_open(is_closed=alchemy.closed)
        return _OfAlchemy(alchemy, schema)
    if is_a(connection, "asyncpg", "Connection"):
        _require_open(is_closed=connection.is_closed())
        return _OfAsyncpg(connection, schema)
    if is_a(connection, "psycopg", "AsyncConnection"):
        _require_open(is_closed=connection.closed)
        if connection.pgconn.pipeline_status != _NO_PIPELINE:
            msg = (
                "The connection of psycopg is in pipeline mode, in which answers come later. Send "
                "before or behind the `async with connection.pipeline()` block."
            )
            raise InvalidOptionError(msg)
        return _OfPsycopg(connection, schema)
    raise not_taken(connection, ACCEPTED)


def _require_open(*, is_closed: bool) -> None:
    if is_closed:
        raise closed()


class _OfAsyncpg:
    def __init__(self, connection: Any, schema: str) -> None:
        self._connection = connection
        self._schema = schema
        self.xid: str | None = None

    async def fetch(self, statement: str, *values: Any) -> Sequence[Row]:
        whole = in_schema(statement, self._schema)
        rows: Sequence[Row] = await self._connection.fetch(whole, *values)
        return rows

    async def is_in_transaction(self) -> bool:
        return _is_in_transaction(self._connection)


class _OfPsycopg:
    def __init__(self, connection: Any, schema: str) -> None:
        self._connection = connection
        self._schema = schema
        self.xid: str | None = None

    async def fetch(self, statement: str, *values: Any) -> Sequence[Row]:
        psycopg = sys.modules["psycopg"]
        named = _named(in_schema(statement, self._schema))
        # Not the connection's own cursor, which may take and give something else.
        cursor = psycopg.AsyncCursor(self._connection, row_factory=psycopg.rows.tuple_row)
        async with cursor:
            await cursor.execute(named, _names(values))
            rows: Sequence[Row] = await cursor.fetchall() if cursor.description else []
            return rows

    async def is_in_transaction(self) -> bool:
        return _is_in_transaction(self._connection)


class _OfAlchemy:
    """Through SQLAlchemy, because it begins the driver's transaction with its first statement."""

    def __init__(self, connection: Any, schema: str) -> None:
        self._connection = connection
        self._schema = schema
        self._is_named = connection.dialect.paramstyle == "pyformat"
        self.xid: str | None = None

    async def fetch(self, statement: str, *values: Any) -> Sequence[Row]:
        whole = in_schema(statement, self._schema)
        given: Any = values
        if self._is_named:
            whole, given = _named(whole), _names(values)
        result = await self._connection.exec_driver_sql(whole, given)
        rows: Sequence[Row] = result.fetchall() if result.returns_rows else []
        return rows

    async def is_in_transaction(self) -> bool:
        driver = (await self._connection.get_raw_connection()).driver_connection
        return _is_in_transaction(driver)


def _is_in_transaction(driver: Any) -> bool:
    if is_a(driver, "asyncpg", "Connection"):
        return bool(driver.is_in_transaction())
    if is_a(driver, "psycopg", "AsyncConnection"):
        return bool(driver.info.transaction_status != _IDLE)
    raise not_taken(driver, ACCEPTED)


@lru_cache(maxsize=64)
def _named(statement: str) -> str:
    """The statement with its parameters as psycopg writes them."""
    return _PARAMETER.sub(r"%(p\1)s", statement.replace("%", "%%"))


def _names(values: Sequence[Any]) -> dict[str, Any]:
    return {f"p{place}": value for place, value in enumerate(values, start=1)}


def failure(error: Exception, server: str) -> KvQueueError:
    """What an error on a caller's connection is to the caller, with the driver's as its cause.

    Args:
        error: as it came.
        server: the queue's, as errors show it.
    """
    if isinstance(error, KvQueueError):
        return error
    # Not SQLAlchemy's own, of which the text shows the statement's values: payloads.
    cause = getattr(error, "orig", None) or error
    state = _state(cause)
    text = (str(cause).strip() or type(cause).__name__).rstrip(".")
    found: KvQueueError
    if state in _NO_TABLE:
        found = elsewhere(f"a database without the queue's tables ({text})", server)
    elif state in _PASSING:
        found = StoreBusyError(
            f"{text}. Nothing is lost: roll the transaction back, and do all of it again."
        )
    else:
        found = StoreError(f"The connection that was given: {text}.{_REMEDIES.get(state, '')}")
    found.__cause__ = cause
    return found


def read_only() -> InvalidOptionError:
    """The refusal of a transaction in which nothing can be written."""
    return InvalidOptionError(
        "The connection's transaction is read-only, so no message can be sent in it. Begin one "
        "that may write, on the primary."
    )


def stale(isolation: str) -> InvalidOptionError:
    """The refusal of an ordering key in a transaction that does not see what was committed."""
    return InvalidOptionError(
        f"The connection's transaction is {isolation.upper()}, and does not see which messages "
        "of the ordering key have come or gone since it began: it would stall the key, or break "
        "its order. Use READ COMMITTED, or leave the ordering_key out."
    )


def _state(error: BaseException) -> str:
    """The server's code, as asyncpg and psycopg both name it; "": it is no error of a server."""
    return str(getattr(error, "sqlstate", None) or "")


_NO_TABLE: Final = ("42P01", "3F000")
_PASSING: Final = (
    "40001",  # could not serialize
    "40P01",  # deadlock
    "55P03",  # lock_timeout
    "57014",  # statement_timeout
)
_REMEDIES: Final = {
    "42501": " Give its role USAGE on the queue's schema, and SELECT, INSERT and UPDATE on the "
    "tables kvqueue_….",
    "25P02": " Roll it back: a statement before this one has failed.",
}
