"""The one thread that writes: it owns the connection, and runs whole functions on it.

A function is one hop between threads, whatever it does there; it goes on while the event loop
is blocked, which is what the lease keeper needs.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from kvqueue_fastapi.errors import KvQueueClosedError

R = TypeVar("R")

POLL_S: Final = 0.02
"""How often to look whether another process has committed."""

Done = Callable[[Any, BaseException | None], None]
Job = tuple[Callable[[sqlite3.Connection], Any], Done]


class DatabaseThread:
    """Runs functions on one connection, in the order in which they came.

    Args:
        connect: opens the connection, in the thread.
        check: called before each function; what it raises is the function's answer.
    """

    def __init__(
        self, connect: Callable[[], sqlite3.Connection], check: Callable[[], None]
    ) -> None:
        self._connect = connect
        self._check = check
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._watcher: Callable[[], None] | None = None
        self._seen = 0
        self._looked_at = 0.0
        self._closed = False
        self._closing = threading.Lock()
        # A daemon, because a process that forgets to close must still be able to exit.
        self._thread = threading.Thread(target=self._main, name="kvqueue-database", daemon=True)
        self._thread.start()

    def watch(self, changed: Callable[[], None] | None) -> None:
        """Call `changed` in this thread when another connection has committed."""
        self._watcher = changed
        self._jobs.put((lambda _: None, lambda _result, _error: None))

    async def run(self, job: Callable[[sqlite3.Connection], R]) -> R:
        """Run `job` on the connection and await what it returns.

        A cancelled caller does not stop the job: SQL cannot be cancelled.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()

        def done(result: R, error: BaseException | None) -> None:
            try:
                loop.call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:  # the loop was closed while the job ran: nobody is waiting
                return

        self._put((job, done))
        return await future

    def submit(self, job: Callable[[sqlite3.Connection], R], done: Done) -> None:
        """Run `job` on the connection, and `done` after it, in this thread.

        Args:
            job: what to run.
            done: takes what it returned, or None and the error that kept it from running or
                ended it. It must not raise.
        """
        self._put((job, done))

    def call(self, job: Callable[[sqlite3.Connection], R]) -> R:
        """Run `job` on the connection from any other thread, and block until it is done."""
        future: Future[R] = Future()

        def done(result: R, error: BaseException | None) -> None:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self._put((job, done))
        return future.result()

    def close(self) -> None:
        """Finish what was submitted, close the connection, end the thread."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _put(self, job: Job) -> None:
        # Locked, because a job behind the last one would never be answered.
        with self._closing:
            if self._closed:
                raise KvQueueClosedError
            self._jobs.put(job)

    def _main(self) -> None:
        connection: sqlite3.Connection | None = None
        while (job := self._next(connection)) is not None:
            function, done = job
            try:
                if connection is None:
                    connection = self._connect()
                self._check()
                result = function(connection)
            except BaseException as error:  # noqa: BLE001 because it belongs to the caller
                done(None, error)
            else:
                done(result, None)
        if connection is not None:
            connection.close()

    def _next(self, connection: sqlite3.Connection | None) -> Job | None:
        while True:
            if self._watcher is None or connection is None:
                return self._jobs.get()
            if time.monotonic() - self._looked_at >= POLL_S:
                self._look(connection)
            try:
                return self._jobs.get(timeout=POLL_S)
            except Empty:
                continue

    def _look(self, connection: sqlite3.Connection) -> None:
        self._looked_at = time.monotonic()
        try:
            # Our own commits do not move it, because they are made on this very connection.
            version = connection.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error:
            # Such as SQLITE_BUSY while another process recovers from a crash: the next look
            # tells, and an error that stays is told to whoever submits a job.
            return
        if version != self._seen:
            self._seen = version
            if self._watcher is not None:
                self._watcher()


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():  # its caller was cancelled
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
