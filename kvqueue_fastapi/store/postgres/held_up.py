"""Requests whose keys a caller's transaction has: they wait for its end, and nobody for them.

They stand in line for one lock, the first of them in the server's queue.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple

from kvqueue_fastapi.store.base import Request
from kvqueue_fastapi.store.postgres.connection import Patience
from kvqueue_fastapi.store.postgres.database_loop import DatabaseLoop
from kvqueue_fastapi.store.postgres.locks import StillHeldError
from kvqueue_fastapi.store.postgres.sessions import WAITING_SIZE
from kvqueue_fastapi.store.writer import MAX_BATCH, MAX_BATCH_BYTES, Writer

_SHORTEST_WAIT_MS: Final = 50


class HeldRequest(NamedTuple):
    """A request that could not be written with the others of its batch.

    Attributes:
        request: it.
        future: of its answer.
        writer: where it was handed in.
        lock: the number of the one that it waits for.
        size_bytes: about what it takes.
        since: when it began to wait, on `time.monotonic`.
    """

    request: Request
    future: asyncio.Future[Any]
    writer: Writer[Request]
    lock: int
    size_bytes: int
    since: float


Write = Callable[[Sequence[HeldRequest], int], Awaitable[list[HeldRequest]]]
"""Writes a batch when it has the locks of the first one, for which it waits so many milliseconds.
Returns those that are still held up; the others are answered. It must not raise."""

Refuse = Callable[[Sequence[HeldRequest], BaseException], None]
"""Has those who asked told why nothing was written."""


class Lines:
    """A line for each lock that somebody waits for.

    Args:
        database: where they wait.
        patience: for how long.
        write: does it when it is a batch's turn.
        refuse: tells those who wait no longer.
    """

    def __init__(
        self, database: DatabaseLoop, patience: Patience, write: Write, refuse: Refuse
    ) -> None:
        self._database = database
        self._patience = patience
        self._write = write
        self._refuse = refuse
        self._lines: dict[int, deque[HeldRequest]] = {}
        self._seats = asyncio.Semaphore(WAITING_SIZE)

    @property
    def locks(self) -> AbstractSet[int]:
        """Those that somebody waits for: who needs one as well comes behind him."""
        return self._lines.keys()

    def add(self, held: HeldRequest) -> None:
        """Have it wait behind those who wait for the same lock."""
        if held.lock not in self._lines:
            self._lines[held.lock] = deque()
            self._database.keep(self._run(held.lock))
        self._lines[held.lock].append(held)

    async def _run(self, lock: int) -> None:
        try:
            while line := self._lines[lock]:
                async with self._seats:
                    await self._write_next(lock, line)
        finally:
            del self._lines[lock]

    async def _write_next(self, lock: int, line: deque[HeldRequest]) -> None:
        withdrawn, batch = _parted(_next_of(line), lambda one: one.future.cancelled())
        self._refuse(withdrawn, asyncio.CancelledError())
        still = await self._write(batch, self._wait_ms()) if batch else []
        here, elsewhere = _parted(still, lambda one: one.lock == lock)
        if here:
            # Those behind them have waited as long.
            here += line
            line.clear()
        until = time.monotonic() - self._patience.seconds
        tired, again = _parted([*here, *elsewhere], lambda one: one.since <= until)
        self._refuse(tired, StillHeldError(lock))
        for held in again:
            self.add(held)

    def _wait_ms(self) -> int:
        """All have their turns in the time that one may wait, where connections do not suffice."""
        share = min(1.0, WAITING_SIZE / len(self._lines))
        return max(_SHORTEST_WAIT_MS, round(self._patience.lock_ms * share))


def _next_of(line: deque[HeldRequest]) -> list[HeldRequest]:
    batch: list[HeldRequest] = []
    room_bytes = MAX_BATCH_BYTES
    while line and len(batch) < MAX_BATCH:
        room_bytes -= line[0].size_bytes
        if batch and room_bytes < 0:
            break
        batch.append(line.popleft())
    return batch


def _parted(
    requests: Iterable[HeldRequest], is_of: Callable[[HeldRequest], bool]
) -> tuple[list[HeldRequest], list[HeldRequest]]:
    """Those of which it is true, and the others."""
    found: tuple[list[HeldRequest], list[HeldRequest]] = ([], [])
    for one in requests:
        found[not is_of(one)].append(one)
    return found
