"""Group commit without a timer, the same for every engine.

Whatever arrives while one commit runs goes into the next, so that a hundred senders share one
flush of the disk and a lone one waits for nobody.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from kvqueue_fastapi.errors import KvQueueClosedError, StoreBusyError

MAX_BATCH: Final = 1_000
MAX_BATCH_BYTES: Final = 4 * 1024 * 1024

Request = TypeVar("Request")
Apply = Callable[[Sequence[Request]], Awaitable[Sequence[Any]]]


class Writer(Generic[Request]):
    """Gathers requests into batches and gives each caller its own answer.

    Args:
        apply: makes one durable transaction of a batch. Returns, in order, the answer to each
            request, or the exception that is its answer. What it raises answers them all.
    """

    def __init__(self, apply: Apply[Request]) -> None:
        self._apply = apply
        self._waiting: deque[tuple[Request, int, asyncio.Future[Any]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

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
        self._waiting.append((request, size_bytes, future))
        if self._task is None:
            # In an empty context: it outlives the request that happened to come first.
            self._task = self._loop.create_task(self._write(), context=contextvars.Context())
        return future

    async def close(self) -> None:
        """Take nothing more, and finish what was taken."""
        self._closed = True
        if self._task is not None:
            await asyncio.shield(self._task)

    async def _write(self) -> None:
        try:
            while self._waiting:
                await self._write_batch()
                # Whoever was just answered may come back at once: one more round gathers them.
                await asyncio.sleep(0)
        finally:
            self._task = None

    async def _write_batch(self) -> None:
        requests, futures = self._next_batch()
        if not requests:
            return
        behind = len(self._waiting)
        try:
            answers = await self._apply(requests)
        except StoreBusyError as error:
            # Whoever was there from the beginning has waited as long for the same lock.
            futures += [self._waiting.popleft()[2] for _ in range(behind)]
            answers = [error] * len(futures)
        except Exception as error:  # noqa: BLE001 because it is every caller's answer
            answers = [error] * len(futures)
        except BaseException:
            # The event loop is ended by force; nobody will ever answer them.
            for future in futures:
                future.cancel()
            raise
        for future, answer in zip(futures, answers, strict=True):
            _answer(future, answer)

    def _next_batch(self) -> tuple[list[Request], list[asyncio.Future[Any]]]:
        requests: list[Request] = []
        futures: list[asyncio.Future[Any]] = []
        room_bytes = MAX_BATCH_BYTES
        while self._waiting and len(requests) < MAX_BATCH:
            request, size_bytes, future = self._waiting[0]
            if future.cancelled():
                # Nobody waits for it, and those behind it do.
                self._waiting.popleft()
                continue
            if requests and size_bytes > room_bytes:
                break
            room_bytes -= size_bytes
            self._waiting.popleft()
            requests.append(request)
            futures.append(future)
        return requests, futures


def _answer(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():  # its caller was cancelled; what was written stays written
        return
    if isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)
