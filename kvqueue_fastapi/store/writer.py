"""Group commit without a timer, the same for every engine.

Whatever arrives while one commit runs goes into the next, so that a hundred senders share one
flush of the disk and a lone one waits for nobody.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Container, Sequence
from typing import Any, Final, Generic, TypeVar

from kvqueue_fastapi.errors import KvQueueClosedError

MAX_BATCH: Final = 1_000
MAX_BATCH_BYTES: Final = 4 * 1024 * 1024
SLICE: Final = 100
"""How many callers go on in one round of the event loop, which has others to look after."""

Request = TypeVar("Request")
Apply = Callable[[Sequence[Request]], Awaitable[Sequence[Any]]]


class WriteBatch(Generic[Request]):
    """What is written together, and who waits for it.

    Attributes:
        requests: in the order in which they came.
        futures: of their answers, in the same order.
        taken: how many requests left the line for it, with those that were withdrawn.
        behind: how many stood in line behind it.
    """

    __slots__ = ("behind", "futures", "requests", "taken")

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.futures: list[asyncio.Future[Any]] = []
        self.taken = self.behind = 0

    def take_out(self, places: Container[int]) -> "WriteBatch[Request]":
        """Take out what stands at these places, as a batch of its own."""
        gone: WriteBatch[Request] = WriteBatch()
        pairs = list(zip(self.requests, self.futures, strict=True))
        self.requests, self.futures = [], []
        for place, (request, future) in enumerate(pairs):
            (gone if place in places else self).add(request, future)
        gone.taken = len(gone.requests)
        self.taken -= gone.taken
        return gone

    def add(self, request: Request, future: asyncio.Future[Any]) -> None:
        """Put a request at its end."""
        self.requests.append(request)
        self.futures.append(future)


class Writer(Generic[Request]):
    """Gathers requests into batches and gives each caller its own answer.

    Callers submit on the event loop. Whoever writes, be it a task or a thread, takes one batch
    after another; the answers are given on the event loop.

    Args:
        begin: has somebody `take` a batch soon. What comes until then goes into it.
    """

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin
        self._waiting: deque[tuple[Request, int, asyncio.Future[Any]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._begun = False
        self._open = 0
        self._closed = False
        self._finished = asyncio.Event()

    def submit(self, request: Request, size_bytes: int = 0) -> asyncio.Future[Any]:
        """Hand in a request.

        Args:
            request: what to write.
            size_bytes: about what it takes.

        Returns: its answer. Cancelling it withdraws the request, unless its batch has begun.
        """
        if self._closed:
            raise KvQueueClosedError
        future: asyncio.Future[Any] = self._loop.create_future()
        self._open += 1
        self._waiting.append((request, size_bytes, future))
        # In this order: whoever takes, maybe in another thread, says so first and looks then.
        if not self._begun:
            self._begun = True
            self._begin()
        return future

    def take(self) -> WriteBatch[Request]:
        """Give the next batch to whoever writes, one at a time. It may be empty."""
        self._begun = False
        batch: WriteBatch[Request] = WriteBatch()
        requests, waiting = batch.requests, self._waiting
        room_bytes = MAX_BATCH_BYTES
        while waiting and len(requests) < MAX_BATCH:
            request, size_bytes, future = waiting[0]
            if requests and size_bytes > room_bytes:
                break
            waiting.popleft()
            batch.taken += 1
            if not future.cancelled():  # else nobody waits for it, and those behind it do
                room_bytes -= size_bytes
                batch.add(request, future)
        batch.behind = len(waiting)
        if batch.behind and not self._begun:
            self._begun = True
            self._begin()
        return batch

    def join(self, batch: WriteBatch[Request]) -> None:
        """Let those share a batch's answer who stood in line behind it, and waited as long."""
        batch.futures += [self._waiting.popleft()[2] for _ in range(batch.behind)]
        batch.taken += batch.behind
        batch.behind = 0

    def answer(self, batch: WriteBatch[Request], answers: Sequence[Any], start: int = 0) -> None:
        """Give each caller its answer, on the event loop; an exception is raised there."""
        end = start + SLICE
        for future, answer in zip(batch.futures[start:end], answers[start:end], strict=True):
            if future.done():  # its caller was cancelled; what was written stays written
                continue
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        if end < len(batch.futures):
            self._loop.call_soon(self.answer, batch, answers, end)
            return
        self._open -= batch.taken
        if self._closed and not self._open:
            self._finished.set()

    async def close(self) -> None:
        """Take nothing more, and finish what was taken."""
        self._closed = True
        if self._open:
            await self._finished.wait()


class TaskWriter(Writer[Request]):
    """A writer whose batches a task applies.

    Args:
        apply: returns, in order, the answer to each request, or the exception that is its
            answer. What it raises answers them all.
    """

    def __init__(self, apply: Apply[Request]) -> None:
        super().__init__(self._start)
        self._apply = apply
        self._task: asyncio.Task[None] | None = None

    def _start(self) -> None:
        if self._task is None:
            # In an empty context: it outlives the request that happened to come first.
            self._task = self._loop.create_task(self._write(), context=contextvars.Context())

    async def _write(self) -> None:
        try:
            while (batch := self.take()).taken:
                await self._write_batch(batch)
                # Whoever was just answered may come back at once: one more round gathers them.
                await asyncio.sleep(0)
        finally:
            self._task = None

    async def _write_batch(self, batch: WriteBatch[Request]) -> None:
        try:
            answers = await self._apply(batch.requests) if batch.requests else []
        except Exception as error:  # noqa: BLE001 because it is every caller's answer
            answers = [error] * len(batch.futures)
        except BaseException:
            # The event loop is ended by force; nobody will ever answer them.
            for future in batch.futures:
                future.cancel()
            raise
        self.answer(batch, answers)
