import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from injector import Injector

from kvqueue_fastapi import (
    KvQueueAdmin,
    KvQueueModule,
    KvQueueNotStartedError,
    KvQueueSettings,
    StoreError,
)
from kvqueue_fastapi.store.sqlite.presence import Presence
from tests.web.recorder import by_thread, install, queue_threads

# --- what goes wrong ---


def test_a_startup_that_raises_closes_the_store(url: str) -> None:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await queue.send_message("lifespan note", "from startup")
        raise OSError("no pool")
        yield

    app = FastAPI(lifespan=lifespan)
    events, queue = install(app, url)

    with pytest.raises(OSError, match="no pool"), TestClient(app):
        pytest.fail("it started")

    assert queue_threads() == []
    assert not Path(f"{url}-wal").exists()
    assert events == []


def test_a_shutdown_that_raises_closes_the_store(url: str) -> None:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        raise OSError("pool is stuck")

    app = FastAPI(lifespan=lifespan)
    install(app, url)

    with pytest.raises(OSError, match="pool is stuck"), TestClient(app):
        pass

    assert queue_threads() == []
    assert not Path(f"{url}-wal").exists()


def test_a_store_that_cannot_be_opened_stops_the_start_before_the_users_startup(
    tmp_path: Path,
) -> None:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        pytest.fail("the user's startup ran")
        yield

    app = FastAPI(lifespan=lifespan)
    _, queue = install(app, str(tmp_path / "no such directory" / "queue.db"))

    with pytest.raises(StoreError, match="Check that its directory exists"), TestClient(app):
        pytest.fail("it started")
    with pytest.raises(KvQueueNotStartedError):
        queue.send_message("lifespan note", "x").send(None)


def test_a_store_that_breaks_lets_the_users_shutdown_run_and_is_logged(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    # pitfall 10
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        events.append("shutdown")

    app = FastAPI(lifespan=lifespan)
    events, queue = install(app, url, lease_s=1)
    with TestClient(app) as client:
        client.portal.call(queue.send_message, "lifespan slow", "x")
        events.await_one("begun x")
        with closing(sqlite3.connect(url)) as other, other:
            other.execute("DROP TABLE kvqueue_messages")
        other.close()

    assert events == ["begun x", "ended x", "shutdown"]
    assert "could not be settled" in caplog.text
    assert queue_threads() == []


def test_a_listener_that_cannot_leave_is_logged_and_stops_nobody(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = FastAPI(on_shutdown=[lambda: events.append("shutdown")])
    events, _ = install(app, url, lease_s=1)

    with TestClient(app):
        with closing(sqlite3.connect(url)) as other, other:
            other.execute("DROP TABLE kvqueue_listeners")
        other.close()

    assert events == ["shutdown"]
    assert "could not stop cleanly" in caplog.text
    assert queue_threads() == []


def test_a_store_that_cannot_be_closed_is_logged_and_raises_nothing(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    # pitfall 10
    app = FastAPI(on_shutdown=[lambda: events.append("shutdown")])
    events, queue = install(app, url)

    with TestClient(app):
        # a lock file whose descriptor somebody has closed
        presence = Presence(url, 99)
        os.close(presence._descriptor)
        presence._descriptor = -1
        queue._handle._store._listeners._present[99] = presence  # type: ignore[attr-defined]

    assert events == ["shutdown"]
    assert "store could not be closed cleanly" in caplog.text
    assert "Bad file descriptor" in caplog.text


# --- ends that nobody wished for ---


async def test_a_cancelled_scope_of_anyio_still_closes_the_store(url: str) -> None:
    # it cancels every await anew; an unclosed store would keep the process from exiting
    with anyio.CancelScope() as scope:
        async with KvQueueModule(url, consumers=[by_thread]).running():
            scope.cancel()
            await asyncio.sleep(1)

    assert scope.cancelled_caught
    assert queue_threads() == []


async def test_a_task_that_is_cancelled_again_in_its_shutdown_still_closes_the_store(
    url: str,
) -> None:
    started = asyncio.Event()

    async def run() -> None:
        async with KvQueueModule(url, consumers=[by_thread]).running() as queue:
            await queue.send_message("lifespan thread", 0.3)
            await asyncio.sleep(0.1)
            started.set()
            await asyncio.sleep(10)

    task = asyncio.create_task(run())
    await started.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.02)

    with pytest.raises(asyncio.CancelledError):
        await task
    assert queue_threads() == []


@pytest.mark.parametrize("times", [1, 2])
async def test_whenever_a_queue_is_cancelled_nothing_of_it_stays_open(
    tmp_path: Path, times: int
) -> None:
    async def run(url: str) -> None:
        settings = KvQueueSettings(shutdown_timeout_s=0.01)
        async with KvQueueModule(url, consumers=[by_thread], settings=settings).running() as queue:
            await queue.send_message("lifespan thread", 0)

    for number in range(60):
        task = asyncio.create_task(run(str(tmp_path / f"{number}.db")))
        await asyncio.sleep(number * 0.0006)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0.0005)
        await asyncio.wait([task])

        lasting = [t.name for t in threading.enumerate() if "connection" in t.name]
        lasting += [name for name in queue_threads() if name != "kvqueue-ending"]
        assert (number, lasting) == (number, [])
        # One that has told its result, and whose caller was cancelled then, is at its end.
        async with asyncio.timeout(10):
            while queue_threads():
                await asyncio.sleep(0.001)


async def test_the_last_of_several_threads_that_outlive_the_grace_closes_the_store(
    url: str,
) -> None:
    settings = KvQueueSettings(shutdown_timeout_s=0.1)
    module = KvQueueModule(url, consumers=[by_thread], settings=settings)
    async with module.running() as queue:
        await queue.send_messages([("lifespan thread", 1.0)] * 10)
        await asyncio.sleep(0.3)

    lasting = queue_threads()
    deadline = time.monotonic() + 10
    while queue_threads() and time.monotonic() < deadline:
        await asyncio.sleep(0.02)

    assert sorted(lasting) == ["kvqueue-database", "kvqueue-leases"]
    assert queue_threads() == []
    assert [path.name for path in Path(url).parent.iterdir()] == ["queue.db"]
    async with (sender := KvQueueModule(url, listen=False)).running(injector := Injector([sender])):
        assert len(await injector.get(KvQueueAdmin).messages()) == 0
