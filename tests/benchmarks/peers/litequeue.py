"""litequeue: one SQLite table, WAL with `synchronous = NORMAL`; its reader polls."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.peers import threaded
from tests.benchmarks.peers.handled import Handled
from tests.benchmarks.peers.message import TEXT
from tests.benchmarks.peers.sizes import DEPTHS, Sizes
from tests.benchmarks.rows import Row, not_installed

POLL_S = 0.01
"""It has no way to wait for a message, and names no interval."""


class Lite:
    def __init__(self, path: Path, handled: Handled) -> None:
        from litequeue import LiteQueue

        self.queue: Any = LiteQueue(str(path))
        self.path = path
        self.handled = handled
        # a connection may be used by several threads, but by one at a time
        self.lock = threading.Lock()

    def send(self) -> object:
        with self.lock:
            return self.queue.put(TEXT)

    def fill(self, count: int) -> None:
        with self.queue.transaction():
            for _ in range(count):
                self.queue.put(TEXT)

    @contextmanager
    def handling(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._work, args=[stop])
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _work(self, stop: threading.Event) -> None:
        from litequeue import LiteQueue

        queue: Any = LiteQueue(str(self.path))
        while not stop.is_set():
            message = queue.pop()
            if message is None:
                time.sleep(POLL_S)
                continue
            self.handled()
            self._done(queue, message)
        queue.conn.close()

    def _done(self, queue: Any, message: Any) -> None:
        # 0.9 names a message by its id alone; later versions by the claim too
        claim = getattr(message, "claim_id", None)
        queue.done(message.message_id, **({} if claim is None else {"claim_id": claim}))


@contextmanager
def opened(directory: Path, handled: Handled) -> Iterator[Lite]:
    peer = Lite(directory / "lite.db", handled)
    yield peer
    peer.queue.conn.close()


ROWS: list[Row] = threaded.rows(
    "litequeue",
    "not synced",
    opened,
    partial(not_installed, "litequeue"),
    Sizes("litequeue", depths=DEPTHS, handled=1_000, limit_s=25),
)
