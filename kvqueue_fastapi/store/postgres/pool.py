"""A pool of connections, without what each use of a general one costs.

Taking a free connection and giving it back take no turn of the event loop and no round trip:
asyncpg's own pool takes as long for it as for the statement in between.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from kvqueue_fastapi.errors import KvQueueClosedError


class Pool:
    """Connections to one server; all within one event loop.

    Args:
        connect: makes a connection.
        size: how many at the most.
    """

    def __init__(self, connect: Callable[[], Awaitable[Any]], size: int) -> None:
        self._connect = connect
        self._size = size
        self._idle: list[Any] = []
        self._busy: set[Any] = set()
        self._count = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._called = 0  # whose turn it is, before they go on: nobody comes before them
        self._closed = False

    async def take(self, timeout_s: float) -> Any:
        """Give a connection to one hand; the one used last, so that others may grow old.

        Raises:
            TimeoutError: all are in use.
        """
        if not self._closed and len(self._idle) + self._size - self._count <= self._called:
            await self._wait(timeout_s)
        if self._closed:
            raise KvQueueClosedError
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                self._busy.add(connection)
                return connection
            self._count -= 1
        return await self._make()

    def give_back(self, connection: Any) -> None:
        """Let others have it, unless it is closed."""
        self._busy.discard(connection)
        if connection.is_closed() or self._closed:
            connection.terminate()
            self._count -= 1
        else:
            self._idle.append(connection)
        self._call_next()

    def suspect(self) -> None:
        """Let go of all that are idle: what has cut one may have cut them."""
        for connection in self._idle:
            connection.terminate()
        self._count -= len(self._idle)
        self._idle.clear()

    def close(self) -> None:
        """Let go of every connection, whoever uses it."""
        self._closed = True
        self.suspect()
        for connection in self._busy:
            connection.terminate()
        while self._waiting:
            self._call_next()

    async def _make(self) -> Any:
        self._count += 1
        try:
            connection = await self._connect()
        except BaseException:
            self._count -= 1
            self._call_next()
            raise
        self._busy.add(connection)
        return connection

    async def _wait(self, timeout_s: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(timeout_s):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._called -= 1
                self._call_next()  # it was this one's turn, and is somebody's still
            raise
        self._called -= 1

    def _call_next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._called += 1
                return
