"""Lines of writes, each batch of which is one transaction.

What is in one lane waits for no other: messages that are only sent wait for no lock, and a
flood of them holds up no settlement.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kvqueue_fastapi.errors import StoreBusyError
from kvqueue_fastapi.model import AtomicWrite, Claimed, Committed, Settlement
from kvqueue_fastapi.store.base import ClaimRequest, Held, Request, SettleRequest
from kvqueue_fastapi.store.effects import may_change, writes_keys
from kvqueue_fastapi.store.offers import Offers
from kvqueue_fastapi.store.postgres.batch import (
    HeldUp,
    PartlyHeldUp,
    held_up_by,
    is_only_sent,
    key_locks,
)
from kvqueue_fastapi.store.postgres.connection import Patience
from kvqueue_fastapi.store.postgres.database_loop import DatabaseLoop
from kvqueue_fastapi.store.postgres.held_up import HeldRequest, Lines
from kvqueue_fastapi.store.postgres.locks import StillHeldError
from kvqueue_fastapi.store.postgres.transactions import Transactions, Wait
from kvqueue_fastapi.store.writer import WriteBatch, Writer


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
        transactions: where they are applied.
        patience: for how long to wait for what callers have locked.
        tell: told of what was written, for this process.
        ring: the same, for others.

    Attributes:
        offers: claims that wait for something to claim.
    """

    def __init__(
        self,
        database: DatabaseLoop,
        transactions: Transactions,
        patience: Patience,
        tell: Tell,
        ring: Ring,
    ) -> None:
        self._transactions = transactions
        self._patience = patience
        self._tell = tell
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self.offers = Offers()
        self._held_up = Lines(database, patience, self._write_held, self._refuse)
        self._sends = Lane(database, self._write)
        self._writes = Lane(database, self._write)
        self._settlements = Lane(database, self._write)

    def commit(self, write: AtomicWrite) -> asyncio.Future[Committed]:
        """Write all of it durably, or nothing."""
        lane = self._sends if is_only_sent(write) else self._writes
        return lane.writer.submit(write, write.size_bytes)

    def settle(
        self, settlements: Sequence[Settlement], *, waits: bool = False
    ) -> asyncio.Future[list[Held]]:
        """End claims, each by itself."""
        # Dead letters write keys, and wait for those who write keys before them.
        lane = self._writes if any(map(writes_keys, settlements)) else self._settlements
        return lane.writer.submit(SettleRequest(settlements, waits))

    async def settle_now(self, settlements: Sequence[Settlement]) -> list[bool]:
        """`settle`, from within the database's event loop."""
        return [await self._settle_now(SettleRequest([one], waits=True)) for one in settlements]

    async def _settle_now(self, request: SettleRequest) -> bool:
        until = time.monotonic() + self._patience.seconds
        answer = (await self._transactions.apply([request]))[0]
        while isinstance(answer, HeldUp):
            try:
                wait = Wait(answer.lock, self._patience.lock_ms)
                answer = (await self._transactions.apply([request], wait))[0]
            except StillHeldError:
                if time.monotonic() > until:
                    raise
        if isinstance(answer, Exception):
            raise answer
        held: bool = answer[0]
        return held

    async def close(self) -> None:
        """Finish what was submitted, and take nothing more."""
        self.offers.close()
        for lane in (self._sends, self._writes, self._settlements):
            await lane.writer.close()

    async def _write(self, writer: Writer[Request]) -> None:
        batch = writer.take()
        if self._held_up.locks:
            self._set_apart(writer, batch, held_up_by(self._held_up.locks, batch.requests))
        if not batch.requests:  # who asked was cancelled, has the answer of those before, or waits
            self._on_loop(lambda: writer.answer(batch, ()))
            return
        taken_up: list[Callable[[], None]] = []
        try:
            taken_up = self.offers.take_up(batch)
            answers = await self._transactions.apply(batch.requests)
            held_up = _held_up(answers)
            if held_up:
                answers = [one for place, one in enumerate(answers) if place not in held_up]
                self._set_apart(writer, batch, held_up)
        except BaseException as error:  # noqa: BLE001 because it is every caller's answer
            if isinstance(error, StoreBusyError):
                writer.join(batch)
            answers = [error] * len(batch.futures)
            written, taken_up = Written(answers, False, False, False, False), []
        else:
            written = _written(batch.requests, answers)
            self._ring(written)
        self._on_loop(lambda: self._answer(writer, batch, written, taken_up))

    def _set_apart(
        self, writer: Writer[Request], batch: WriteBatch[Request], held_up: Mapping[int, HeldUp]
    ) -> None:
        """Have the requests at these places wait, and none of the others for them."""
        since = time.monotonic()
        gone = batch.take_out(held_up)
        for by, request, future in zip(held_up.values(), gone.requests, gone.futures, strict=True):
            size_bytes = request.size_bytes if isinstance(request, AtomicWrite) else 0
            self._held_up.add(HeldRequest(request, future, writer, by.lock, size_bytes, since))

    async def _write_held(self, batch: Sequence[HeldRequest], within_ms: int) -> list[HeldRequest]:
        requests = [one.request for one in batch]
        try:
            answers = await self._transactions.apply(requests, Wait(batch[0].lock, within_ms))
        except StillHeldError as error:
            return [batch[0]._replace(lock=error.lock), *batch[1:]]
        except BaseException as error:  # noqa: BLE001 because it is every caller's answer
            self._refuse(batch, error)
            return []
        still = _held_up(answers)
        done = [one for place, one in enumerate(batch) if place not in still]
        own = [one for place, one in enumerate(answers) if place not in still]
        written = _written([one.request for one in done], own)
        self._ring(written)
        self._on_loop(lambda: self._answer_held(done, written))
        return [
            batch[place]._replace(lock=by.lock)
            if by.lock in key_locks(requests[place])
            else batch[place]
            for place, by in still.items()
        ]

    def _refuse(self, batch: Sequence[HeldRequest], error: BaseException) -> None:
        if not batch:
            return
        written = Written([error] * len(batch), False, False, False, False)
        self._on_loop(lambda: self._answer_held(batch, written))

    def _answer_held(self, batch: Sequence[HeldRequest], written: Written) -> None:
        try:
            self._tell(written, [])
        finally:
            for writer in {one.writer for one in batch}:
                part: WriteBatch[Request] = WriteBatch()
                answers: list[Any] = []
                for held, answer in zip(batch, written.answers, strict=True):
                    if held.writer is writer:
                        part.add(held.request, held.future)
                        answers.append(answer)
                part.taken = len(answers)
                writer.answer(part, answers)

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
            for place, answer in enumerate(written.answers):
                if isinstance(answer, PartlyHeldUp):
                    written.answers[place] = self._completed(batch.requests[place], answer)
            writer.answer(batch, written.answers)

    def _completed(self, request: Request, answer: PartlyHeldUp) -> list[Held]:
        """The answer to settlements, with the tasks of those that have to wait."""
        settlements = () if isinstance(request, ClaimRequest) else request.settlements
        return [
            self._loop.create_task(self._settle(settlement)) if isinstance(one, HeldUp) else one
            for settlement, one in zip(settlements, answer, strict=True)
        ]

    async def _settle(self, settlement: Settlement) -> bool:
        (held,) = await self.settle([settlement], waits=True)
        return held is True

    def _on_loop(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # it was closed: nobody is left there
            return


def _held_up(answers: Sequence[Any]) -> dict[int, HeldUp]:
    return {
        place: HeldUp(one.lock)
        for place, one in enumerate(answers)
        if isinstance(one, HeldUp | StillHeldError)
    }


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
