"""One suite over every engine: the fixture `store` is made once for each of them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import AnyStore, open_store
from tests.store.given import ManualClock

ENGINES = ("sqlite-file", "sqlite-memory")
"""PostgreSQL becomes a third one: a name here, a URL below."""


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(engine: str, tmp_path: Path) -> str:
    return {"sqlite-file": str(tmp_path / "queue.db"), "sqlite-memory": ":memory:"}[engine]


@pytest.fixture(params=[name for name in ENGINES if name != "sqlite-memory"])
def lasting_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a store that can be closed and opened again."""
    return {"sqlite-file": str(tmp_path / "queue.db")}[request.param]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def settings() -> KvQueueSettings:
    return KvQueueSettings(max_crashes=4, dead_letter_retention_s=3_600)


@pytest.fixture
async def store(url: str, settings: KvQueueSettings, clock: ManualClock) -> AsyncIterator[AnyStore]:
    store = await open_store(url, settings, clock)
    yield store
    await store.close()
