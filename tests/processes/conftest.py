"""A fleet of processes for each test, and the test's own door to their database."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kvqueue_fastapi import Kv
from tests.processes.fleet import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.end()


@pytest.fixture
def shared_database(fleet: Fleet) -> str:
    return str(fleet.database)


@pytest.fixture
async def kv(shared_database: str) -> AsyncIterator[Kv]:
    async with Kv.open(shared_database) as kv:
        yield kv
