import asyncio
import contextvars
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import anyio
import fastapi_injector
import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.testclient import TestClient
from injector import Inject, Injector

from kvqueue_fastapi import (
    KvQueue,
    KvQueueAdmin,
    KvQueueDep,
    KvQueueError,
    KvQueueModule,
    KvQueueNotStartedError,
    KvQueueSettings,
    StoreError,
    on_queue_message,
)
from kvqueue_fastapi.store.sqlite.presence import Presence

WHOSE: contextvars.ContextVar[str] = contextvars.ContextVar("WHOSE", default="nobody's")


class Events(list[Any]):
    """What happened, in order; may be waited for."""

    def await_one(self, event: Any) -> None:
        deadline = time.monotonic() + 10
        while event not in self:
            assert time.monotonic() < deadline, f"{event} not in {self}"
            time.sleep(0.005)


class Recorder:
    def __init__(self, events: Inject[Events]) -> None:
        self.events = events

    @on_queue_message("lifespan note")
    async def note(self, text: str) -> None:
        self.events.append(f"handled {text}")

    @on_queue_message("lifespan slow")
    async def slow(self, text: str) -> None:
        self.events.append(f"begun {text}")
        await asyncio.sleep(0.2)
        self.events.append(f"ended {text}")

    @on_queue_message("lifespan whose")
    async def whose(self) -> None:
        self.events.append(WHOSE.get())

    @on_queue_message("lifespan whose in a thread")
    def whose_in_a_thread(self) -> None:
        self.events.append(WHOSE.get())


def install(app: FastAPI, url: str, **settings: Any) -> tuple[Events, KvQueue]:
    events = Events()
    module = KvQueueModule(url, consumers=[Recorder], settings=KvQueueSettings(**settings))
    injector = Injector([module, lambda binder: binder.bind(Events, to=events)])
    module.install(app, injector)
    return events, injector.get(KvQueue)


def queue_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("kvqueue")]


@on_queue_message("lifespan thread")
def by_thread(seconds: float) -> None:
    time.sleep(seconds)


# --- order ---


def test_handlers_run_only_between_the_users_startup_and_shutdown(url: str) -> None:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await queue.send_message("lifespan note", "from startup")
        await asyncio.sleep(0.1)
        events.append("startup")
        yield
        await queue.send_message("lifespan note", "from shutdown")
        await asyncio.sleep(0.1)
        events.append("shutdown")

    app = FastAPI(lifespan=lifespan)
    events, queue = install(app, url)

    with TestClient(app) as client:
        events.await_one("handled from startup")
        client.portal.call(queue.send_message, "lifespan slow", "while serving")
        events.await_one("begun while serving")

    assert events == [
        "startup",
        "handled from startup",
        "begun while serving",
        "ended while serving",
        "shutdown",
    ]


def test_what_was_sent_in_the_shutdown_is_handled_at_the_next_start(url: str) -> None:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await queue.send_message("lifespan note", "from shutdown")

    app = FastAPI(lifespan=lifespan)
    events, queue = install(app, url)
    with TestClient(app):
        pass
    assert events == []

    with TestClient(app):
        events.await_one("handled from shutdown")


@pytest.mark.filterwarnings(r"ignore:\s*on_event is deprecated:DeprecationWarning")
@pytest.mark.parametrize("how", ["constructor", "decorator after install"])
def test_startup_and_shutdown_functions_run_inside(how: str, url: str) -> None:
    async def startup() -> None:
        await queue.send_message("lifespan note", "from startup")
        events.append("startup")

    async def shutdown() -> None:
        await queue.send_message("lifespan note", "from shutdown")
        events.append("shutdown")

    given: dict[str, Any] = {"on_startup": [startup], "on_shutdown": [shutdown]}
    app = FastAPI(**given) if how == "constructor" else FastAPI()
    events, queue = install(app, url)
    if how != "constructor":
        app.on_event("startup")(startup)
        app.on_event("shutdown")(shutdown)

    with TestClient(app):
        events.await_one("handled from startup")

    assert events == ["startup", "handled from startup", "shutdown"]


def test_an_included_router_with_a_lifespan_starts_before_the_handlers(url: str) -> None:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, str]]:
        await queue.send_message("lifespan note", "from router")
        await asyncio.sleep(0.1)
        events.append("router up")
        yield {"pool": "of the router"}
        events.append("router down")

    app = FastAPI()
    router = APIRouter(lifespan=lifespan)
    app.include_router(router)
    events, queue = install(app, url)

    with TestClient(app) as client:
        events.await_one("handled from router")
        assert client.app_state["pool"] == "of the router"

    assert events == ["router up", "handled from router", "router down"]


def test_the_users_state_is_kept_beside_the_queues(url: str) -> None:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, str]]:
        yield {"pool": "of the user"}

    app = FastAPI(lifespan=lifespan)
    install(app, url)

    @app.get("/")
    async def route(request: Request, queue: KvQueueDep) -> str:
        assert isinstance(queue, KvQueue)
        pool: str = request.state.pool
        return pool

    with TestClient(app) as client:
        assert client.get("/").json() == "of the user"
        assert client.app_state.keys() == {"pool", "kvqueue"}


def test_handlers_start_after_every_consumer_is_known(url: str) -> None:
    # case 107
    app = FastAPI()
    events, queue = install(app, url)
    queue.add_listener("lifespan by hand", lambda: events.append("handled by hand"))
    with TestClient(app) as client:
        client.portal.call(queue.send_message, "lifespan by hand")
        events.await_one("handled by hand")

    with TestClient(app), pytest.raises(KvQueueError, match="has started"):
        queue.add_listener("lifespan later", print)


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
        with sqlite3.connect(url) as other:
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
        with sqlite3.connect(url) as other:
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
        queue._handle.store._listeners._present[99] = presence  # type: ignore[attr-defined]

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


# --- contexts ---


class SetsContext:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        WHOSE.set("the middleware's")
        await self.app(scope, receive, send)


@pytest.mark.parametrize("message_type", ["lifespan whose", "lifespan whose in a thread"])
def test_handlers_see_nothing_of_the_context_of_whoever_started_the_app(
    message_type: str, url: str
) -> None:
    # pitfall 8
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        WHOSE.set("the lifespan's")
        yield

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(SetsContext)
    events, _ = install(app, url)

    @app.post("/")
    async def route(queue: KvQueueDep) -> str:
        await queue.send_message(message_type)
        return WHOSE.get()

    with TestClient(app) as client:
        assert client.post("/").json() == "the middleware's"
        events.await_one("nobody's")

    assert events == ["nobody's"]


# --- fastapi-injector beside it ---


class Session: ...


class Repository:
    def __init__(self, session: Inject[Session]) -> None:
        self.session = session


class ByParameter:
    @on_queue_message("lifespan scoped")
    async def handle(
        self, one: Inject[Repository], two: Inject[Session], log: Inject[Events]
    ) -> None:
        assert one.session is two
        log.append(two)


class ByConstructor:
    def __init__(self, one: Inject[Repository], two: Inject[Session], log: Inject[Events]) -> None:
        self.one, self.two, self.log = one, two, log

    @on_queue_message("lifespan scoped")
    async def handle(self) -> None:
        assert self.one.session is self.two
        self.log.append(self.two)


class InThread(ByConstructor):
    @on_queue_message("lifespan scoped")
    def handle(self, three: Inject[Session]) -> None:  # type: ignore[override]
        assert self.one.session is self.two is three
        self.log.append(three)


@pytest.fixture
def close_scopes() -> Iterator[Callable[[Injector], Injector]]:
    # fastapi-injector never closes the event loop that it makes for each injector
    injectors: list[Injector] = []
    yield lambda injector: injectors.append(injector) or injector
    for injector in injectors:
        injector.get(fastapi_injector.RequestScope)._loop.close()


@pytest.mark.parametrize("attached", ["before", "after"])
@pytest.mark.parametrize("consumer", [ByParameter, ByConstructor, InThread])
def test_each_message_has_a_request_scope_of_its_own(
    consumer: type,
    attached: str,
    url: str,
    close_scopes: Callable[[Injector], Injector],
) -> None:
    # pitfall 8: three messages once shared one session
    app, events = FastAPI(), Events()
    module = KvQueueModule(url, consumers=[consumer])
    injector = close_scopes(Injector([module, lambda binder: binder.bind(Events, to=events)]))
    injector.binder.bind(Session, scope=fastapi_injector.request_scope)
    if attached == "after":
        module.install(app, injector)
    fastapi_injector.attach_injector(app, injector)
    if attached == "before":
        module.install(app, injector)
    app.add_middleware(fastapi_injector.InjectorMiddleware, injector=injector)

    @app.post("/")
    async def route(
        queue: KvQueueDep, session: Annotated[Session, fastapi_injector.Injected(Session)]
    ) -> None:
        events.append(session)
        await queue.send_messages([("lifespan scoped", None)] * 3)

    with TestClient(app) as client:
        client.post("/")
        deadline = time.monotonic() + 10
        while len(events) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)

    assert len(events) == len(set(map(id, events))) == 4
