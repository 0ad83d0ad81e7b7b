"""persist-queue on SQLite: with acknowledgement, and without (deleted as it is taken)."""

import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.peers import threaded
from tests.benchmarks.peers.handled import Handled
from tests.benchmarks.peers.message import MESSAGE
from tests.benchmarks.peers.sizes import DEPTHS, Sizes
from tests.benchmarks.rows import Row, not_installed

FILL = {
    True: "INSERT INTO ack_queue_default (data, timestamp, status) VALUES (?, ?, 0)",
    False: "INSERT INTO queue_default (data, timestamp) VALUES (?, ?)",
}


class Persisted:
    def __init__(self, directory: Path, handled: Handled, acknowledge: bool) -> None:  # noqa: FBT001
        self.directory = directory
        self.handled = handled
        self.acknowledge = acknowledge
        self.queue: Any = self._opened()

    def _opened(self) -> Any:
        from persistqueue import SQLiteAckQueue, SQLiteQueue

        kind = SQLiteAckQueue if self.acknowledge else SQLiteQueue
        return kind(str(self.directory), multithreading=True)

    def send(self) -> object:
        return self.queue.put(MESSAGE)

    def fill(self, count: int) -> None:
        row = (pickle.dumps(MESSAGE), time.time())
        with self.queue._putter as connection:
            connection.executemany(FILL[self.acknowledge], [row] * count)
        self.queue = self._opened()

    @contextmanager
    def handling(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._work, args=[stop])
        thread.start()
        try:
            yield
        finally:
            stop.set()
            # it waits for the next message
            self.send()
            thread.join()

    def _work(self, stop: threading.Event) -> None:
        while not stop.is_set():
            if self.acknowledge:
                message = self.queue.get(raw=True)
                self.handled()
                self.queue.ack(id=message["pqid"])
            else:
                self.queue.get()
                self.handled()


@contextmanager
def opened(directory: Path, handled: Handled) -> Iterator[Persisted]:
    yield Persisted(directory, handled, acknowledge=True)


@contextmanager
def opened_without(directory: Path, handled: Handled) -> Iterator[Persisted]:
    yield Persisted(directory, handled, acknowledge=False)


missing = partial(not_installed, "persistqueue")

ROWS: list[Row] = [
    *threaded.rows(
        "persist-queue",
        "each commit synced",
        opened,
        missing,
        Sizes("persist-queue", depths=DEPTHS, handled=5_000, limit_s=25),
    ),
    *threaded.rows(
        "persist-queue",
        "each commit synced; lost if its worker dies",
        opened_without,
        missing,
        Sizes("persist-queue (no acknowledgement)"),
    ),
]
