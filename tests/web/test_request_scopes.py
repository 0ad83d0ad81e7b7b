import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import fastapi_injector
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from injector import Inject, Injector

from kvqueue_fastapi import (
    KvQueueDep,
    KvQueueModule,
    on_queue_message,
)
from tests.web.recorder import WHOSE, Events, install

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
