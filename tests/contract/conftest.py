"""What the cases of `Kv` share: a store in a file, one in memory, and one on PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from injector import Injector

from kvqueue_fastapi import Kv


@pytest.fixture(params=["file", "memory", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        # asked for by name, so that the other engines' tests start no server
        return str(request.getfixturevalue("postgres_url"))
    return str(tmp_path / "kv.db") if request.param == "file" else ":memory:"


@pytest.fixture(params=["file", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that lasts."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return str(tmp_path / "q.db")


@pytest.fixture
async def kv(url: str) -> AsyncIterator[Kv]:
    async with Kv.open(url) as kv:
        yield kv


@pytest.fixture
def shared_database(url: str) -> str:
    return url


@pytest.fixture
def silent(injector: Injector) -> Kv:
    """A `Kv` whose messages `admin` shows, because nobody listens to them."""
    return injector.get(Kv)
