"""Sessions on the server: a pool of them, tried again where they break."""

import asyncio
import random
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, TypeVar

import asyncpg

from kvqueue_fastapi.errors import KvQueueError, StoreBusyError, StoreError
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store.postgres import locks
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import (
    KeysLockedError,
    OwnSession,
    Patience,
    is_cut,
    may_pass,
    quoted,
    store_error,
)
from kvqueue_fastapi.store.postgres.connector import Connector
from kvqueue_fastapi.store.postgres.pool import Pool
from kvqueue_fastapi.urls import shown_url

R = TypeVar("R")
Work = Callable[[OwnSession], Awaitable[R]]

WAITING_SIZE: Final = 4
"""Connections beside those of the pool, for transactions that wait for those of callers."""
_SHORTEST_WAIT_S: Final = 0.02
_LONGEST_WAIT_S: Final = 0.5
_ENCODINGS: Final = ("UTF8", "SQL_ASCII")
_LOOK_TIMEOUT_S: Final = 300.0
"""For the keeper's questions, which may go through whole tables."""


class Begun(NamedTuple):
    """A transaction of which the commit was not answered.

    Attributes:
        xid: its number; None: it was not asked for.
        life: of the server, in which the number was given.
    """

    xid: str | None
    life: object


class Transaction(OwnSession):
    """A session within a transaction.

    Attributes:
        xid: the transaction's number, as `LOCK` gives it, which tells later how it ended.
    """

    __slots__ = ("xid",)

    def __init__(self, connection: Any, schema: str, timeout_s: float) -> None:
        super().__init__(connection, schema, timeout_s)
        self.xid: str | None = None


class Sessions:
    """A pool of connections to one server, in whose event loop all of it happens.

    Args:
        url: of the server, and of nothing else if it fails over.
        settings: the schema, the size of the pool, and whether the URL is that of a pooler.
        patience: with the server.

    Attributes:
        schema: its quoted name.
        server: the URL as errors show it.
        name: of all connections to it.
        connector: makes them.
    """

    def __init__(self, url: str, settings: KvQueueSettings, patience: Patience) -> None:
        self.schema = quoted(settings.postgres_schema)
        self.server = shown_url(url)
        self.patience = patience
        self.name = f"kvqueue {secrets.token_hex(6)}"
        self.connector = Connector(url, settings, patience, self.name)
        self._pool = Pool(self.connector.connect, settings.postgres_pool_size)
        self._waiting = Pool(self.connector.connect, WAITING_SIZE)
        self._lost: set[int] = set()
        self._limits: set[asyncio.Timeout] = set()

    async def open(self) -> None:
        """Connect once, so that what is wrong with the URL is told at the start."""
        ((encoding,),) = await self.attempt(lambda session: session.fetch(sql.ENCODING))
        if encoding not in _ENCODINGS:
            msg = (
                f"{self.server}: the database's encoding is {encoding}, which cannot hold every "
                "text; UTF8 can. Write CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0."
            )
            raise StoreError(msg)

    def hurry(self) -> None:
        """Wait no longer than the patience that is left for what is under way."""
        until = asyncio.get_running_loop().time() + self.patience.seconds
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(until)

    async def close(self) -> None:
        """Let go of every connection."""
        self._pool.close()
        self._waiting.close()

    async def attempt(
        self, work: Work[R], *, timeout_s: float | None = None, is_write: bool = False
    ) -> R:
        """Run one statement, or several of which each may be done twice, until it succeeds.

        Args:
            work: what to do.
            timeout_s: for each statement; None: as patience has it.
            is_write: somebody must know whether it was done.

        Raises:
            StoreError: it cannot be done, or not in time.
        """
        try:
            return await self._patiently(lambda: self._run(work, timeout_s))
        except KvQueueError as error:
            # Also where the last try was refused, those before it may still arrive.
            if is_write and self._lost and isinstance(error, StoreBusyError):
                raise self._not_known(error) from error
            raise

    async def once(self, work: Work[R], *, timeout_s: float) -> R:
        """Run one statement or several, and try no second time.

        Args:
            work: what is not worth waiting for.
            timeout_s: for all of it.

        Raises:
            StoreError: it was not done, or not in time; or nobody knows.
        """
        try:
            async with asyncio.timeout(timeout_s):
                result = await self._run(work, timeout_s)
        except KvQueueError:
            raise
        except Exception as error:  # noqa: BLE001 because each is told of as what it is to a caller
            raise store_error(error, self.server) from _bare(error)
        self.patience.outages.has_written()
        return result

    async def look(self, work: Work[R]) -> R:
        """As `attempt`, for questions that may take long."""
        return await self.attempt(work, timeout_s=_LOOK_TIMEOUT_S)

    async def transact(
        self, work: Callable[[Transaction], Awaitable[R]], *, waits: bool = False
    ) -> R:
        """Run `work` in one transaction, and tell for sure that it was committed.

        Args:
            work: what to do.
            waits: for transactions of callers, which may go on for long: on a connection that
                nobody else needs.

        Raises:
            StoreError: it cannot be done, or nobody can say whether it was.
        """
        doubts: list[tuple[Begun, R]] = []

        async def once() -> R:
            if doubts:
                begun, result = doubts[-1]
                if await self._has_committed(begun):
                    return result
                doubts.clear()
            pool = self._waiting if waits else self._pool
            async with self._session(None, Transaction, pool) as transaction:
                life = self.connector.life
                result = await self._within(transaction, work)
                begun = Begun(transaction.xid, life)
                try:
                    await transaction.execute(sql.COMMIT)
                except BaseException as error:
                    if is_cut(error):
                        doubts.append((begun, result))
                    raise
                return result

        try:
            return await self._patiently(once)
        except KvQueueError as error:
            if doubts:
                raise self._not_known(error) from error
            raise

    def _not_known(self, error: KvQueueError) -> StoreBusyError:
        # Of a kind that nobody takes for the fault of one write, and tries the others again.
        msg = f"{error} Whether it was stored is not known: the answer did not come."
        return StoreBusyError(msg)

    async def _within(
        self, transaction: Transaction, work: Callable[[Transaction], Awaitable[R]]
    ) -> R:
        await self.connector.begin(transaction)
        try:
            return await work(transaction)
        except BaseException as error:
            # Else the connection ends, and the transaction with it.
            if not (is_cut(error) or isinstance(error, asyncio.CancelledError)):
                await transaction.execute(sql.ROLLBACK)
            raise

    async def _run(self, work: Work[R], timeout_s: float | None) -> R:
        async with self._session(timeout_s) as session:
            if not self.connector.is_pooled:
                return await work(session)
            await self.connector.begin(session)
            try:
                return await work(session)
            finally:
                await session.execute(sql.COMMIT)

    async def _patiently(self, once: Callable[[], Awaitable[R]]) -> R:
        began = time.monotonic()
        wait_s = _SHORTEST_WAIT_S
        while True:
            try:
                result = await once()
            except Exception as error:
                await self._note(error)
                if isinstance(error, KvQueueError):
                    raise
                if not may_pass(error):
                    raise store_error(error, self.server) from error
                if time.monotonic() - began >= self.patience.seconds:
                    raise store_error(error, self.server) from _bare(error)
            else:
                self.patience.outages.has_lock()
                self.patience.outages.has_written()
                return result
            await asyncio.sleep(random.uniform(wait_s / 2, wait_s))  # noqa: S311 because it is no secret
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    async def _note(self, error: Exception) -> None:
        if is_cut(error) or isinstance(error, asyncpg.DiskFullError):
            self.patience.outages.has_failed()
        elif isinstance(error, asyncpg.LockNotAvailableError | locks.ShutOutError):
            self.patience.outages.is_shut_out()
        elif isinstance(error, KeysLockedError):
            await self._look_at_table()

    async def _look_at_table(self) -> None:
        """Find out, once a key was waited for in vain, whether whoever has it waits himself."""
        try:
            async with self._session(None, Transaction) as transaction:
                await self._within(transaction, locks.lock_to_write)
                await transaction.execute(sql.ROLLBACK)
        except Exception as error:  # noqa: BLE001 because the caller is told what he waited for
            await self._note(error)

    @asynccontextmanager
    async def _session(
        self, timeout_s: float | None, kind: type[Any] = OwnSession, pool: Pool | None = None
    ) -> AsyncGenerator[Any]:
        async with asyncio.timeout(None) as limit:
            self._limits.add(limit)
            try:
                async with self._acquired(timeout_s, kind, pool or self._pool) as session:
                    yield session
            finally:
                self._limits.discard(limit)

    @asynccontextmanager
    async def _acquired(
        self, timeout_s: float | None, kind: type[Any], pool: Pool
    ) -> AsyncGenerator[Any]:
        patience_s = self.patience.seconds
        connection = await pool.take(patience_s)
        pid = connection.get_server_pid()
        try:
            session = kind(connection, self.schema, timeout_s or self.patience.statement_s)
            if self._lost:
                await self._end_lost(session)
            yield session
        except BaseException as error:
            if is_cut(error) or isinstance(error, asyncio.CancelledError):
                self._lost.add(pid)
                connection.terminate()
                self._pool.suspect()
                self._waiting.suspect()
            raise
        finally:
            pool.give_back(connection)

    async def _end_lost(self, session: OwnSession) -> None:
        """End the server's part of connections that were lost.

        What was sent there may still arrive, or wait for a lock. Done behind what is tried
        again, it would bring back a message that was handled meanwhile.
        """
        deadline = time.monotonic() + self.patience.seconds
        while lost := list(self._lost):
            if not await session.fetch(sql.END_BACKENDS, lost, self.name):
                self._lost.difference_update(lost)
            elif time.monotonic() > deadline:
                msg = f"the server does not end its processes {lost}"
                raise TimeoutError(msg)
            else:
                await asyncio.sleep(_SHORTEST_WAIT_S)

    async def _has_committed(self, begun: Begun) -> bool:
        """Find out how a transaction ended of which the commit was not answered."""
        status = None
        if begun.xid is not None:
            async with self._session(None) as session:
                try:
                    status = (await session.fetch(sql.HOW_IT_ENDED, begun.xid))[0][0]
                except asyncpg.InvalidParameterValueError:
                    status = "aborted"  # a server that has never given that number has no such work
        if status == "in progress":
            msg = "the server's part of a lost connection goes on"
            raise TimeoutError(msg)
        # A server that has crashed gives numbers again of which nothing had been written down.
        if status is None or (status == "committed" and begun.life != self.connector.life):
            msg = f"{self.server}: the connection was lost within a commit."
            raise StoreError(msg)
        return bool(status == "committed")


def _bare(error: Exception) -> Exception:
    """Without its way through the driver, which says nothing of a server that is away."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
