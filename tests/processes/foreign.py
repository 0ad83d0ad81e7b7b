"""What a program that knows nothing of this package sees of the database, and does to it."""

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import asyncpg

Rows = list[tuple[Any, ...]]


class Foreign(Protocol):
    """A foreign program at one database.

    Attributes:
        url: of the database, as this package takes it.
    """

    url: str

    def rows(self, statement: str) -> Rows: ...

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Let nobody commit a change of messages meanwhile."""
        yield

    def is_passable(self) -> bool:
        """Whether no process that stands still is in the middle of a transaction."""
        ...

    def assert_sound(self) -> None: ...

    def close(self) -> None: ...


class ForeignSqlite:
    def __init__(self, file: Path) -> None:
        self.url = str(file)

    def rows(self, statement: str) -> Rows:
        with closing(sqlite3.connect(self.url, timeout=10)) as connection:
            return connection.execute(statement).fetchall()

    @contextmanager
    def lock(self) -> Iterator[None]:
        with closing(sqlite3.connect(self.url, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("COMMIT")

    def is_passable(self) -> bool:
        # Long enough for a commit that is still under way to come to its end.
        with closing(sqlite3.connect(self.url, timeout=0.1)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
        return True

    def assert_sound(self) -> None:
        assert self.rows("PRAGMA integrity_check") == [("ok",)]

    def close(self) -> None:
        pass


class ForeignPostgres:
    """It talks to the server on a thread, because a test has an event loop of its own."""

    REST_S = 0.05
    """How long a transaction may wait for the next word of a process that is not frozen."""
    RESTING = """SELECT pid FROM pg_stat_activity
                  WHERE datname = current_database() AND state = 'idle in transaction'
                    AND state_change < clock_timestamp() - make_interval(secs => 0.04)"""

    def __init__(self, url: str) -> None:
        self.url = url
        self._thread = ThreadPoolExecutor(1)
        self._runner = asyncio.Runner()
        self._connection: Any = None

    def rows(self, statement: str) -> Rows:
        return [tuple(row) for row in self._do("fetch", statement)]

    @contextmanager
    def lock(self) -> Iterator[None]:
        self._do("execute", "BEGIN; LOCK TABLE kvqueue_messages IN EXCLUSIVE MODE")
        yield
        self._do("execute", "COMMIT")

    def is_passable(self) -> bool:
        time.sleep(self.REST_S)
        return not self.rows(self.RESTING)

    def assert_sound(self) -> None:
        pass  # its pages have checksums, which every read looks at

    def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()

    def _do(self, method: str, statement: str) -> Any:
        return self._thread.submit(self._runner.run, self._done(method, statement)).result()

    async def _done(self, method: str, statement: str) -> Any:
        if self._connection is None:
            self._connection = await asyncpg.connect(
                self.url, server_settings={"search_path": "kvqueue"}
            )
        return await getattr(self._connection, method)(statement)
