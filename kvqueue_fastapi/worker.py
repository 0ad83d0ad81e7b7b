"""A process that only listens: an app's queue and what its lifespan sets up, without HTTP."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from fastapi import FastAPI

from kvqueue_fastapi.errors import NotInstalledError
from kvqueue_fastapi.lifespan import STATE_KEY, Choice, Runtime
from kvqueue_fastapi.module import KvQueueModule
from kvqueue_fastapi.urls import shown_url

log = logging.getLogger("kvqueue_fastapi")

ONE_WISH_S: Final = 0.5
"""Signals that come so soon after the first say the same: Ctrl+C reaches a worker and whoever
started it, which then sends SIGTERM."""
LINGER_S: Final = 1.0
"""How long threads that outlived the drain have until they end with the process."""
MOST_NAMED: Final = 20
"""Message types that the line at the start names."""
STOPPING: Final = (signal.SIGTERM, signal.SIGINT)


class Worker:
    """Handles the messages of an app's queue, in this process, until it is told to stop.

    It listens whatever the setting `listen` says: that is the web process's.

    Args:
        target: an app with a `KvQueueModule`, whose own lifespan then runs as in the web process;
            or such a module by itself.
        concurrency: messages handled at once in this process; None: the setting.
        types: the message types that are handled in this process, or what chooses them among all
            that have a handler, when those are known; None: all of them. Others are left,
            whatever the setting `unhandled` says.
        url: of another store than that of the app; None: that of the app.

    Raises:
        NotInstalledError: the app has no queue.
        KvQueueError: another module came later in the container and won.
        pydantic.ValidationError: `concurrency` is outside its limits.
    """

    def __init__(
        self,
        target: FastAPI | KvQueueModule,
        *,
        concurrency: int | None = None,
        types: Sequence[str] | Choice | None = None,
        url: str | None = None,
    ) -> None:
        self._target = target
        self._runtime = runtime_of(target)
        self._runtime.overrule(listen=True)
        if concurrency is not None:
            self._runtime.overrule(concurrency=concurrency)
        if url is not None:
            self._runtime.overrule(url=url)
        if types is not None:
            self._runtime.overrule(unhandled="leave")
            self._runtime.handle_only(types if callable(types) else lambda _handled: types)
        self._stopped_at: float | None = None

    def run(self) -> None:
        """Listen until SIGTERM or SIGINT, then drain as an app does at its shutdown.

        A second signal, `ONE_WISH_S` later at the earliest, ends the process at once, with 128 and
        its number. Where the root logger
        has no handler, it is given one that writes to stderr. Call it last, in the main thread:
        when it has drained, the process ends within `LINGER_S`, whatever threads run on.

        Raises:
            InvalidOptionError: nobody handles one of `types`; it names those that are handled.
            Exception: the start or the shutdown failed.
        """
        asyncio.run(self._work())

    async def _work(self) -> None:
        stop = asyncio.Event()
        self._heed_signals(stop)
        async with self._life():
            # After the start, in which the app may have set up its own.
            logging.basicConfig(
                level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
            )
            self._say_what_for()
            await stop.wait()
        _ignore_signals()
        log.info("Worker %d stopped", os.getpid())
        _end_soon()

    def _life(self) -> AbstractAsyncContextManager[Any]:
        if isinstance(self._target, FastAPI):
            return self._target.router.lifespan_context(self._target)
        return self._runtime.running()

    def _heed_signals(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()

        def heed(number: int, _frame: Any) -> None:
            if self._stopped_at is None:
                self._stopped_at = time.monotonic()
            elif time.monotonic() - self._stopped_at > ONE_WISH_S:
                os._exit(128 + number)
            loop.call_soon_threadsafe(stop.set)

        for number in STOPPING:
            # Wakes the event loop wherever the system delivers the signal; Windows does so anyway.
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, stop.set)
            # Beside the event loop, because a handler may block that.
            signal.signal(number, heed)

    def _say_what_for(self) -> None:
        where, types = shown_url(self._runtime.settings.url), self._runtime.types
        if not types:
            log.warning(
                "Worker %d has no handlers, so it leaves all messages at %s. Put its consumers "
                "into KvQueueModule(consumers=[…]).",
                os.getpid(),
                where,
            )
            return
        more = f" and {len(types) - MOST_NAMED} more" if len(types) > MOST_NAMED else ""
        named = ", ".join(types[:MOST_NAMED])
        log.info("Worker %d listens at %s to %s%s", os.getpid(), where, named, more)


def runtime_of(target: FastAPI | KvQueueModule) -> Runtime:
    """Give the queue of an app that a `KvQueueModule` is installed on, or of such a module.

    Raises:
        NotInstalledError: the app has no queue.
        KvQueueError: another module came later in the container and won.
    """
    if isinstance(target, KvQueueModule):
        return target.runtime()
    runtime = getattr(target.state, STATE_KEY, None)
    if not isinstance(runtime, Runtime):
        msg = (
            "This app has no queue. Call queue_module.install(app) where the app is made, or name "
            "the KvQueueModule itself."
        )
        raise NotInstalledError(msg)
    return runtime


def _ignore_signals() -> None:
    """Have none kill a process that is ending: whoever started it would take that for a failure."""
    loop = asyncio.get_running_loop()
    for number in STOPPING:
        with contextlib.suppress(NotImplementedError):
            loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


def _end_soon() -> None:
    """End the process although threads run on, such as that of a `def` handler that blocks.

    Without any, it ends before, in its usual way.
    """

    def end() -> None:
        with contextlib.suppress(Exception):  # nobody may be reading it any more
            sys.stdout.flush()
        os._exit(0)

    ending = threading.Timer(LINGER_S, end)
    ending.daemon = True
    ending.start()
