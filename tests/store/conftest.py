"""One suite over every engine: the fixture `store` is made once for each of them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import AnyStore, open_store
from tests.store.given import ManualClock

ENGINES = ("sqlite-file", "sqlite-memory", "postgres")
LASTING = ("sqlite-file", "postgres")
"""Those whose store can be closed and opened again."""


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return _url_of(engine, request, tmp_path)


@pytest.fixture(params=LASTING)
def lasting_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a store that can be closed and opened again."""
    return _url_of(request.param, request, tmp_path)


def _url_of(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if engine == "postgres":
        # asked for by name, so that the other engines' tests start no server
        return str(request.getfixturevalue("postgres_url"))
    return {"sqlite-file": str(tmp_path / "queue.db"), "sqlite-memory": ":memory:"}[engine]


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
