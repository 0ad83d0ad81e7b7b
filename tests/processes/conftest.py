"""A fleet of processes for each test, and the test's own door to their database."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kvqueue_fastapi import Kv
from tests.processes.fleet import Fleet
from tests.processes.foreign import ForeignPostgres


@pytest.fixture
def fleet(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    foreign = None
    if engine == "postgres":
        # asked for by name, so that the other engine's tests start no server
        foreign = ForeignPostgres(request.getfixturevalue("postgres_url"))
    fleet = Fleet(tmp_path, foreign)
    yield fleet
    fleet.end()


@pytest.fixture
def shared_database(fleet: Fleet) -> str:
    return fleet.database


@pytest.fixture
async def kv(shared_database: str) -> AsyncIterator[Kv]:
    async with Kv.open(shared_database) as kv:
        yield kv
