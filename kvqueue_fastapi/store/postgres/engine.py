"""The PostgreSQL engine: one server, a pool, and one connection that listens."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from kvqueue_fastapi.endings import in_own_thread
from kvqueue_fastapi.errors import KvQueueClosedError
from kvqueue_fastapi.model import (
    AtomicWrite,
    Claimed,
    Committed,
    Report,
    Send,
    Settlement,
    Stored,
    Tally,
)
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store.base import ClaimRequest, Clock, Held
from kvqueue_fastapi.store.key_table import grouped, stored
from kvqueue_fastapi.store.postgres import locks
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.admin import PostgresAdmin
from kvqueue_fastapi.store.postgres.batch import Batch
from kvqueue_fastapi.store.postgres.claims import Claims
from kvqueue_fastapi.store.postgres.commits import Commits
from kvqueue_fastapi.store.postgres.connection import Patience, Row
from kvqueue_fastapi.store.postgres.copies import PostgresSource
from kvqueue_fastapi.store.postgres.database_loop import DatabaseLoop
from kvqueue_fastapi.store.postgres.ids import Ids
from kvqueue_fastapi.store.postgres.joint import JointSends
from kvqueue_fastapi.store.postgres.lanes import Lanes, Written
from kvqueue_fastapi.store.postgres.leases import Undertaker, extend
from kvqueue_fastapi.store.postgres.listeners import Listeners
from kvqueue_fastapi.store.postgres.notices import KEYS, MESSAGES, Notices
from kvqueue_fastapi.store.postgres.picks import Moment
from kvqueue_fastapi.store.postgres.schema import migrate
from kvqueue_fastapi.store.postgres.sends import KnownTypes
from kvqueue_fastapi.store.postgres.sessions import Sessions
from kvqueue_fastapi.store.postgres.sweeps import VACUUM_EVERY, sweep, vacuum
from kvqueue_fastapi.store.postgres.transactions import Transactions
from kvqueue_fastapi.store.writer import TaskWriter, Writer

R = TypeVar("R")
Wake = Callable[[], None]


class PostgresStore:
    """A store in one schema of a PostgreSQL database."""

    # Most of what a claim costs is the way to the server and back, and they come one after another.
    claim_size = 250

    def __init__(self, url: str, settings: KvQueueSettings, clock: Clock | None) -> None:
        self._clock = clock
        self._retention_ms = round(settings.dead_letter_retention_s * 1000)
        self._patience = Patience(settings.lease_s)
        self._loop = asyncio.get_running_loop()
        self._database = DatabaseLoop()
        self._sessions = Sessions(url, settings, self._patience)
        schema = self._sessions.schema
        self._ids = Ids()
        self._sessions.connector.server_changed = self._ids.forget
        self._undertaker = Undertaker(
            self._sessions, settings.max_crashes, self._patience.outages, schema
        )
        self._claims = Claims(self._sessions, self._undertaker, self._moment)
        self._notices = Notices(self._database, self._sessions, self._heard)
        self._listeners = Listeners(self._sessions, self._notices, self._undertaker)
        types = KnownTypes()
        batch = Batch(schema, self._ids, types)
        transactions = Transactions(self._sessions, batch, self._claims, self._ids, self._now_ms)
        self._lanes = Lanes(self._database, transactions, self._patience, self._tell, self._ring_of)
        self._commits = Commits(self._database, self._sessions, self._sent_within)
        self._joint = JointSends(
            self._database,
            self._sessions,
            batch,
            types,
            self._ids,
            self._commits,
            self._now_ms,
        )
        # Gathered as writes are: a hundred that read at once share one statement.
        self._getter: Writer[Sequence[bytes]] = TaskWriter(self._get_together)
        self._wakes: list[Wake] = []
        self._key_wakes: list[Wake] = []
        self._handled = 0
        self._vacuuming: asyncio.Task[None] | None = None
        self._users = 1
        self._users_lock = threading.Lock()
        self._closing = False
        self.admin = PostgresAdmin(
            self._sessions, self._database.run, self._changed_here, self._ids, self._now_ms
        )

    @classmethod
    async def open(
        cls, url: str, settings: KvQueueSettings, clock: Clock | None = None
    ) -> "PostgresStore":
        """Connect, and bring the schema up to date where needed.

        Raises:
            StoreError: the server cannot be reached, or refuses us.
            SchemaTooNewError: newer code owns the schema.
        """
        store = cls(url, settings, clock)
        try:
            await store._database.run(store._sessions.open)
            await store._database.run(lambda: migrate(store._sessions))
        except BaseException:
            await in_own_thread(lambda: store._database.close(store._sessions.close))
            raise
        return store

    def commit(self, write: AtomicWrite) -> asyncio.Future[Committed]:
        """Write all of it durably, or nothing."""
        return self._lanes.commit(write)

    async def send_within(self, connection: Any, sends: Sequence[Send]) -> list[int]:
        """Store messages in a transaction of the caller's. Returns their ids, in order."""
        return await self._joint.send(connection, sends)

    async def settle(self, settlements: Sequence[Settlement]) -> list[Held]:
        """End claims, each by itself. Returns, in order, whether the lease still held."""
        # Shielded, because a handler that has ended stays ended, whoever is cancelled.
        return await asyncio.shield(self._lanes.settle(settlements))

    async def claim(self, request: ClaimRequest) -> Claimed:
        """Take what is due, types taking turns; see `ClaimRequest`."""
        claimed, left_over = await self._database.run(lambda: self._claims.claim(request))
        if claimed.made_ready:
            _call_all(self._wakes)
        if left_over or claimed.made_ready:
            self._ring(messages=True)
        return claimed

    def offer(self, request: ClaimRequest, wake: Wake) -> asyncio.Future[Claimed]:
        """Have the next commit of this process that may make something claimable claim it, too."""
        return self._lanes.offers.make(request, wake)

    def withdraw(self, offer: asyncio.Future[Claimed]) -> bool:
        """Take an offer back. Returns whether it still stood; if not, its answer comes."""
        return self._lanes.offers.withdraw(offer)

    @property
    def can_write(self) -> bool:
        """Whether what is written was not refused of late."""
        return not self._patience.outages.refuses

    async def ready_types(self, *, after: str, limit: int) -> list[str]:
        """Types with something to claim, in order, beginning behind `after`."""
        types, made_ready = await self._database.run(lambda: self._claims.ready_types(after, limit))
        if made_ready:
            _call_all(self._wakes)
        return types

    async def listened_types(self) -> frozenset[str]:
        """Types that some listening process handles."""
        return frozenset(row[0] for row in await self._fetch(sql.LISTENED_TYPES))

    async def paused_types(self) -> frozenset[str]:
        """Types that nobody may claim now."""
        return frozenset(row[0] for row in await self._fetch(sql.PAUSED_TYPES))

    async def count_pending(self, *, most: int) -> int:
        """How many messages wait, counted to about `most`."""
        return int((await self._fetch(sql.COUNT_PENDING, most))[0][0])

    async def get(self, keys: Sequence[bytes]) -> list[Stored | None]:
        """What is stored under each of at most `MAX_READ_KEYS` keys, at one moment."""
        found: list[Stored | None] = await self._getter.submit(keys)
        return found

    async def scan(self, start: bytes, end: bytes, *, limit: int, reverse: bool) -> list[Stored]:
        """The first keys from `start` to before `end`, or the last ones, from the end."""
        statement = sql.LIST_KEYS_BACKWARDS if reverse else sql.LIST_KEYS
        rows = await self._fetch(statement, self._now_ms(), start, end, limit)
        return [stored(row[:5], row[5]) for row in rows]

    async def last_version(self) -> int:
        """That of the last commit that had one."""
        return await self._database.run(
            lambda: self._sessions.attempt(
                lambda session: locks.committed_version(session, self._sessions.schema)
            )
        )

    def subscribe(self, wake: Wake) -> Wake:
        """Call `wake` on the event loop when something may have become claimable."""
        return self._subscribe(self._wakes, wake)

    def subscribe_to_keys(self, wake: Wake) -> Wake:
        """Call `wake` on the event loop when some key may have changed."""
        return self._subscribe(self._key_wakes, wake)

    async def enter_listener(self, types: Sequence[str]) -> int:
        """Say that this process listens, and show a mark of life. Returns its id."""
        return await self._database.run(lambda: self._listeners.enter(types, self._now_ms()))

    def retire_listener(self, listener_id: int) -> None:
        """Say that it only waits for threads that go on: its end is no crash. Blocks."""
        self._database.call(lambda: self._listeners.retire(listener_id))

    def leave_listener(self, listener_id: int) -> None:
        """Take the mark of life away, and give back what it still holds. Blocks."""
        self._database.call(lambda: self._listeners.leave(listener_id))
        self._changed_beside()

    def settle_now(self, settlements: Sequence[Settlement]) -> list[bool]:
        """`settle`, for a thread that outlived its event loop. Blocks."""
        held = self._database.call(lambda: self._lanes.settle_now(settlements))
        self._changed_beside()
        return held

    def extend(self, leases: Sequence[tuple[int, int]], lease_ms: int) -> frozenset[int]:
        """Prolong leases, given as pairs of message id and token. Returns the ids of the lost."""
        steady_ms = self._moment().steady_ms
        return self._database.call(
            lambda: self._sessions.attempt(
                lambda session: extend(session, leases, lease_ms, steady_ms)
            )
        )

    def report(self, listener_id: int, report: Report, tallies: Sequence[Tally]) -> None:
        """Write down what a listener says of itself, and what has ended in this minute. Blocks."""
        self._database.call(
            lambda: self._listeners.report(listener_id, report, tallies, self._now_ms())
        )

    def end_leases_of_the_dead(self) -> int:
        """Free what dead listeners held. Blocks. Returns how many messages that were."""
        freed = self._database.call(lambda: self._listeners.bury_the_dead(self._moment()))
        if freed:
            self._changed_beside()
        return freed

    def sweep(self) -> int:
        """Remove a slice of what is past its time. Blocks. Returns how many rows that were."""
        return self._database.call(
            lambda: sweep(self._sessions, now_ms=self._now_ms(), retention_ms=self._retention_ms)
        )

    def to_copy(self) -> PostgresSource:
        """What a copy of this store reads from; it ends with the store."""
        return PostgresSource(self._sessions, self._database.run)

    def hurry(self) -> None:
        """Wait a second at most for the server from now on: this process stops."""
        self._patience.hurry()
        with contextlib.suppress(KvQueueClosedError):
            self._database.soon(self._sessions.hurry)

    def retain(self) -> None:
        """Keep the database open beyond `close`, for a thread that outlives the event loop."""
        with self._users_lock:
            self._users += 1

    def let_go(self) -> None:
        """End what `retain` began. Blocks."""
        with self._users_lock:
            self._users -= 1
            is_last = self._users == 0
        if is_last:
            self._database.close(self._end)

    async def close(self) -> None:
        """Finish what was submitted, then let go of the database."""
        is_first, self._closing = not self._closing, True
        self.hurry()
        try:
            await self._lanes.close()
            await self._getter.close()
        finally:
            if is_first:
                await in_own_thread(self.let_go)

    async def _end(self) -> None:
        if self._vacuuming is not None:
            self._vacuuming.cancel()
        await self._commits.close()
        await self._notices.close()
        await self._sessions.close()

    def _moment(self) -> Moment:
        if self._clock is None:
            return Moment(None, None)
        return Moment(self._clock.wall_ms(), self._clock.steady_ms())

    def _now_ms(self) -> int | None:
        return None if self._clock is None else self._clock.wall_ms()

    async def _fetch(self, statement: str, *values: Any) -> Sequence[Row]:
        return await self._database.run(
            lambda: self._sessions.attempt(lambda session: session.fetch(statement, *values))
        )

    async def _get_together(self, requests: Sequence[Sequence[bytes]]) -> list[object]:
        answers: list[object] = []
        now_ms = self._now_ms()
        for group in grouped(requests):
            wanted = list(dict.fromkeys(key for keys in group for key in keys))
            rows = await self._fetch(sql.GET_KEYS, now_ms, wanted)
            found = {row[0]: stored(row[:5], row[5]) for row in rows}
            answers += [[found.get(key) for key in keys] for keys in group]
        return answers

    def _subscribe(self, wakes: list[Wake], wake: Wake) -> Wake:
        wakes.append(wake)
        self._database.soon(self._notices.start)
        return lambda: wakes.remove(wake)

    def _tell(self, written: Written, taken_up: list[Wake]) -> None:
        """On the app's event loop, before those who wait for what was written."""
        if written.made_ready:
            # Of whatever type, so that no offer can have named it all.
            _call_all(self._wakes)
        elif written.changed:
            _call_all([wake for wake in self._wakes if wake not in taken_up])
        if written.keys_changed:
            _call_all(self._key_wakes)

    def _ring_of(self, written: Written) -> None:
        messages = written.left or written.made_ready
        if messages or written.keys_changed:
            self._notices.ring(messages=messages, keys=written.keys_changed)
        self._count(written)

    def _ring(self, *, messages: bool = False, keys: bool = False) -> None:
        if messages or keys:
            self._database.soon(lambda: self._notices.ring(messages=messages, keys=keys))

    def _count(self, written: Written) -> None:
        self._handled += sum(len(one) for one in written.answers if isinstance(one, list))
        if self._handled >= VACUUM_EVERY:
            self._handled = 0
            self._vacuum()

    def _vacuum(self) -> None:
        if self._vacuuming is None or self._vacuuming.done():
            self._vacuuming = self._database.keep(vacuum(self._sessions))

    def _sent_within(self) -> None:
        """In the database's event loop: callers have committed what they sent, maybe long ago."""
        self._claims.forget()
        self._on_loop(lambda: _call_all(self._wakes))
        self._notices.ring(messages=True, keys=False)

    def _heard(self, kinds: str) -> None:
        if MESSAGES in kinds:
            self._on_loop(lambda: _call_all(self._wakes))
        if KEYS in kinds:
            self._on_loop(lambda: _call_all(self._key_wakes))

    def _changed_here(self) -> None:
        """On the app's event loop: something was changed for whoever waits."""
        _call_all(self._wakes)
        _call_all(self._key_wakes)
        self._ring(messages=True, keys=True)

    def _changed_beside(self) -> None:
        """As `_changed_here`, from another thread, also where the app's event loop has ended."""
        self._heard(MESSAGES + KEYS)
        self._ring(messages=True, keys=True)

    def _on_loop(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # it was closed: nobody is left there
            return


def _call_all(wakes: Sequence[Wake]) -> None:
    for wake in tuple(wakes):
        wake()
