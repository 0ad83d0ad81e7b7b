"""What the cases of `Kv` share: a store in a file, and one in memory."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from injector import Injector

from kvqueue_fastapi import Kv


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "kv.db") if request.param == "file" else ":memory:"


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
