"""The SQLite engine: one file, one writing thread, readers beside it."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

from kvqueue_fastapi.endings import in_own_thread
from kvqueue_fastapi.errors import StoreBusyError
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
from kvqueue_fastapi.store.base import (
    ClaimRequest,
    Clock,
    Held,
    Request,
    SettleRequest,
)
from kvqueue_fastapi.store.key_table import grouped, stored
from kvqueue_fastapi.store.offers import Offers
from kvqueue_fastapi.store.sqlite import statements as sql
from kvqueue_fastapi.store.sqlite.admin import SqliteAdmin
from kvqueue_fastapi.store.sqlite.batch import Answers, Batch
from kvqueue_fastapi.store.sqlite.connection import (
    Patience,
    WriteTransaction,
    connect,
    patiently,
    store_error,
)
from kvqueue_fastapi.store.sqlite.copies import SqliteSource
from kvqueue_fastapi.store.sqlite.database_thread import DatabaseThread
from kvqueue_fastapi.store.sqlite.forks import OpenFile
from kvqueue_fastapi.store.sqlite.joint import JointSends
from kvqueue_fastapi.store.sqlite.keys import in_parts
from kvqueue_fastapi.store.sqlite.leases import Undertaker, extend
from kvqueue_fastapi.store.sqlite.listeners import Listeners
from kvqueue_fastapi.store.sqlite.location import MEMORY, SameFile, path_of, refuse_network
from kvqueue_fastapi.store.sqlite.reader import FileReader, Reader, ThreadReader
from kvqueue_fastapi.store.sqlite.schema import migrate, require_whole, the_row
from kvqueue_fastapi.store.sqlite.sweeps import sweep
from kvqueue_fastapi.store.writer import TaskWriter, WriteBatch, Writer

R = TypeVar("R")
Arguments = TypeVarTuple("Arguments")


class SystemClock:
    """The machine's clocks."""

    def wall_ms(self) -> int:
        """UTC milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def steady_ms(self) -> int:
        """Milliseconds that never jump, the same for all processes of this boot."""
        return time.monotonic_ns() // 1_000_000


class SqliteStore:
    """A store in one SQLite file, or in memory."""

    claim_size = 100  # of which two may be in one commit

    def __init__(self, path: str, settings: KvQueueSettings, clock: Clock) -> None:
        self._path = path
        self._file = None if path == MEMORY else OpenFile(path)
        self._clock = clock
        self._retention_ms = round(settings.dead_letter_retention_s * 1000)
        self._patience = Patience(settings.lease_s)
        undertaker = Undertaker(settings.max_crashes, self._patience.outages)
        self._batch = Batch(clock, undertaker, path, self._patience)
        self._joint = JointSends(path, clock)
        self._listeners = Listeners(path, clock, undertaker, self._patience)
        self._same_file = SameFile(path)
        self._thread = DatabaseThread(
            lambda: connect(path, synchronous=settings.sqlite_synchronous, patience=self._patience),
            check=self._same_file.require,
        )
        self._loop = asyncio.get_running_loop()
        self._wakes: list[Callable[[], None]] = []
        self._key_wakes: list[Callable[[], None]] = []
        self._offers = Offers()
        self._writer: Writer[Request] = Writer(
            partial(self._thread.submit, self._write_batch, self._refuse_batch)
        )
        # Gathered as writes are: a hundred that read at once share one hop between threads.
        self._getter: Writer[Sequence[bytes]] = TaskWriter(self._get_together)
        self._users = 1
        self._closing = False
        self._users_lock = threading.Lock()
        self._reader: Reader = ThreadReader(self._thread)
        self.admin = SqliteAdmin(self._reader, self._transact, clock, self._listeners.has_died)

    @classmethod
    async def open(
        cls, url: str, settings: KvQueueSettings, clock: Clock | None = None
    ) -> "SqliteStore":
        """Open the database, making it or bringing its schema up to date where needed.

        Raises:
            InvalidOptionError: the URL is no path.
            StoreError: it cannot be opened, is no database, or lies on a network file system.
            SchemaTooNewError: newer code owns it.
        """
        path = path_of(url)
        if path != MEMORY:
            refuse_network(path)
        store = cls(path, settings, clock or SystemClock())
        try:
            await store._run(store._prepare)
            if path != MEMORY:
                store._reader = await FileReader.open(path)
                store.admin = SqliteAdmin(
                    store._reader, store._transact, store._clock, store._listeners.has_died
                )
        except BaseException:
            store._end_thread()
            raise
        return store

    def commit(self, write: AtomicWrite) -> asyncio.Future[Committed]:
        """Write all of it durably, or nothing."""
        return self._writer.submit(write, write.size_bytes)

    async def send_within(self, connection: Any, sends: Sequence[Send]) -> list[int]:
        """Store messages in a transaction of the caller's. Returns their ids, in order."""
        return await self._joint.send(connection, sends)

    async def settle(self, settlements: Sequence[Settlement]) -> list[Held]:
        """End claims, each by itself. Returns, in order, whether the lease still held."""
        # Shielded, because a handler that has ended stays ended, whoever is cancelled.
        settling = asyncio.shield(self._writer.submit(SettleRequest(settlements)))
        held: list[Held] = await settling
        return held

    async def claim(self, request: ClaimRequest) -> Claimed:
        """Take what is due, types taking turns; see `ClaimRequest`."""
        claimed: Claimed = await self._writer.submit(request)
        return claimed

    def offer(self, request: ClaimRequest, wake: Callable[[], None]) -> asyncio.Future[Claimed]:
        """Have the next commit of this process that may make something claimable claim it, too."""
        return self._offers.make(request, wake)

    def withdraw(self, offer: asyncio.Future[Claimed]) -> bool:
        """Take an offer back. Returns whether it still stood; if not, its answer comes."""
        return self._offers.withdraw(offer)

    async def ready_types(self, *, after: str, limit: int) -> list[str]:
        """Types with something to claim, in order, beginning behind `after`."""

        def work(connection: sqlite3.Connection) -> list[str]:
            types, made_ready = self._batch.ready_types(connection, after, limit)
            if made_ready:
                self._on_loop(_call_all, self._wakes)
            return types

        return await self._run(work)

    async def listened_types(self) -> frozenset[str]:
        """Types that some listening process handles."""
        return frozenset(kind for row in await self._fetch(sql.LISTENED_TYPES, {}) for kind in row)

    async def paused_types(self) -> frozenset[str]:
        """Types that nobody may claim now."""
        return frozenset(row[0] for row in await self._fetch(sql.PAUSED_TYPES, {}))

    @property
    def can_write(self) -> bool:
        """Whether what is written was not refused of late, and would be found again."""
        return not self._patience.outages.refuses and self._same_file.is_there

    async def count_pending(self, *, most: int) -> int:
        """How many messages wait, counted to about `most`."""
        rows = await self._fetch(sql.COUNT_PENDING, {"most": most})
        return int(rows[0][0])

    async def get(self, keys: Sequence[bytes]) -> list[Stored | None]:
        """What is stored under each of at most `MAX_READ_KEYS` keys, at one moment."""
        found: list[Stored | None] = await self._getter.submit(keys)
        return found

    async def scan(self, start: bytes, end: bytes, *, limit: int, reverse: bool) -> list[Stored]:
        """The first keys from `start` to before `end`, or the last ones, from the end."""
        now_ms = self._clock.wall_ms()
        names = {"start": start, "end": end, "limit": limit, "now_ms": now_ms}
        statement = sql.LIST_KEYS_BACKWARDS if reverse else sql.LIST_KEYS
        return [stored(row, now_ms) for row in await self._reader.fetch_all(statement, names)]

    async def last_version(self) -> int:
        """That of the last commit that had one."""
        rows = await self._reader.fetch_all(sql.LAST_VERSION, ())
        return int(the_row(next(iter(rows), None))[0])

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` on the event loop when something may have become claimable."""
        return self._subscribe(self._wakes, wake)

    def subscribe_to_keys(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` on the event loop when some key may have changed."""
        return self._subscribe(self._key_wakes, wake)

    async def enter_listener(self, types: Sequence[str]) -> int:
        """Say that this process listens, and show a mark of life. Returns its id."""
        return await self._run(lambda connection: self._listeners.enter(connection, types))

    def retire_listener(self, listener_id: int) -> None:
        """Say that it only waits for threads that go on: its end is no crash. Blocks."""
        self._call(lambda connection: self._listeners.retire(connection, listener_id))

    def leave_listener(self, listener_id: int) -> None:
        """Take the mark of life away, and give back what it still holds. Blocks."""
        self._call(lambda connection: self._listeners.leave(connection, listener_id))
        self._foreign_change()

    def settle_now(self, settlements: Sequence[Settlement]) -> list[bool]:
        """`settle`, for a thread that outlived its event loop. Blocks."""
        requests = (SettleRequest(settlements),)
        answer = self._call(lambda connection: self._batch.apply(connection, requests)).answers[0]
        if isinstance(answer, Exception):
            raise answer
        held: list[bool] = answer
        return held

    def extend(self, leases: Sequence[tuple[int, int]], lease_ms: int) -> frozenset[int]:
        """Prolong leases, given as pairs of message id and token. Returns the ids of the lost."""

        def work(connection: sqlite3.Connection) -> frozenset[int]:
            with WriteTransaction(connection, self._patience):
                return extend(connection, leases, self._clock.steady_ms() + lease_ms)

        return self._call(work)

    def report(self, listener_id: int, report: Report, tallies: Sequence[Tally]) -> None:
        """Write down what a listener says of itself, and what has ended in this minute. Blocks."""
        self._call(
            lambda connection: self._listeners.report(connection, listener_id, report, tallies)
        )

    def end_leases_of_the_dead(self) -> int:
        """Free what dead listeners held. Blocks. Returns how many messages that were."""
        freed = self._listeners.bury_the_dead(self._call, self._call)
        if freed:
            self._foreign_change()
        return freed

    def sweep(self) -> int:
        """Remove a slice of what is past its time. Blocks. Returns how many rows that were."""
        return self._call(
            lambda connection: sweep(
                connection,
                now_ms=self._clock.wall_ms(),
                retention_ms=self._retention_ms,
                patience=self._patience,
            )
        )

    def to_copy(self) -> SqliteSource:
        """What a copy of this store reads from; it ends with the store."""
        return SqliteSource(self._run, self._path)

    def hurry(self) -> None:
        """Wait a second at most for other programs from now on: this process stops."""
        self._patience.hurry()

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
            self._end_thread()
            self._listeners.end_presence()

    async def close(self) -> None:
        """Finish what was submitted, then let go of the database."""
        is_first, self._closing = not self._closing, True
        self.hurry()
        try:
            self._offers.close()
            await self._writer.close()
            await self._getter.close()
        finally:
            # Whatever happens, because the reader's thread would keep the process alive.
            try:
                await self._reader.close()
            finally:
                if is_first:
                    await in_own_thread(self.let_go)

    def _end_thread(self) -> None:
        self._thread.close()
        if self._file is not None:
            self._file.close()

    def _write_batch(self, connection: sqlite3.Connection) -> None:
        batch = self._writer.take()
        if not batch.requests:  # who asked was cancelled, or has the answer of those before
            self._on_loop(self._writer.answer, batch, ())
            return
        try:
            taken_up = self._offers.take_up(batch)
            answers = self._batch.apply(connection, batch.requests)
        except BaseException as error:  # noqa: BLE001 because it is every caller's answer
            self._answer_all(batch, error)
        else:
            self._on_loop(self._answer, batch, answers, taken_up)

    def _refuse_batch(self, _result: None, error: BaseException | None) -> None:
        if error is not None:
            self._answer_all(self._writer.take(), error)

    def _answer_all(self, batch: WriteBatch[Request], error: BaseException) -> None:
        if isinstance(error, sqlite3.Error):
            error = store_error(error, self._path)
        if isinstance(error, StoreBusyError):
            self._writer.join(batch)
        answers = Answers([error] * len(batch.futures), changed=False, keys_changed=False)
        self._on_loop(self._answer, batch, answers, [])

    def _answer(
        self, batch: WriteBatch[Request], answers: Answers, taken_up: list[Callable[[], None]]
    ) -> None:
        try:
            if answers.made_ready:
                # Of whatever type, so that no offer can have named it all.
                _call_all(self._wakes)
            elif answers.changed:
                _call_all([wake for wake in self._wakes if wake not in taken_up])
            if answers.keys_changed:
                _call_all(self._key_wakes)
        finally:
            self._writer.answer(batch, answers.answers)

    async def _get_together(self, requests: Sequence[Sequence[bytes]]) -> list[object]:
        answers: list[object] = []
        for group in grouped(requests):
            now_ms = self._clock.wall_ms()
            wanted = list(dict.fromkeys(key for keys in group for key in keys))
            found: dict[bytes, Stored] = {}
            # One part, because no group is larger: what a caller gets is of one moment.
            for part, statement in in_parts(wanted, sql.READ_KEYS):
                for row in await self._reader.fetch_all(statement, part):
                    if row[4] is None or row[4] > now_ms:
                        found[row[0]] = stored(row, now_ms)
            answers += [[found.get(key) for key in keys] for keys in group]
        return answers

    def _subscribe(
        self, wakes: list[Callable[[], None]], wake: Callable[[], None]
    ) -> Callable[[], None]:
        wakes.append(wake)
        self._thread.watch(self._foreign_change)

        def unsubscribe() -> None:
            wakes.remove(wake)
            if not self._wakes and not self._key_wakes:
                self._thread.watch(None)

        return unsubscribe

    def _prepare(self, connection: sqlite3.Connection) -> None:
        migrate(connection, self._patience)
        require_whole(connection, self._patience, self._path)

    async def _transact(self, work: Callable[[sqlite3.Connection], R]) -> R:
        def durably(connection: sqlite3.Connection) -> R:
            with WriteTransaction(connection, self._patience):
                return work(connection)

        result = await self._run(durably)
        self._wake()
        return result

    async def _fetch(self, statement: str, names: dict[str, object]) -> list[Any]:
        def read(connection: sqlite3.Connection) -> list[Any]:
            # A process that recovers the file from a crash keeps readers out, too.
            return patiently(
                lambda: connection.execute(statement, names).fetchall(), self._patience
            )

        return await self._run(read)

    async def _run(self, work: Callable[[sqlite3.Connection], R]) -> R:
        try:
            return await self._thread.run(work)
        except sqlite3.Error as error:
            raise store_error(error, self._path) from error

    def _call(self, work: Callable[[sqlite3.Connection], R]) -> R:
        try:
            return self._thread.call(work)
        except sqlite3.Error as error:
            raise store_error(error, self._path) from error

    def _foreign_change(self) -> None:
        self._on_loop(self._wake)

    def _on_loop(self, call: Callable[[*Arguments], None], *args: *Arguments) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # it was closed: nobody is left there
            return

    def _wake(self) -> None:
        _call_all(self._wakes)
        _call_all(self._key_wakes)


def _call_all(wakes: Sequence[Callable[[], None]]) -> None:
    for wake in tuple(wakes):
        wake()
