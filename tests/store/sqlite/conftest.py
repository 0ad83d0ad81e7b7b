"""One file on disk, looked at by other programs as well."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import AnyStore, open_store
from tests.store.given import ManualClock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def settings() -> KvQueueSettings:
    return KvQueueSettings(max_crashes=3)


@pytest.fixture
async def store(
    path: Path, settings: KvQueueSettings, clock: ManualClock
) -> AsyncIterator[AnyStore]:
    store = await open_store(str(path), settings, clock)
    yield store
    await store.close()


@pytest.fixture
def foreign(store: AnyStore, path: Path) -> Iterator[sqlite3.Connection]:
    """Another program's connection to the same file."""
    with closing(
        sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    ) as connection:
        yield connection
