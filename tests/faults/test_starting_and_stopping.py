"""Sends, failures and signals while a queue starts or stops."""

import asyncio
import os
import signal
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from injector import Injector

from kvqueue_fastapi import (
    HandlerError,
    Kv,
    KvQueue,
    KvQueueClosedError,
    KvQueueDep,
    KvQueueModule,
    KvQueueNotStartedError,
    StoreError,
    on_queue_message,
)
from tests.contract.harness import Seen, running
from tests.web.serving import House, Server

HERE = Path(__file__).parent
REFUSALS = (KvQueueNotStartedError, KvQueueClosedError)


def stored(url: Path | str) -> list[int]:
    """The ids of what waits, as a foreign program sees them."""
    with closing(sqlite3.connect(url)) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM kvqueue_messages")]


def our_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(("kvqueue", "Thread-"))]


# --- sending meanwhile ---


async def test_each_send_while_the_queue_starts_and_stops_is_stored_or_refused(
    tmp_path: Path,
) -> None:
    module = KvQueueModule(str(tmp_path / "q.db"), listen=False)
    injector = Injector([module])
    queue, is_over = injector.get(KvQueue), asyncio.Event()
    ids: list[int] = []
    refused: list[str] = []

    async def send() -> None:
        while not is_over.is_set():
            try:
                ids.append(await queue.send_message("n"))
            except REFUSALS as error:
                refused.append(type(error).__name__)
            await asyncio.sleep(0)

    senders = [asyncio.create_task(send()) for _ in range(20)]
    for _ in range(10):
        async with module.running(injector):
            await asyncio.sleep(0.01)
    is_over.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*senders)

    assert len(ids) > 100
    assert sorted(ids) == stored(tmp_path / "q.db")
    assert set(refused) == {"KvQueueNotStartedError", "KvQueueClosedError"}


@pytest.mark.parametrize("turns", range(12))
async def test_sends_that_a_close_overtakes_are_stored_or_refused(
    tmp_path: Path, turns: int
) -> None:
    kv = await Kv.open(str(tmp_path / "q.db"))
    sending = [asyncio.create_task(kv.enqueue(number)) for number in range(50)]
    for _ in range(turns):
        await asyncio.sleep(0)

    late = [asyncio.create_task(kv.enqueue(number)) for number in range(50)]
    async with asyncio.timeout(10):
        await kv.close()
        answers = await asyncio.gather(*sending, *late, return_exceptions=True)

    ids = [one.message_ids[0] for one in answers if not isinstance(one, BaseException)]
    assert {type(one) for one in answers if isinstance(one, BaseException)} <= set(REFUSALS)
    assert sorted(ids) == stored(tmp_path / "q.db")


def test_everybody_in_an_app_can_send_from_its_startup_to_its_shutdown(tmp_path: Path) -> None:
    ids: list[int] = []
    tasks: list[asyncio.Task[None]] = []
    refused: list[BaseException] = []

    async def send_on() -> None:
        try:
            while True:
                ids.append(await queue.send_message("n"))
                await asyncio.sleep(0.001)
        except REFUSALS as error:
            refused.append(error)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        ids.append(await queue.send_message("n"))
        tasks.append(asyncio.create_task(send_on()))
        yield
        ids.append(await queue.send_message("n"))

    app = FastAPI(lifespan=lifespan)
    module = KvQueueModule(str(tmp_path / "q.db"), listen=False)
    module.install(app, injector := Injector([module]))
    queue = injector.get(KvQueue)

    @app.post("/")
    async def route(queue: KvQueueDep) -> int:
        return await queue.send_message("n")

    with TestClient(app) as client:
        ids.extend(client.post("/").json() for _ in range(20))

    assert sorted(ids) == stored(tmp_path / "q.db")
    assert all(isinstance(error, KvQueueClosedError) for error in refused)


async def test_a_handler_can_send_while_the_listener_drains(tmp_path: Path) -> None:
    begun, ids = asyncio.Event(), []

    async def handle() -> None:
        begun.set()
        await asyncio.sleep(0.1)
        ids.append(await bench.queue.send_message("next"))

    async with running(tmp_path, callbacks={"n": handle}) as bench:
        await bench.queue.send_message("n")
        await begun.wait()

    assert ids == stored(tmp_path / "q.db") == [2]


# --- a start that fails, or is ended ---


class Fault:
    """Fails once, where it is told to."""

    def __init__(self, place: str) -> None:
        self._place = place

    def at(self, place: str) -> None:
        if place == self._place:
            self._place = ""
            raise OSError(f"no {place}")


@pytest.mark.parametrize("place", ["database", "startup", "consumer", "listener"])
def test_a_start_that_failed_half_way_leaves_nothing_and_can_be_tried_again(
    tmp_path: Path, place: str
) -> None:
    fault, handled = Fault(place), threading.Event()
    url = tmp_path / "late" / "q.db"

    class Consumer:
        def __init__(self) -> None:
            fault.at("consumer")

        @on_queue_message("n")
        async def handle(self) -> None:
            handled.set()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        fault.at("startup")
        yield

    app = FastAPI(lifespan=lifespan)
    module = KvQueueModule(str(url), consumers=[Consumer])
    module.install(app, injector := Injector([module]))
    break_start(place, url)

    with pytest.raises((OSError, StoreError, HandlerError)), TestClient(app):
        pytest.fail("it started")
    left = our_threads()
    mend_start(url)
    with TestClient(app) as client:
        client.portal.call(injector.get(KvQueue).send_message, "n")
        assert handled.wait(10)

    assert left == our_threads() == []
    assert [path.name for path in url.parent.iterdir()] == ["q.db"]


def break_start(place: str, url: Path) -> None:
    if place == "database":
        return  # it has no directory yet
    url.parent.mkdir()
    if place == "listener":
        with closing(sqlite3.connect(url)) as other:
            # The schema is there, but nobody can enter.
            asyncio.run(open_once(url))
            other.execute("ALTER TABLE kvqueue_listeners RENAME TO away")


def mend_start(url: Path) -> None:
    url.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(url)) as other:
        if other.execute("SELECT 1 FROM sqlite_master WHERE name = 'away'").fetchone():
            other.execute("ALTER TABLE away RENAME TO kvqueue_listeners")


async def open_once(url: Path) -> None:
    async with Kv.open(str(url)):
        pass


async def test_a_stop_in_the_middle_of_a_start_leaves_nothing(tmp_path: Path) -> None:
    seen = Seen()
    for turns in range(25):
        module = KvQueueModule(str(tmp_path / f"{turns}.db"))
        injector = Injector([module])
        injector.get(KvQueue).add_listener("n", seen.take)

        async def serve(module: KvQueueModule = module, injector: Injector = injector) -> None:
            async with module.running(injector):
                await asyncio.Event().wait()

        starting = asyncio.create_task(serve())
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        starting.cancel()
        async with asyncio.timeout(10):
            await asyncio.wait([starting])
            while our_threads():  # the last one may be at its end
                await asyncio.sleep(0.001)

    assert {Path(name).suffix for name in os.listdir(tmp_path)} <= {".db"}  # noqa: PTH208 because Path.iterdir blocks as well


# --- signals ---


def slow_server(house: House) -> Server:
    return house._start(
        ["-m", "uvicorn", "slow_app:app", "--port", "0", "--app-dir", str(HERE)], {}
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_during_the_startup_ends_the_server_and_loses_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("STARTUP_S", "1")
    server = slow_server(house)
    first = await house.noted("starting")

    server.signal(number)
    await server.exited(10)
    left = sorted(path.name for path in house.directory.glob("queue.db*"))
    monkeypatch.setenv("STARTUP_S", "0")
    slow_server(house)
    await house.noted("ended", first.id)

    assert left == ["queue.db"]
    assert [line.attempt for line in house.lines("begun", first.id)] == [1]


async def test_two_signals_to_end_are_as_one(house: House) -> None:
    server = slow_server(house)
    message_id = await server.send("n", seconds=1)
    await house.noted("begun", message_id)

    server.signal(signal.SIGTERM)
    await server.logs("Waiting for application shutdown")
    server.signal(signal.SIGTERM)
    await server.exited(10)

    assert house.lines("ended", message_id)
    (last,) = house.lines("stopping")
    assert stored(house.url) == [last.id]
