"""Writes down how claims ended, many in one go, until the store has taken them."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from kvqueue_fastapi.message import Hold
from kvqueue_fastapi.model import Outcome, Settlement
from kvqueue_fastapi.store.base import Store

log = logging.getLogger("kvqueue_fastapi")

BACKOFF_S: Final = (0.2, 0.5, 2.0)
"""How long to wait after the first, second, … refusal in a row: each is logged."""


class Settler:
    """Takes settlements from handlers that have ended, and keeps trying to store them.

    A hold leaves `holds` only when that is done, so that its lease is kept meanwhile.
    """

    def __init__(self, store: Store, holds: dict[int, Hold]) -> None:
        self._store = store
        self._holds = holds
        self._ended: list[Settlement] = []
        self._some = asyncio.Event()
        self._finish = asyncio.Event()
        self._written = asyncio.Event()
        self._written.set()
        self._refusals = 0

    def add(self, settlement: Settlement) -> None:
        """Take one in; it is written with whatever else has come by then."""
        self._ended.append(settlement)
        self._written.clear()
        self._some.set()

    async def until_written(self, within_s: float) -> None:
        """Wait until all that came is written, or for so long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._written.wait(), within_s)

    async def run(self) -> None:
        """Write what comes, until `finish`."""
        while self._ended or not self._finish.is_set():
            await self._some.wait()
            self._some.clear()
            ended, self._ended = self._ended, []
            if ended and not await self._write(ended) and self._finish.is_set():
                return
            if not self._ended:
                self._written.set()

    def finish(self) -> None:
        """Let `run` end when all is written, or when the store refuses."""
        self._finish.set()
        self._some.set()

    async def _write(self, ended: Sequence[Settlement]) -> bool:
        # After a refusal each by itself: one that lies on a damaged page holds up no other.
        parts = [[one] for one in ended] if self._refusals else [ended]
        answers = await asyncio.gather(*map(self._store.settle, parts), return_exceptions=True)
        refused: list[Settlement] = []
        error: Exception | None = None
        for part, answer in zip(parts, answers, strict=True):
            if isinstance(answer, Exception):
                refused += part
                error = answer
            elif isinstance(answer, BaseException):
                raise answer
            else:
                self._let_go(part, answer)
        if error is None:
            self._refusals = 0
            return True
        await self._take_back(refused, error)
        return False

    def _let_go(self, settled: Sequence[Settlement], held: Sequence[bool]) -> None:
        for settlement, was_held in zip(settled, held, strict=True):
            hold = self._holds.get(settlement.id)
            if hold is not None and hold.claim.token == settlement.token:
                # Else this process has claimed it anew, after a lease that was lost.
                del self._holds[settlement.id]
            if not was_held and settlement.outcome is not Outcome.RELEASE:
                with suppress(Exception):  # no log that fails may end it
                    log.warning(
                        "Message %d was settled too late: its lease was lost, and another "
                        "process may have handled it as well",
                        settlement.id,
                    )

    async def _take_back(self, refused: Sequence[Settlement], error: Exception) -> None:
        is_last = self._finish.is_set()
        with suppress(Exception):  # no log that fails may end it
            log.error(
                "%d messages could not be settled; %s",
                len(refused),
                "they come again" if is_last else "the listener tries again",
                exc_info=error,
            )
        if is_last:
            # Nobody prolongs them any more, so that they come again soon.
            for settlement in refused:
                self._holds.pop(settlement.id, None)
        else:
            self._ended = [*refused, *self._ended]
            await self._rest()
            self._some.set()

    async def _rest(self) -> None:
        pause_s = BACKOFF_S[min(self._refusals, len(BACKOFF_S) - 1)]
        self._refusals += 1
        with suppress(TimeoutError):
            await asyncio.wait_for(self._finish.wait(), pause_s)
