import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, WebSocket
from fastapi.testclient import TestClient
from injector import Inject, Injector

from kvqueue_fastapi import (
    Injected,
    KvQueue,
    KvQueueClosedError,
    KvQueueDep,
    KvQueueError,
    KvQueueModule,
    KvQueueNotStartedError,
    KvQueueSettings,
    NotInstalledError,
    OutgoingMessage,
    PayloadError,
    QueueFullError,
    SendOptions,
    get_kv_queue,
    on_queue_message,
)
from kvqueue_fastapi.testing import RecordingKvQueue, Sent, drain


class Shop:
    def __init__(self, queue: Inject[KvQueue]) -> None:
        self.queue = queue

    async def sell(self, order_id: int) -> int:
        return await self.queue.send_message("depends order", order_id)


class Consumer:
    def __init__(self) -> None:
        self.seen: list[int] = []

    @on_queue_message("depends order")
    async def handle(self, order_id: int) -> None:
        self.seen.append(order_id)


def installed(app: FastAPI, url: str, **settings: Any) -> Consumer:
    consumer = Consumer()
    module = KvQueueModule(
        url, consumers=[Consumer], settings=KvQueueSettings(**settings), listen=False
    )
    module.install(app, Injector([module, lambda binder: binder.bind(Consumer, to=consumer)]))
    return consumer


async def by_dep(order_id: int, queue: KvQueueDep) -> int:
    return await queue.send_message("depends order", order_id)


async def by_injected_queue(order_id: int, queue: Annotated[KvQueue, Injected(KvQueue)]) -> int:
    return await queue.send_message("depends order", order_id)


async def by_default_value(
    order_id: int,
    queue: KvQueue = Injected(KvQueue),  # noqa: B008 because it stands where Depends does
) -> int:
    return await queue.send_message("depends order", order_id)


async def by_service(order_id: int, shop: Annotated[Shop, Injected(Shop)]) -> int:
    return await shop.sell(order_id)


async def by_function(order_id: int, queue: Annotated[KvQueue, Depends(get_kv_queue)]) -> int:
    return await queue.send_message("depends order", order_id)


def by_thread(order_id: int, queue: KvQueueDep) -> int:
    return queue.send_message_sync("depends order", order_id, priority=1)


async def by_websocket(socket: WebSocket, queue: KvQueueDep) -> None:
    await socket.accept()
    order_id = await socket.receive_json()
    await socket.send_json(await queue.send_message("depends order", order_id))
    await socket.close()


ROUTES = [by_dep, by_injected_queue, by_default_value, by_service, by_function, by_thread]


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


# --- overrides and testing tools ---


@pytest.mark.parametrize("route", [r for r in ROUTES if r is not by_service])
def test_an_override_replaces_the_queue_of_every_route(route: Callable[..., Any]) -> None:
    app, recorded = FastAPI(), RecordingKvQueue()
    app.post("/{order_id}")(route)
    app.dependency_overrides[get_kv_queue] = lambda: recorded

    answer = TestClient(app).post("/7")

    assert answer.json() == 1
    assert [(sent.type, sent.data) for sent in recorded.sent] == [("depends order", 7)]


def test_an_override_replaces_an_injected_service() -> None:
    app, recorded = FastAPI(), RecordingKvQueue()
    app.post("/{order_id}")(by_service)
    app.dependency_overrides[Injected(Shop).dependency] = lambda: Shop(recorded)

    TestClient(app).post("/7")

    assert recorded.sent == [Sent("depends order", 7, {})]


async def test_a_recording_queue_keeps_what_all_the_ways_of_sending_were_given() -> None:
    recorded = RecordingKvQueue()

    first = await recorded.send_message("depends order", 1, priority=3)
    delayed = OutgoingMessage("depends order", 3, SendOptions(delay=5))
    others = await recorded.send_messages([("depends order", 2), delayed])

    assert [first, *others] == [1, 2, 3]
    assert recorded.sent == [
        Sent("depends order", 1, {"priority": 3}),
        Sent("depends order", 2, {}),
        Sent("depends order", 3, {"delay": 5}),
    ]


@pytest.mark.parametrize(
    ("message", "options", "error"),
    [
        (("depends order", object()), {}, PayloadError),
        (("", 1), {}, ValueError),
        (("depends order", 1), {"delay": -1}, ValueError),
        (("depends order", 1), {"dealy": 1}, TypeError),
    ],
)
async def test_a_recording_queue_refuses_what_the_real_one_refuses(
    message: tuple[str, Any], options: dict[str, Any], error: type[Exception]
) -> None:
    recorded = RecordingKvQueue()

    with pytest.raises(error):
        await recorded.send_message(*message, **options)

    assert recorded.sent == []


def test_drain_outside_of_a_started_app_says_so(url: str) -> None:
    app = FastAPI()
    installed(app, url)

    for client in (TestClient(app), TestClient(FastAPI())):
        with pytest.raises(NotInstalledError, match=r"with TestClient\(app\)"):
            drain(client)


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
