"""What the tests of copies share: pairs of stores, and another program's hand in each."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from kvqueue_fastapi import CopyProgress, KvQueueSettings, StoreCopy, copy_store
from kvqueue_fastapi.store import AnyStore, open_copy_source, open_store
from kvqueue_fastapi.store.copies import TABLES, Row
from tests.store.given import ManualClock

SETTINGS = KvQueueSettings(max_crashes=4)
DIRECTIONS = ("sqlite-postgres", "postgres-sqlite", "sqlite-sqlite", "postgres-postgres")


class Side(NamedTuple):
    """One of the two stores."""

    url: str
    settings: KvQueueSettings

    @property
    def is_sqlite(self) -> bool:
        return not self.url.startswith("postgresql://")

    def is_there(self) -> bool:
        """Whether there is such a file."""
        return Path(self.url).exists()

    @asynccontextmanager
    async def opened(self, clock: ManualClock) -> AsyncGenerator[AnyStore]:
        """The store, as an app has it."""
        store = await open_store(self.url, self.settings, clock)
        try:
            yield store
        finally:
            await store.close()

    def execute(self, statement: str, *values: Any) -> list[Row]:
        """Do what another program would. `{schema}` and ? are this engine's."""
        if self.is_sqlite:
            with closing(sqlite3.connect(self.url, isolation_level=None)) as foreign:
                return foreign.execute(statement.replace("{schema}.", ""), values).fetchall()
        for place in range(1, len(values) + 1):
            statement = statement.replace("?", f"${place}", 1)
        statement = statement.replace("{schema}", self.settings.postgres_schema)
        # On a thread, because the caller may be inside an event loop.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, self._executed(statement, *values)).result()

    async def _executed(self, statement: str, *values: Any) -> list[Row]:
        connection = await asyncpg.connect(self.url)
        try:
            return [tuple(row) for row in await connection.fetch(statement, *values)]
        finally:
            await connection.close()

    async def rows(self) -> dict[str, list[Row]]:
        """All of it, as a copy reads it."""
        source = await open_copy_source(self.url, self.settings)
        try:
            return {table.name: await source.read(table, None, 1_000_000) for table in TABLES}
        finally:
            await source.close()


class Pair(NamedTuple):
    """The source and the target of a copy."""

    source: Side
    target: Side

    async def copy(self, progress: Callable[[CopyProgress], None] | None = None) -> StoreCopy:
        """From the one to the other."""
        return await copy_store(
            self.source.url,
            self.target.url,
            settings=self.target.settings,
            source_settings=self.source.settings,
            progress=progress,
        )


class EndedError(Exception):
    """What a test ends a copy with."""


def ending_at(step: str, call: int) -> Callable[[CopyProgress], None]:
    """End a copy when it has told of so many slices of a step."""
    left = call

    def progress(told: CopyProgress) -> None:
        nonlocal left
        left -= told.step == step
        if left == 0:
            raise EndedError

    return progress
