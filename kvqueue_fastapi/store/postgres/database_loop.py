"""The event loop that talks to the server, in a thread of its own.

It goes on while the app's event loop is blocked, which is what the lease keeper needs.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from kvqueue_fastapi.errors import KvQueueClosedError

R = TypeVar("R")
Work = Callable[[], Coroutine[Any, Any, R]]

END_S: Final = 5.0


class DatabaseLoop:
    """Runs coroutines in a thread of its own, for callers elsewhere."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._closing = threading.Lock()
        # A daemon, because a process that forgets to close must still be able to exit.
        self._thread = threading.Thread(target=self._main, name="kvqueue-database", daemon=True)
        self._thread.start()

    def soon(self, call: Callable[[], None]) -> None:
        """Have a function called there; any thread may ask.

        Raises:
            KvQueueClosedError: nobody is there any more.
        """
        # Locked, because what comes behind the end would never be called.
        with self._closing:
            if self._closed:
                raise KvQueueClosedError
            self._loop.call_soon_threadsafe(call)

    def keep(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task; only from within."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def run(self, work: Work[R]) -> R:
        """Run `work` there and await what it returns.

        A cancelled caller does not stop it: SQL cannot be cancelled.

        Raises:
            KvQueueClosedError: it was not done when the thread came to its end.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()

        def done(result: R | None, error: BaseException | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody is waiting
                loop.call_soon_threadsafe(_settle, future, result, error)

        self._start(work, done)
        return await future

    def call(self, work: Work[R]) -> R:
        """Run `work` there, and block until it is done; from any other thread."""
        future: Future[Any] = Future()

        def done(result: R | None, error: BaseException | None) -> None:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self._start(work, done)
        result: R = future.result()
        return result

    def close(self, finish: Work[None]) -> None:
        """Run what ends the connections, then end the thread. Fine to call twice."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(lambda: self.keep(self._end(finish)))
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _start(self, work: Work[R], done: Callable[[R | None, BaseException | None], None]) -> None:
        async def main() -> None:
            try:
                result = await work()
            except asyncio.CancelledError:  # by the end of this thread, and by nobody else
                done(None, KvQueueClosedError())
            except BaseException as error:  # noqa: BLE001 because it belongs to the caller
                done(None, error)
            else:
                done(result, None)

        self.soon(lambda: (self.keep(main()), None)[1])

    async def _end(self, finish: Work[None]) -> None:
        try:
            # The thread must end, whatever the server does.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(END_S):
                    await finish()
        finally:
            self._loop.stop()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            for task in (tasks := list(self._tasks)):
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        finally:
            self._loop.close()


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():  # its caller was cancelled
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
