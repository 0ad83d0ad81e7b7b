"""A fleet of processes for each test, and the test's own door to their database."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from injector import Injector

from kvqueue_fastapi import KvQueue, KvQueueAdmin, KvQueueModule
from tests.processes.fleet import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.end()


@pytest.fixture
async def injector(fleet: Fleet) -> AsyncIterator[Injector]:
    module = KvQueueModule(str(fleet.database), listen=False)
    injector = Injector([module])
    async with module.running(injector):
        yield injector


@pytest.fixture
def queue(injector: Injector) -> KvQueue:
    """Sends from the test's own process."""
    return injector.get(KvQueue)


@pytest.fixture
def admin(injector: Injector) -> KvQueueAdmin:
    return injector.get(KvQueueAdmin)
