import gc
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from injector import Injector

from kvqueue_fastapi import KvQueue, KvQueueAdmin, KvQueueModule
from tests.servers.databases import Databases, fresh_database
from tests.servers.introspection import remember_built_in_types
from tests.servers.postgres import PostgresServer, postgres_server
from tests.servers.proxy import Proxy
from tests.servers.shared import shared_postgres


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "case(number): the case of the contract that a test holds")
    config.addinivalue_line("markers", "long: takes most of a minute, and so begins early")
    if threading.current_thread() is threading.main_thread():
        # A shell has what it starts in the background ignore Ctrl+C, and that is inherited.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    remember_built_in_types()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the longest: each worker is given a part of the list, and has one at its beginning.

    One that begins last has a core to itself while the others have nothing more to do.
    """
    long = [item for item in items if item.get_closest_marker("long")]
    if len(long) == len(items):
        return
    rest = [item for item in items if not item.get_closest_marker("long")]
    for number, item in reversed(list(enumerate(long))):
        rest.insert(number * len(rest) // len(long), item)
    items[:] = rest


def pytest_collection_finish() -> None:
    # the tests stay to the end, and every search for garbage would go through all of them
    gc.freeze()


@pytest.fixture
def engine() -> str:
    """That of real processes, where a test or its module does not say `ON_BOTH_ENGINES`."""
    return "sqlite"


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


@pytest.fixture(scope="session")
def shared_postgres_url(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A superuser's, on the server that all tests of this run share."""
    own = tmp_path_factory.getbasetemp()
    # the environment does not tell: a pytest that a worker runs inherits that
    if hasattr(pytestconfig, "workerinput"):
        return shared_postgres(own.parent, os.getppid())
    return shared_postgres(own, os.getpid())


@pytest.fixture(scope="session")
def postgres_databases(shared_postgres_url: str) -> Iterator[Databases]:
    databases = Databases(shared_postgres_url)
    yield databases
    databases.close()


@pytest.fixture
def postgres_url(postgres_databases: Databases) -> Iterator[str]:
    """Of a database of the test's own, in which the queue's tables are made and empty."""
    with postgres_databases.lent() as url:
        yield url


@pytest.fixture
def bare_postgres_url(shared_postgres_url: str) -> Iterator[str]:
    """Of a database of the test's own, in which there is nothing yet."""
    with fresh_database(shared_postgres_url) as url:
        yield url


@pytest.fixture
def start_postgres() -> Iterator[Callable[..., PostgresServer]]:
    """Starts servers of the test's own, which it may stop, kill and fill."""
    with ExitStack() as servers:

        def start(within: Path | None = None, **options: Any) -> PostgresServer:
            return servers.enter_context(postgres_server(within, copied=True, **options))

        yield start


@pytest.fixture
def start_proxy() -> Iterator[Callable[[PostgresServer], Proxy]]:
    """Starts networks of the test's own, which it may cut."""
    with ExitStack() as proxies:

        def start(server: PostgresServer) -> Proxy:
            return proxies.enter_context(Proxy(server.host, server.port))

        yield start
