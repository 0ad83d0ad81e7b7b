"""Word from and to other processes: LISTEN and NOTIFY, and the marks of life beside them.

One connection of its own listens. It never holds a transaction, and it holds the advisory
locks by which others see that this process lives: they go when its connection ends.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from zlib import crc32

from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import (
    CONNECT_TIMEOUT_S,
    OwnSession,
    Row,
    is_cut,
    may_pass,
    store_error,
)
from kvqueue_fastapi.store.postgres.database_loop import DatabaseLoop
from kvqueue_fastapi.store.postgres.sessions import Sessions

log = logging.getLogger("kvqueue_fastapi")

GATHER_S: Final = 0.005
"""How long a notice waits at the least after the one before it."""
KEEPALIVE_S: Final = 5.0
TIMEOUT_S: Final = 3.0
_SHORTEST_WAIT_S: Final = 0.02
_LONGEST_WAIT_S: Final = 0.5
MESSAGES, KEYS = "m", "k"


class Notices:
    """Tells other processes what was committed here, and hears what was committed there.

    Args:
        database: its event loop is where all of it happens.
        sessions: where to connect.
        heard: called with what others have changed: `MESSAGES`, `KEYS`, or both.
    """

    def __init__(
        self,
        database: DatabaseLoop,
        sessions: Sessions,
        heard: Callable[[str], None],
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._heard = heard
        self.channel = f"kvqueue_{crc32(sessions.schema.encode()):08x}"
        self._connection: Any = None
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._ringing: asyncio.Task[None] | None = None
        self._pending: set[str] = set()
        self._rang_at = float("-inf")
        self._listeners: dict[int, tuple[Any, ...]] = {}
        self._lost = asyncio.Event()
        self._ready = asyncio.Event()
        self._heard_oneself = asyncio.Event()
        self._is_deaf = False
        self._stopped = False
        self._lost_pid = 0
        self._complained = False
        self._failure: Exception | None = None

    def start(self) -> None:
        """Begin to listen, if that has not begun."""
        if self._task is None and not self._stopped:
            self._task = self._database.keep(self._listen_forever())

    def ring(self, *, messages: bool, keys: bool) -> None:
        """Tell others soon; what is rung meanwhile goes with it."""
        if messages:
            self._pending.add(MESSAGES)
        if keys:
            self._pending.add(KEYS)
        if self._ringing is None and self._pending:
            self._ringing = self._database.keep(self._ring())

    async def enter(self, listener_id: int, *row: Any) -> None:
        """Show a mark of life, then say that this process listens."""
        self.start()
        # However short leases are: nothing is lost to others by who does not yet listen.
        patience_s = max(self._sessions.patience.seconds, CONNECT_TIMEOUT_S)
        deadline = time.monotonic() + patience_s
        while True:
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await self._ready.wait()
                await self._show_first(listener_id, row)
            except Exception as error:  # noqa: BLE001 because each has the same remedy
                if time.monotonic() >= deadline or not may_pass(error):
                    cause = self._failure or error
                    raise store_error(cause, self._sessions.server) from cause
                # That connection is lost; the next one is under way.
                await asyncio.sleep(_SHORTEST_WAIT_S)
            else:
                return

    async def _show_first(self, listener_id: int, row: tuple[Any, ...]) -> None:
        self._listeners[listener_id] = row
        try:
            await self._show(listener_id)
        except BaseException:
            self._listeners.pop(listener_id, None)
            raise

    async def leave(self, listener_id: int) -> None:
        """Take the mark of life away."""
        self._listeners.pop(listener_id, None)
        if self._connection is not None:
            with contextlib.suppress(Exception):  # it is gone, and the lock with it
                await self._fetch(sql.LISTENER_UNLOCK, listener_id)

    @property
    def present(self) -> list[int]:
        """The listeners of this process."""
        return list(self._listeners)

    @property
    def unseen(self) -> list[int]:
        """Those of them that live, but cannot show it now."""
        return [] if self._ready.is_set() else list(self._listeners)

    async def close(self) -> None:
        """Say what is still to be said, and end."""
        self._stopped = True
        if self._ringing is not None:
            await asyncio.wait([self._ringing], timeout=1)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1)

    async def _listen_forever(self) -> None:
        wait_s = _SHORTEST_WAIT_S
        try:
            while True:
                try:
                    await self._connect()
                except Exception as error:  # noqa: BLE001 because nothing may end it
                    self._complain(error, is_long=wait_s == _LONGEST_WAIT_S)
                else:
                    self._complained = False
                    wait_s = _SHORTEST_WAIT_S
                    self._heard(MESSAGES + KEYS)  # what was said meanwhile was not heard
                    await self._keep_alive()
                await self._disconnect()
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        finally:
            await self._disconnect()

    def _complain(self, error: Exception, *, is_long: bool) -> None:
        """Once while it lasts, however long that is."""
        self._failure = error
        loudly, self._complained = is_long and not self._complained, self._complained or is_long
        with contextlib.suppress(Exception):  # no log that fails may end it
            log.log(
                logging.WARNING if loudly else logging.DEBUG,
                "%s cannot be listened to; it is tried again: %s",
                self._sessions.server,
                str(error) or type(error).__name__,
            )

    async def _connect(self) -> None:
        connection = await self._sessions.connector.connect_to_listen()
        self._lost.clear()
        self._connection = connection
        connection.add_termination_listener(self._lose)
        if self._lost_pid:
            # The server may not know yet that the old one is lost, and keep its locks.
            await self._fetch(sql.END_BACKEND, self._lost_pid, self._sessions.name)
        self._lost_pid = connection.get_server_pid()
        async with asyncio.timeout(TIMEOUT_S):
            await connection.add_listener(self.channel, self._hear)
        await self._hear_oneself()
        for listener_id in self.present:
            await self._show(listener_id)
        self._failure = None
        self._ready.set()

    async def _hear_oneself(self) -> None:
        """See whether anything is heard: behind a pooler LISTEN hears nothing, without an error."""
        self._heard_oneself.clear()
        await self._fetch(sql.NOTIFY, self.channel, f"{self._sessions.name}:")
        try:
            await asyncio.wait_for(self._heard_oneself.wait(), TIMEOUT_S)
        except TimeoutError:
            if not self._is_deaf:
                log.warning(
                    "LISTEN hears nothing at %s: it leads to a pooler such as PgBouncer. Messages "
                    "of other processes are found by polling, and a dead process by its leases "
                    "alone. Set postgres_listen_url to a URL that leads straight to the server",
                    self._sessions.server,
                )
            self._is_deaf = True

    def _lose(self, _connection: Any) -> None:
        self._lost.set()

    async def _show(self, listener_id: int) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not (await self._fetch(sql.LISTENER_LOCK, listener_id))[0][0]:
            if time.monotonic() > deadline:
                msg = f"the lock of listener {listener_id} is held by another session"
                raise TimeoutError(msg)
            await asyncio.sleep(_SHORTEST_WAIT_S)
        if listener_id not in self._listeners:
            return  # it has left meanwhile
        now_ms, *row = self._listeners[listener_id]
        await self._fetch(sql.INSERT_LISTENER, now_ms, listener_id, *row)

    async def _keep_alive(self) -> None:
        while not self._lost.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), KEEPALIVE_S)
                return
            try:
                await self._fetch(sql.KEEP_ALIVE)
            except Exception:  # noqa: BLE001 because whatever it is, another connection is due
                return

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._ready.clear()
        if connection is not None:
            connection.terminate()

    async def _fetch(self, statement: str, *values: Any) -> Sequence[Row]:
        async with self._turn:
            if self._connection is None:
                msg = "the connection that listens is lost"
                raise ConnectionError(msg)
            timeout_s = min(TIMEOUT_S, max(1.0, self._sessions.patience.seconds))
            session = OwnSession(self._connection, self._sessions.schema, timeout_s)
            return await session.fetch(statement, *values)

    def _hear(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        sender, _, kinds = payload.partition(":")
        if sender == self._sessions.name:
            self._heard_oneself.set()
        else:
            self._heard(kinds)

    async def _ring(self) -> None:
        try:
            while self._pending:
                wait_s = self._rang_at + GATHER_S - time.monotonic()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                self._rang_at = time.monotonic()
                kinds = "".join(sorted(self._pending))
                self._pending.clear()
                await self._notify(f"{self._sessions.name}:{kinds}")
        finally:
            self._ringing = None

    async def _notify(self, payload: str) -> None:
        """Ring behind the commit: within it, it would keep all other commits waiting."""
        try:
            if self._connection is not None and not self._lost.is_set():
                await self._fetch(sql.NOTIFY, self.channel, payload)
                return
        except Exception as error:  # noqa: BLE001 because there is another way
            if is_cut(error):
                self._lost.set()
        try:
            await self._sessions.attempt(
                lambda session: session.fetch(sql.NOTIFY, self.channel, payload)
            )
        except Exception as error:  # noqa: BLE001 because the polls of the others find it, too
            log.debug("Other processes could not be told: %s", error)
