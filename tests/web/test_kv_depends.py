"""Routes and services get the key-value store of their app, beside its queue."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from injector import CallError, Inject, Injector

from kvqueue_fastapi import (
    Injected,
    Kv,
    KvCommit,
    KvDep,
    KvQueue,
    KvQueueClosedError,
    KvQueueError,
    KvQueueModule,
    KvQueueNotStartedError,
    KvU64,
    Message,
    NotInstalledError,
    get_kv,
    on_queue_message,
)
from kvqueue_fastapi.testing import FakeClock, drain


async def by_dep(kv: KvDep) -> int:
    return await visits(kv)


async def by_injected(kv: Annotated[Kv, Injected(Kv)]) -> int:
    return await visits(kv)


class Service:
    def __init__(self, kv: Inject[Kv], queue: Inject[KvQueue]) -> None:
        self.kv, self.queue = kv, queue

    @on_queue_message("visit")
    async def count(self, message: Message) -> None:
        await message.atomic().sum(("visits",), 1).commit()


async def visits(kv: Kv) -> int:
    await kv.atomic().sum(("visits",), 1).commit()
    value = (await kv.get(("visits",), KvU64)).value
    assert value is not None
    return value.value


def installed(app: FastAPI, *modules: Any) -> Injector:
    module = KvQueueModule(":memory:", consumers=[Service], listen=False)
    injector = Injector([module, *modules])
    module.install(app, injector)
    return injector


@pytest.mark.parametrize("route", [by_dep, by_injected])
def test_a_route_gets_the_store(route: Callable[..., Any]) -> None:
    app, sub_app = FastAPI(), FastAPI()
    app.post("/")(route)
    sub_app.post("/")(route)
    app.mount("/sub", sub_app)
    installed(app)

    with TestClient(app) as client:
        answers = [client.post(path).json() for path in ("/", "/sub/", "/")]

    assert answers == [1, 2, 3]


def test_routes_services_and_messages_share_one_store() -> None:
    app = FastAPI()
    app.post("/")(by_dep)
    injector = installed(app)

    @app.post("/send")
    async def send(kv: KvDep) -> KvCommit:
        return await kv.enqueue({"type": "visit", "data": None})

    with TestClient(app) as client:
        assert client.post("/").json() == 1
        assert client.post("/send").json()["ok"] is True
        assert drain(client) == 1
        assert client.post("/").json() == 3
        assert injector.get(Service).kv is injector.get(Kv)


def test_the_store_is_replaced_in_a_test() -> None:
    app = FastAPI()
    app.post("/dep")(by_dep)
    app.post("/injected")(by_injected)
    installed(app)

    async def broken() -> None:
        raise KvQueueError("replaced")

    app.dependency_overrides[get_kv] = broken

    with TestClient(app) as client:
        for path in ("/dep", "/injected"):
            with pytest.raises(KvQueueError, match="replaced"):
                client.post(path)


def test_a_route_without_a_started_app_is_told_so() -> None:
    bare, app = FastAPI(), FastAPI()
    bare.post("/")(by_dep)
    app.post("/")(by_dep)
    installed(app)
    client = TestClient(app)

    with pytest.raises(NotInstalledError):
        TestClient(bare).post("/")
    with pytest.raises(KvQueueNotStartedError):
        client.post("/")
    with TestClient(app):
        pass
    with pytest.raises(KvQueueClosedError):
        client.post("/")


def test_each_start_of_an_app_has_a_store_of_its_own_life() -> None:
    app = FastAPI()
    app.post("/")(by_dep)
    installed(app)

    for _ in range(2):
        with TestClient(app) as client:
            assert client.post("/").json() == 1


def test_an_apps_store_is_not_closed_by_its_users() -> None:
    app = FastAPI()
    injector = installed(app)
    kv = injector.get(Kv)

    with TestClient(app) as client:
        for close in (kv.close, kv.__aenter__):
            with pytest.raises(KvQueueError, match="belongs to an app, which closes it"):
                client.portal.call(close)
        assert client.portal.call(kv.get, ("k",)).versionstamp is None


def test_a_bound_clock_is_that_of_the_store() -> None:
    app, clock = FastAPI(), FakeClock()
    injector = installed(app, clock)
    kv = injector.get(Kv)

    async def set_key() -> None:
        await kv.set(("k",), 1, expire_in=10)

    with TestClient(app) as client:
        client.portal.call(set_key)
        before = client.portal.call(kv.get, ("k",))
        clock.advance(10)
        after = client.portal.call(kv.get, ("k",))

    assert (before.value, after.value) == (1, None)


def test_no_second_store_is_made_where_the_module_is_forgotten() -> None:
    # pitfall 1: injector makes what it can
    with pytest.raises(CallError, match="handle"):
        Injector().get(Kv)


def test_listen_queue_beside_an_app_ends_with_it() -> None:
    got: list[Any] = []
    app = FastAPI()
    kv = installed(app).get(Kv)
    ended: list[str] = []

    async def listen() -> None:
        await kv.listen_queue(got.append)
        ended.append("returned")

    async def start() -> None:
        tasks.append(asyncio.create_task(listen()))
        await kv.enqueue("bare")
        while not got:
            await asyncio.sleep(0.01)

    tasks: list[asyncio.Task[None]] = []
    with TestClient(app) as client:
        client.portal.call(start)

    assert got == ["bare"]
    assert ended == ["returned"]
