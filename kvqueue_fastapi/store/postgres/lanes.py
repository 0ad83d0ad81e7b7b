"""Lines of writes, each batch of which is one transaction.

What is in one lane waits for no other: messages that are only sent wait for no lock, and a
flood of them holds up no settlement.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from kvqueue_fastapi.errors import KvQueueError, StoreBusyError
from kvqueue_fastapi.model import AtomicWrite, Claimed, Committed, KvSet, Send, Settlement
from kvqueue_fastapi.store.base import ClaimRequest, Request, SettleRequest
from kvqueue_fastapi.store.effects import may_change, writes_keys
from kvqueue_fastapi.store.offers import Offers
from kvqueue_fastapi.store.postgres.batch import (
    Batch,
    Change,
    cannot_be_stored,
    is_only_done,
    is_only_sent,
)
from kvqueue_fastapi.store.postgres.claims import Claims
from kvqueue_fastapi.store.postgres.connection import OwnSession
from kvqueue_fastapi.store.postgres.database_loop import DatabaseLoop
from kvqueue_fastapi.store.postgres.ids import Ids
from kvqueue_fastapi.store.postgres.leases import new_token
from kvqueue_fastapi.store.postgres.sessions import Sessions, Transaction
from kvqueue_fastapi.store.writer import WriteBatch, Writer

ROW_BYTES: Final = 256
"""About what a message takes beside its payload."""


class Written(NamedTuple):
    """What became of a batch.

    Attributes:
        answers: to each request, in order; an exception is an answer.
        changed: whether something may have become claimable, now or at a known time.
        keys_changed: whether a watched key may read otherwise.
        left: whether there may be something for other processes to claim.
        made_ready: whether a claim made something claimable that it may not have asked for.
    """

    answers: list[Any]
    changed: bool
    keys_changed: bool
    left: bool
    made_ready: bool


Tell = Callable[[Written, list[Callable[[], None]]], None]
"""Told on the app's event loop of what was written, before the callers are; and of whose
offers name all that it may be."""

Ring = Callable[[Written], None]
"""Told in the database's event loop of what was written, for other processes."""


class Lane:
    """Gathers requests on the app's event loop, and has them written in the database's.

    Args:
        database: where batches are written, one after another.
        write: writes a batch and sees to its answers. It must not raise.

    Attributes:
        writer: where requests are handed in.
    """

    def __init__(
        self, database: DatabaseLoop, write: Callable[[Writer[Request]], Awaitable[None]]
    ) -> None:
        self._database = database
        self._write = write
        self._asked = False
        self._running = False
        self.writer: Writer[Request] = Writer(self._begin)

    def _begin(self) -> None:
        self._database.soon(self._start)

    def _start(self) -> None:
        self._asked = True
        if not self._running:
            self._running = True
            self._database.keep(self._main())

    async def _main(self) -> None:
        try:
            while self._asked:
                self._asked = False
                await self._write(self.writer)
        finally:
            self._running = False


class Lanes:
    """The lanes of one store.

    Args:
        database: where batches are written.
        sessions: the server.
        batch: what does it.
        claims: what takes up offers.
        ids: of new messages.
        now_ms: when; None: the server knows.
        tell: told of what was written, for this process.
        ring: the same, for others.

    Attributes:
        offers: claims that wait for something to claim.
    """

    def __init__(
        self,
        database: DatabaseLoop,
        sessions: Sessions,
        batch: Batch,
        claims: Claims,
        ids: Ids,
        now_ms: Callable[[], int | None],
        tell: Tell,
        ring: Ring,
    ) -> None:
        self._sessions = sessions
        self._batch = batch
        self._claims = claims
        self._ids = ids
        self._now_ms = now_ms
        self._tell = tell
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self.offers = Offers()
        self._sends = Lane(database, self._write)
        self._writes = Lane(database, self._write)
        self._settlements = Lane(database, self._write)

    def commit(self, write: AtomicWrite) -> asyncio.Future[Committed]:
        """Write all of it durably, or nothing."""
        size_bytes = 0
        for send in write.sends:
            size_bytes += ROW_BYTES + len(send.data)
        for mutation in write.mutations:
            if isinstance(mutation, KvSet):
                size_bytes += len(mutation.value)
        lane = self._sends if is_only_sent(write) else self._writes
        return lane.writer.submit(write, size_bytes)

    def settle(self, settlements: Sequence[Settlement]) -> asyncio.Future[list[bool]]:
        """End claims, each by itself."""
        # Dead letters write keys, and wait for those who write keys before them.
        lane = self._writes if any(map(writes_keys, settlements)) else self._settlements
        return lane.writer.submit(SettleRequest(settlements))

    async def settle_now(self, settlements: Sequence[Settlement]) -> list[bool]:
        """`settle`, from within the database's event loop."""
        answer = (await self._apply([SettleRequest(settlements)]))[0]
        if isinstance(answer, Exception):
            raise answer
        held: list[bool] = answer
        return held

    async def close(self) -> None:
        """Finish what was submitted, and take nothing more."""
        self.offers.close()
        for lane in (self._sends, self._writes, self._settlements):
            await lane.writer.close()

    async def _write(self, writer: Writer[Request]) -> None:
        batch = writer.take()
        if not batch.requests:  # who asked was cancelled, or has the answer of those before
            self._on_loop(lambda: writer.answer(batch, ()))
            return
        taken_up: list[Callable[[], None]] = []
        try:
            taken_up = self.offers.take_up(batch)
            answers = await self._apply(batch.requests)
        except BaseException as error:  # noqa: BLE001 because it is every caller's answer
            if isinstance(error, StoreBusyError):
                writer.join(batch)
            answers = [error] * len(batch.futures)
            written, taken_up = Written(answers, False, False, False, False), []
        else:
            written = _written(batch.requests, answers)
            self._ring(written)
        self._on_loop(lambda: self._answer(writer, batch, written, taken_up))

    def _answer(
        self,
        writer: Writer[Request],
        batch: WriteBatch[Request],
        written: Written,
        taken_up: list[Callable[[], None]],
    ) -> None:
        try:
            self._tell(written, taken_up)
        finally:
            writer.answer(batch, written.answers)

    def _on_loop(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # it was closed: nobody is left there
            return

    async def _apply(self, requests: Sequence[Request]) -> list[Any]:
        changes = [one for one in requests if not isinstance(one, ClaimRequest)]
        claims = [one for one in requests if isinstance(one, ClaimRequest)]
        counts = [len(one.sends) if isinstance(one, AtomicWrite) else 0 for one in changes]
        ids = await self._number(counts)
        try:
            answers = await self._together(changes, ids, claims)
        except KvQueueError as error:
            if len(requests) == 1 or not _is_of_one(error):
                raise
            answers = await self._one_by_one(changes, ids, claims)
        _tell_of_claims(claims, answers)
        return answers

    async def _number(self, counts: Sequence[int]) -> list[list[int]]:
        async def fetch(statement: str, *values: Any) -> Sequence[Any]:
            return await self._sessions.attempt(lambda session: session.fetch(statement, *values))

        total = sum(counts)
        numbers = iter(await self._ids.take(total, fetch) if total else ())
        return [[next(numbers) for _ in range(count)] for count in counts]

    async def _together(
        self,
        changes: Sequence[Change],
        ids: Sequence[Sequence[int]],
        claims: Sequence[ClaimRequest],
    ) -> list[Any]:
        """Offers first among the answers, but last in the transaction: they see all of it."""
        if not claims and all(map(is_only_done, changes)):
            return list(await self._finish(_settling(changes)))
        only_sent = all(map(is_only_sent, changes))
        now_ms = self._now_ms()

        async def change(session: Any) -> list[Any]:
            if not only_sent:
                return await self._batch.apply(session, changes, now_ms, ids)
            await self._send(session, changes, ids, now_ms)
            return [Committed(True, own) for own in ids]

        tokens: list[int] = []

        async def work(transaction: Transaction) -> list[Any]:
            answers = await change(transaction)
            found: list[Any] = []
            for one in claims:
                tokens.append(new_token())
                found.append((await self._claims.claim_within(transaction, one, tokens[-1]))[0])
            return found + answers

        if only_sent and not claims:
            answers = await self._sessions.attempt(change, is_write=True)
        else:
            try:
                answers = await self._sessions.transact(work)
            except BaseException:
                self._claims.doubt(tokens)
                raise
        own = answers[len(claims) :]
        self._batch.committed(changes, own)
        return answers

    async def _send(
        self,
        session: OwnSession,
        changes: Sequence[Change],
        ids: Sequence[Sequence[int]],
        now_ms: int | None,
    ) -> None:
        sends: list[Send] = []
        for one in changes:
            if isinstance(one, AtomicWrite):
                sends += one.sends
        if sends:
            await self._batch.send(session, sends, [each for own in ids for each in own], now_ms)

    async def _finish(self, requests: Sequence[SettleRequest]) -> list[list[bool]]:
        tried = False

        async def work(session: OwnSession) -> list[list[bool]]:
            nonlocal tried
            again, tried = tried, True
            return await self._batch.finish(session, requests, again=again)

        return await self._sessions.attempt(work)

    async def _one_by_one(
        self,
        changes: Sequence[Change],
        ids: Sequence[Sequence[int]],
        claims: Sequence[ClaimRequest],
    ) -> list[Any]:
        """Each in a transaction of its own, so that nobody's error touches a neighbour."""
        answers: list[Any] = []
        busy: StoreBusyError | None = None
        for change, own in zip(changes, ids, strict=True):
            # Patience is for all of them together, not for each.
            answers.append(busy or await self._alone([change], [own], []))
            if isinstance(answers[-1], StoreBusyError):
                busy = answers[-1]
        return [await self._alone([], [], [one]) for one in claims] + answers

    async def _alone(
        self,
        changes: Sequence[Change],
        ids: Sequence[Sequence[int]],
        claims: Sequence[ClaimRequest],
    ) -> Any:
        try:
            return (await self._together(changes, ids, claims))[0]
        except KvQueueError as error:
            return error
        except Exception as error:  # noqa: BLE001 because it is this caller's answer
            return cannot_be_stored(self._sessions.server, error)


def _settling(changes: Sequence[Change]) -> list[SettleRequest]:
    return [one for one in changes if isinstance(one, SettleRequest)]


def _is_of_one(error: KvQueueError) -> bool:
    """Whether one of the batch may be to blame, and not the server."""
    return not isinstance(error, StoreBusyError)


def _tell_of_claims(claims: Sequence[ClaimRequest], answers: Sequence[Any]) -> None:
    for request, answer in zip(claims, answers, strict=False):
        if isinstance(answer, Claimed) and request.taken:
            request.taken(answer)


def _written(requests: Sequence[Request], answers: list[Any]) -> Written:
    changed, keys_changed = may_change(requests)
    claimed = [one for one in answers if isinstance(one, Claimed)]
    sent = sum(len(one.sends) for one in requests if isinstance(one, AtomicWrite))
    settles = any(not isinstance(one, ClaimRequest) and one.settlements for one in requests)
    taken = sum(len(one.claims) for one in claimed)
    # Of several types more are locked than are taken, and others have passed over them.
    crowded = any(isinstance(one, ClaimRequest) and len(one.wanted) > 1 for one in requests)
    return Written(
        answers,
        changed,
        keys_changed,
        changed and (settles or crowded or taken < sent),
        any(one.made_ready for one in claimed),
    )
