import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient

from kvqueue_fastapi import (
    Injected,
    KvQueue,
    KvQueueClosedError,
    KvQueueDep,
    KvQueueError,
    KvQueueModule,
    KvQueueNotStartedError,
    NotInstalledError,
    PayloadError,
    QueueFullError,
)
from kvqueue_fastapi.testing import drain
from tests.web.shop import (
    ROUTES,
    Consumer,
    by_dep,
    by_websocket,
    installed,
)

# --- routes ---


@pytest.mark.parametrize("route", ROUTES)
def test_a_route_gets_the_queue(route: Callable[..., Any], url: str) -> None:
    app = FastAPI()
    consumer = installed(app, url)
    app.post("/{order_id}")(route)

    with TestClient(app) as client:
        answer = client.post("/7")
        handled = drain(client)

    assert (answer.json(), handled, consumer.seen) == (1, 1, [7])


@pytest.mark.parametrize("route", ROUTES)
def test_a_router_that_is_included_after_the_install_gets_the_queue(
    route: Callable[..., Any], url: str
) -> None:
    app, router = FastAPI(), APIRouter(prefix="/shop")
    router.post("/{order_id}")(route)
    installed(app, url)

    app.include_router(router)

    with TestClient(app) as client:
        assert client.post("/shop/7").json() == 1


@pytest.mark.parametrize("route", ROUTES)
def test_a_mounted_sub_app_gets_the_queue_of_the_outer_one(
    route: Callable[..., Any], url: str
) -> None:
    # pitfall 7: fastapi-injector's Injected raises there
    app, sub_app = FastAPI(), FastAPI()
    sub_app.post("/{order_id}")(route)
    app.mount("/sub", sub_app)
    consumer = installed(app, url)

    with TestClient(app) as client:
        client.post("/sub/7")
        drain(client)

    assert consumer.seen == [7]


@pytest.mark.parametrize("path", ["/socket", "/sub/socket"])
def test_a_websocket_gets_the_queue(path: str, url: str) -> None:
    app, sub_app = FastAPI(), FastAPI()
    app.mount("/sub", sub_app)
    for each in (app, sub_app):
        each.websocket("/socket")(by_websocket)
    consumer = installed(app, url)

    with TestClient(app) as client:
        with client.websocket_connect(path) as socket:
            socket.send_json(7)
            assert socket.receive_json() == 1
        drain(client)

    assert consumer.seen == [7]


def with_queue_in_sub_app(url: str, lifespan: Any = None) -> tuple[FastAPI, FastAPI, Consumer]:
    app, sub_app = FastAPI(lifespan=lifespan), FastAPI()
    sub_app.post("/{order_id}")(by_dep)
    app.mount("/sub", sub_app)
    return app, sub_app, installed(sub_app, url)


def test_a_sub_app_with_a_queue_of_its_own_uses_it_when_its_lifespan_is_run(
    url: str, tmp_path: Path
) -> None:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with sub_app.router.lifespan_context(sub_app):
            yield

    app, sub_app, consumer = with_queue_in_sub_app(url, lifespan)
    installed(app, str(tmp_path / "other.db"))

    with TestClient(app) as client:
        client.post("/sub/7")
        assert drain(client) == 0
        client.portal.call(sub_app.state.injector.get(KvQueue).run_until_idle)

    assert consumer.seen == [7]


def test_a_sub_app_with_a_queue_of_its_own_does_not_fall_back_to_the_outer_one(
    url: str, tmp_path: Path
) -> None:
    app, _, _ = with_queue_in_sub_app(url)
    installed(app, str(tmp_path / "other.db"))

    with TestClient(app) as client, pytest.raises(KvQueueNotStartedError):
        client.post("/sub/7")


def test_a_service_without_a_queue_needs_no_lifespan(url: str) -> None:
    app = FastAPI()
    consumer = installed(app, url)

    @app.get("/")
    async def route(injected: Annotated[Consumer, Injected(Consumer)]) -> bool:
        return injected is consumer

    assert TestClient(app).get("/").json() is True


def test_a_dependency_of_a_dependency_gets_the_queue(url: str) -> None:
    app = FastAPI()
    installed(app, url)

    async def audit(queue: KvQueueDep) -> int:
        return await queue.send_message("depends order", 1)

    @app.get("/", dependencies=[Depends(audit)])
    async def route(audited: Annotated[int, Depends(audit)], queue: KvQueueDep) -> list[int]:
        return [audited, await queue.send_message("depends order", 2)]

    with TestClient(app) as client:
        assert client.get("/").json() == [1, 2]


# --- limits ---


def test_a_full_queue_can_be_answered_with_503(url: str) -> None:
    app = FastAPI()
    installed(app, url, max_pending=1)

    @app.post("/")
    async def route(queue: KvQueueDep) -> int:
        try:
            return await queue.send_message("depends order", 1)
        except QueueFullError as error:
            raise HTTPException(503, str(error)) from error

    with TestClient(app) as client:
        taken = client.post("/")
        statuses = {client.post("/").status_code for _ in range(200)}
        drain(client)

    assert taken.status_code == 200
    assert 503 in statuses


def test_a_payload_that_its_handler_would_not_take_fails_in_the_request(url: str) -> None:
    app = FastAPI()
    installed(app, url)

    @app.post("/")
    async def route(queue: KvQueueDep) -> None:
        with pytest.raises(PayloadError):
            await queue.send_message("depends order", "no number")

    with TestClient(app) as client:
        assert client.post("/").status_code == 200
        assert drain(client) == 0


async def test_sending_synchronously_on_the_event_loop_says_what_to_write(url: str) -> None:
    async with KvQueueModule(url).running() as queue:
        with pytest.raises(KvQueueError, match=r"works in `def` routes.*await queue\.send_message"):
            queue.send_message_sync("depends order", 1)


def test_sending_synchronously_in_an_async_route_says_what_to_write(url: str) -> None:
    app = FastAPI()
    installed(app, url)

    @app.get("/")
    async def route(queue: KvQueueDep) -> None:
        queue.send_message_sync("depends order", 1)

    with TestClient(app) as client, pytest.raises(KvQueueError, match="works in `def` routes"):
        client.get("/")


# --- not installed, not started, stopped ---


@pytest.mark.parametrize("route", ROUTES)
def test_without_an_install_a_route_says_what_to_call(route: Callable[..., Any]) -> None:
    app = FastAPI()
    app.post("/{order_id}")(route)

    with (
        TestClient(app) as client,
        pytest.raises(NotInstalledError, match=r"KvQueueModule\(…\)\.install\(app\)"),
    ):
        client.post("/7")


@pytest.mark.parametrize("route", ROUTES)
def test_without_a_lifespan_a_route_names_the_test_client(
    route: Callable[..., Any], url: str
) -> None:
    app = FastAPI()
    installed(app, url)
    app.post("/{order_id}")(route)

    with pytest.raises(KvQueueNotStartedError, match=r"with TestClient\(app\)"):
        TestClient(app).post("/7")


async def test_without_a_lifespan_an_asgi_transport_gets_the_same_error(url: str) -> None:
    app = FastAPI()
    installed(app, url)
    app.post("/{order_id}")(by_dep)

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://a") as http:
        with pytest.raises(KvQueueNotStartedError, match=r"with TestClient\(app\)"):
            await http.post("/7")


async def test_an_asgi_transport_gets_the_queue_where_the_test_runs_the_lifespan(url: str) -> None:
    # it gives connections no state, as a server does
    app = FastAPI()
    consumer = installed(app, url)
    app.post("/{order_id}")(by_dep)
    transport = httpx2.ASGITransport(app)

    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://a") as http,
    ):
        await http.post("/7")
        await app.state.injector.get(KvQueue).run_until_idle()

    assert consumer.seen == [7]


def test_a_bare_client_beside_a_started_one_says_that_it_has_no_queue(url: str) -> None:
    # it has an event loop of its own, on which the queue of the other cannot be used
    app = FastAPI()
    installed(app, url)
    app.post("/{order_id}")(by_dep)

    with TestClient(app) as client:
        with pytest.raises(KvQueueNotStartedError, match=r"with TestClient\(app\)"):
            TestClient(app).post("/7")
        assert drain(client) == 0


def test_a_sub_app_whose_outer_lifespan_did_not_run_names_both_remedies(url: str) -> None:
    app, sub_app = FastAPI(), FastAPI()
    sub_app.post("/{order_id}")(by_dep)
    app.mount("/sub", sub_app)
    installed(app, url)

    with pytest.raises(NotInstalledError, match=r"install\(app\).*with TestClient\(app\)"):
        TestClient(app).post("/sub/7")


@pytest.mark.parametrize("route", ROUTES)
def test_after_the_shutdown_a_route_says_that_the_queue_is_closed(
    route: Callable[..., Any], url: str
) -> None:
    app = FastAPI()
    installed(app, url)
    app.post("/{order_id}")(route)
    with TestClient(app) as client:
        client.post("/7")

    with pytest.raises(KvQueueClosedError, match="its app has stopped"):
        client.post("/8")


def test_a_process_that_never_ran_the_lifespan_still_exits(url: str) -> None:
    # pitfall 15: an open database thread would keep it alive
    script = f"""
    from fastapi import FastAPI
    from fastapi.testclient import TestClient
    from kvqueue_fastapi import KvQueueDep, KvQueueModule

    app = FastAPI()
    KvQueueModule({url!r}).install(app)

    @app.get("/")
    async def route(queue: KvQueueDep) -> None:
        await queue.send_message("depends order")

    print(TestClient(app, raise_server_exceptions=False).get("/").status_code)
    """

    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert ran.stdout == "500\n"
    assert not Path(url).exists()
