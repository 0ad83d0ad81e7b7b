import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.testclient import TestClient

from kvqueue_fastapi import (
    KvQueue,
    KvQueueDep,
    KvQueueError,
)
from tests.web.recorder import install


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


@pytest.mark.case(107)
def test_handlers_start_after_every_consumer_is_known(url: str) -> None:
    app = FastAPI()
    events, queue = install(app, url)
    queue.add_listener("lifespan by hand", lambda: events.append("handled by hand"))
    with TestClient(app) as client:
        client.portal.call(queue.send_message, "lifespan by hand")
        events.await_one("handled by hand")

    with TestClient(app), pytest.raises(KvQueueError, match="has started"):
        queue.add_listener("lifespan later", print)
