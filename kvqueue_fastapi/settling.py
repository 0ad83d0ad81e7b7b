"""Writes down how claims ended, many in one go, until the store has taken them."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from kvqueue_fastapi.message import Hold
from kvqueue_fastapi.model import Outcome, Settlement
from kvqueue_fastapi.store.base import Store

log = logging.getLogger("kvqueue_fastapi")

BACKOFF_S: Final = 0.2


class Settler:
    """Takes settlements from handlers that have ended, and keeps trying to store them.

    A hold leaves `holds` only when that is done, so that its lease is kept meanwhile.
    """

    def __init__(self, store: Store, holds: dict[int, Hold]) -> None:
        self._store = store
        self._holds = holds
        self._ended: list[Settlement] = []
        self._some = asyncio.Event()
        self._finishing = False

    def add(self, settlement: Settlement) -> None:
        """Take one in; it is written with whatever else has come by then."""
        self._ended.append(settlement)
        self._some.set()

    async def run(self) -> None:
        """Write what comes, until `finish`."""
        while self._ended or not self._finishing:
            await self._some.wait()
            self._some.clear()
            ended, self._ended = self._ended, []
            if ended and not await self._write(ended) and self._finishing:
                return

    def finish(self) -> None:
        """Let `run` end when all is written, or when the store refuses."""
        self._finishing = True
        self._some.set()

    async def _write(self, ended: Sequence[Settlement]) -> bool:
        try:
            held = await self._store.settle(ended)
        except Exception:
            log.exception(
                "%d messages could not be settled; %s",
                len(ended),
                "they come again" if self._finishing else "the listener tries again",
            )
            if self._finishing:
                # Nobody prolongs them any more, so that they come again soon.
                for settlement in ended:
                    self._holds.pop(settlement.id, None)
            else:
                self._ended = [*ended, *self._ended]
                await asyncio.sleep(BACKOFF_S)
                self._some.set()
            return False
        for settlement, was_held in zip(ended, held, strict=True):
            hold = self._holds.get(settlement.id)
            if hold is not None and hold.claim.token == settlement.token:
                # Else this process has claimed it anew, after a lease that was lost.
                del self._holds[settlement.id]
            if not was_held and settlement.outcome is not Outcome.RELEASE:
                log.warning(
                    "Message %d was settled too late: its lease was lost, and another process "
                    "may have handled it as well",
                    settlement.id,
                )
        return True
