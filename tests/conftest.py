from collections.abc import AsyncIterator

import pytest
from injector import Injector

from kvqueue_fastapi import KvQueue, KvQueueAdmin, KvQueueModule


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "case(number): the case of the contract that a test holds")


@pytest.fixture
async def injector(shared_database: str) -> AsyncIterator[Injector]:
    """The test's own part in a database that it shares with other processes: it only sends."""
    module = KvQueueModule(shared_database, listen=False)
    injector = Injector([module])
    async with module.running(injector):
        yield injector


@pytest.fixture
def queue(injector: Injector) -> KvQueue:
    return injector.get(KvQueue)


@pytest.fixture
def admin(injector: Injector) -> KvQueueAdmin:
    return injector.get(KvQueueAdmin)
