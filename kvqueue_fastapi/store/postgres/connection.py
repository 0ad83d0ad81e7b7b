"""A connection as this engine needs it, and what its errors mean."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Protocol

import asyncpg

from kvqueue_fastapi.errors import KvQueueError, StoreBusyError, StoreError
from kvqueue_fastapi.store.outages import Outages

Row = Sequence[Any]

HURRY_S: Final = 1.0
"""How long a process waits for the server that is about to stop."""
_LOCK_SHARE: Final = 0.8
"""Of the time for a statement, for locks of others."""
_IDLE_IN_TRANSACTION_S: Final = 5.0
"""A process that is frozen within a transaction must not keep its locks for long."""
_TRANSACTION_SHARE: Final = 6
"""Of the time for a statement: where that is a sixth of a lease, the whole of it."""
_TRANSACTION_S: Final = 10.0
"""At the least: a transaction of ours goes up to twenty times to the server."""
URL_REMEDY: Final = (
    " Write the URL as postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %40 for @, %2F for / "
    "and %3F for ? in the password."
)
CONNECT_TIMEOUT_S: Final = 5.0

SETTINGS: Final[Mapping[str, str]] = {
    "default_transaction_isolation": "read committed",  # claims would fail each other otherwise
    "default_transaction_read_only": "off",
    "jit": "off",
    "statement_timeout": "0",  # what takes too long is ended from here, and tried again
    # Statistics of a queue are out of date, and an index is always right here.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "idle_in_transaction_session_timeout": f"{_IDLE_IN_TRANSACTION_S:g}s",
    # A machine that is gone is noticed long before its leases end.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "14s",  # and also while something is to be said to it
}
"""Of each session; behind a pooler, of each transaction. `Patience.settings` has them all."""


class Patience:
    """How long to wait for a server, or for locks that others hold.

    Args:
        lease_s: how long a lease lasts. Beyond a third, waiting would cost us our leases.

    Attributes:
        seconds: may become less while somebody waits, and then holds for him, too.
        outages: when the server was away or could not write.
    """

    def __init__(self, lease_s: float) -> None:
        self.seconds = lease_s / 3
        self.outages = Outages(lease_s)

    @property
    def statement_s(self) -> float:
        """For one statement, so that it can be tried twice."""
        return max(1.0, self.seconds / 2)

    @property
    def lock_ms(self) -> int:
        """For locks that others hold."""
        return round(self.statement_s * _LOCK_SHARE * 1000)

    @property
    def settings(self) -> Mapping[str, str]:
        """What holds of each session, or behind a pooler of each transaction."""
        # The server gives up first, and says what it waited for.
        return {**SETTINGS, "lock_timeout": f"{self.lock_ms}ms"}

    def hurry(self) -> None:
        """Wait no longer than `HURRY_S` from now on."""
        self.seconds = min(self.seconds, HURRY_S)


def transaction_ms(statement_s: float) -> int:
    """For a whole transaction, of which each statement may take so long.

    Between the parts of a statement that is used for the first time, a session is not idle to
    the server, which would wait for a frozen process for ever.
    """
    return round(max(_TRANSACTION_S, _TRANSACTION_SHARE * statement_s) * 1000)


class KeysLockedError(Exception):
    """Another transaction has had the lock of a key for long, which tells nothing of all else."""


class Session(Protocol):
    """Where statements run: a connection of ours, or of the caller's own."""

    async def fetch(self, statement: str, *values: Any) -> Sequence[Row]:
        """Run a statement of this engine, and give all its rows."""
        ...


class OwnSession:
    """One of our connections, while it is in one hand.

    Args:
        connection: of asyncpg.
        schema: its quoted name.
        timeout_s: after which a statement that has no answer ends the connection.
    """

    __slots__ = ("_connection", "_schema", "timeout_s")

    def __init__(self, connection: Any, schema: str, timeout_s: float) -> None:
        self._connection = connection
        self._schema = schema
        self.timeout_s = timeout_s

    async def fetch(self, statement: str, *values: Any) -> Sequence[Row]:
        """Run a statement of this engine, and give all its rows."""
        here = in_schema(statement, self._schema)
        rows: Sequence[Row] = await self._connection.fetch(here, *values, timeout=self.timeout_s)
        return rows

    async def execute(self, script: str) -> None:
        """Run one or more statements that take no values and give no rows."""
        here = in_schema(script, self._schema)
        await self._connection.execute(here, timeout=self.timeout_s)

    @property
    def pid(self) -> int:
        """Of the server's process."""
        pid: int = self._connection.get_server_pid()
        return pid


@lru_cache(maxsize=512)
def in_schema(statement: str, schema: str) -> str:
    """The statement over the tables of a schema, whose name is quoted."""
    return statement.replace("{schema}", schema)


def quoted(name: str) -> str:
    """A name as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def is_cut(error: BaseException) -> bool:
    """Whether the connection is of no more use, and its last statement may have been done."""
    is_wrong = isinstance(error, asyncpg.ProtocolViolationError | asyncpg.ClientConfigurationError)
    return isinstance(error, _CUT) and not is_wrong


def may_pass(error: BaseException) -> bool:
    """Whether the same may well be done when it is tried again."""
    return is_cut(error) or isinstance(error, _PASSING)


def store_error(error: BaseException, server: str) -> KvQueueError:
    """What an error of the server, or on the way to it, is to a caller."""
    if isinstance(error, KvQueueError):
        return error
    text = str(error).strip() or type(error).__name__
    if isinstance(error, _LOCKED):
        return StoreBusyError(
            f"{server}: another session holds a lock ({text}). Look for a long transaction in "
            "pg_stat_activity."
        )
    errors = [error]
    if isinstance(error, asyncpg.ConnectionDoesNotExistError) and error.__cause__:
        errors.append(error.__cause__)  # the server's word for why it has closed the connection
    remedies = (remedy for kinds, remedy in _REMEDIES if any(isinstance(e, kinds) for e in errors))
    kind = StoreBusyError if may_pass(error) else StoreError
    return kind(f"{server}: {text.rstrip('.')}.{next(remedies, '')}")


_CUT: Final = (
    OSError,
    TimeoutError,
    asyncio.TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
    # A primary that has become a replica: the next connection looks for the primary.
    asyncpg.ReadOnlySQLTransactionError,
)
_LOCKED: Final = (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError, KeysLockedError)
_PASSING: Final = (
    *_LOCKED,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.TooManyConnectionsError,
    asyncpg.OutOfMemoryError,
)
_REMEDIES: Final = (
    (asyncpg.ClientConfigurationError, URL_REMEDY),
    (asyncpg.InvalidPasswordError, " Check the user and the password in the URL."),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        " Check the user in the URL, and pg_hba.conf.",
    ),
    (asyncpg.InvalidCatalogNameError, " Create the database, or name another in the URL."),
    (
        asyncpg.InsufficientPrivilegeError,
        " Give this role the rights that the README lists under PostgreSQL.",
    ),
    (asyncpg.DiskFullError, " Make room on the server's disk; what was stored is safe."),
    (asyncpg.TooManyConnectionsError, " Raise max_connections, or lower postgres_pool_size."),
    (
        (
            asyncpg.InvalidSQLStatementNameError,
            asyncpg.DuplicatePreparedStatementError,
            asyncpg.ProtocolViolationError,
        ),
        " The URL leads to a pooler: set postgres_listen_url to one that leads to the server.",
    ),
    (asyncpg.UndefinedTableError, " Another program has removed the table; restore a backup."),
    (
        (asyncpg.IdleInTransactionSessionTimeoutError, asyncpg.TransactionTimeoutError),
        (
            f" This process stood still for {_IDLE_IN_TRANSACTION_S:g} s, or the server or the way "
            f"to it is so slow that a transaction took as long as a lease ({_TRANSACTION_S:g} s at "
            "the least). Look for what blocks the process or slows the server, or raise lease_s."
        ),
    ),
    (_CUT, " Check that the server runs and can be reached."),
)
