"""Huey on SQLite: a task is deleted as a worker takes it, so that it runs at most once."""

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


class Huey:
    def __init__(self, path: Path, handled: Handled) -> None:
        from huey import SqliteHuey

        self.huey: Any = SqliteHuey(filename=str(path), results=False)

        @self.huey.task()
        def order_created(message: dict[str, Any]) -> None:
            handled()

        self.task: Any = order_created

    def send(self) -> object:
        return self.task(MESSAGE)

    def fill(self, count: int) -> None:
        tasks = [(self.huey.name, self._packed()) for _ in range(count)]
        with self.huey.storage.db(commit=True) as cursor:
            cursor.executemany("INSERT INTO task (queue, data, priority) VALUES (?, ?, 0)", tasks)

    def _packed(self) -> bytes:
        return self.huey.serialize_task(self.task.s(MESSAGE))

    @contextmanager
    def handling(self) -> Iterator[None]:
        # one worker: they share a connection, so that more only wait for each other
        consumer = self.huey.create_consumer(workers=1, periodic=False)
        consumer.start()
        try:
            yield
        finally:
            consumer.stop(graceful=True)


@contextmanager
def opened(directory: Path, handled: Handled) -> Iterator[Huey]:
    peer = Huey(directory / "huey.db", handled)
    yield peer
    peer.huey.storage.close()


ROWS: list[Row] = threaded.rows(
    "huey",
    "each commit synced; lost if its worker dies",
    opened,
    partial(not_installed, "huey"),
    Sizes("huey (SQLite)", depths=DEPTHS, latencies=100, gap_s=0.1),
)
