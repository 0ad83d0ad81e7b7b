"""Writes down how claims ended, many in one go, until the store has taken them."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from itertools import chain, repeat
from typing import Any, Final

from kvqueue_fastapi.deliveries import Deliveries
from kvqueue_fastapi.message import Hold
from kvqueue_fastapi.model import Outcome, Settlement
from kvqueue_fastapi.store.base import Store

log = logging.getLogger("kvqueue_fastapi")

BACKOFF_S: Final = (0.2, 0.5, 2.0)
"""How long to wait before what was refused is tried again: each time is logged."""


Ended = tuple[Hold, Settlement]
"""What a handler had in hand, and how that ended."""


class Settler:
    """Takes settlements from handlers that have ended, and keeps trying to store them.

    A hold leaves `holds` only when that is done, so that its lease is kept meanwhile. Nothing
    waits for what may have to wait itself: for the lock of an ordering key, or for a store that
    has refused it.

    Attributes:
        deliveries: takes note of what was written.
    """

    def __init__(self, store: Store, holds: dict[int, Hold], deliveries: Deliveries) -> None:
        self._store = store
        self.deliveries = deliveries
        self._holds = holds
        self._ended: list[Ended] = []
        self._refused: list[Ended] = []
        self._why: Exception | None = None
        self._given_up = 0
        self._has_refused = False  # while it was to finish
        self._is_trying_again = False
        self._under_way: set[asyncio.Task[None]] = set()
        self._some = asyncio.Event()
        self._finish = asyncio.Event()
        self._written = asyncio.Event()
        self._written.set()

    def add(self, hold: Hold, settlement: Settlement) -> None:
        """Take one in; it is written with whatever else has come by then."""
        self._ended.append((hold, settlement))
        self._written.clear()
        self._some.set()

    async def until_written(self, within_s: float) -> None:
        """Wait until all that came is written, or for so long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._written.wait(), within_s)

    async def run(self) -> None:
        """Write what comes, until `finish`."""
        try:
            while not (self._finish.is_set() and self._written.is_set()):
                await self._some.wait()
                self._some.clear()
                ended, self._ended = self._ended, []
                if self._has_refused:
                    self._give_up(ended)
                    self._note_written()
                elif ended:
                    await self._start(self._write(ended))
            if self._given_up:
                self._log_refusal(self._given_up, "they come again")
        finally:
            for task in self._under_way:
                task.cancel()

    def finish(self) -> None:
        """Let `run` end when all is written, or when the store refuses."""
        self._finish.set()
        self._some.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._is_over)
        return task

    def _is_over(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._note_written()

    def _note_written(self) -> None:
        if not (self._under_way or self._ended):
            self._written.set()
            if self._finish.is_set():
                self._some.set()

    async def _write(self, part: Sequence[Ended]) -> None:
        try:
            answers = await self._store.settle([settlement for _, settlement in part])
        except Exception as error:  # noqa: BLE001 because it is told of, and tried again
            self._has_refused = self._finish.is_set()
            self._take_back(part, error)
            return
        for ended, held in zip(part, answers, strict=True):
            if isinstance(held, bool):
                self._let_go(*ended, was_held=held)
            else:
                self._start(self._await(ended, held))

    async def _await(self, ended: Ended, held: asyncio.Future[bool]) -> None:
        try:
            # Shielded, because a handler that has ended stays ended, whoever is cancelled.
            self._let_go(*ended, was_held=await asyncio.shield(held))
        except Exception as error:  # noqa: BLE001 because it is told of, and tried again
            self._take_back([ended], error)

    async def _try_again(self) -> None:
        """Write what was refused, each by itself: one on a damaged page holds up no other."""
        pauses_s = chain(BACKOFF_S, repeat(BACKOFF_S[-1]))
        while self._refused:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._finish.wait(), next(pauses_s))
            refused, self._refused = self._refused, []
            if self._has_refused:
                self._give_up(refused)
                break
            self._log_refusal(len(refused), "the listener tries again")
            await asyncio.gather(*(self._write([one]) for one in refused))
        self._is_trying_again = False

    def _let_go(self, hold: Hold, settlement: Settlement, *, was_held: bool) -> None:
        if self._holds.get(settlement.id) is hold:
            # Else this process has claimed it anew: a retry that was due at once, or after a
            # lease that was lost.
            del self._holds[settlement.id]
        self.deliveries.ended(hold, settlement.outcome, was_held=was_held)
        if not was_held and settlement.outcome is not Outcome.RELEASE:
            with suppress(Exception):  # no log that fails may end it
                log.warning(
                    "Message %d was settled too late: its lease was lost, and another "
                    "process may have handled it as well",
                    settlement.id,
                )

    def _take_back(self, refused: Sequence[Ended], error: Exception) -> None:
        self._why = error
        if self._finish.is_set():
            self._give_up(refused)
            return
        self._refused += refused
        if not self._is_trying_again:
            self._is_trying_again = True
            self._start(self._try_again())

    def _give_up(self, refused: Sequence[Ended]) -> None:
        self._given_up += len(refused)
        # Nobody prolongs them any more, so that they come again soon.
        for _, settlement in refused:
            self._holds.pop(settlement.id, None)

    def _log_refusal(self, count: int, what_now: str) -> None:
        with suppress(Exception):  # no log that fails may end it
            log.error("%d messages could not be settled; %s", count, what_now, exc_info=self._why)
