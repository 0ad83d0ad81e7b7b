import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from fastapi_injector import attach_injector
from injector import Inject, Injector, UnsatisfiedRequirement
from pydantic import Field

from kvqueue_fastapi import (
    HandlerError,
    KvQueue,
    KvQueueAdmin,
    KvQueueDep,
    KvQueueError,
    KvQueueModule,
    KvQueueSettings,
    Message,
    on_queue_message,
)


class Mailer:
    def __init__(self) -> None:
        self.sent: list[Any] = []


class OrderService:
    def __init__(self, mailer: Inject[Mailer], queue: Inject[KvQueue]) -> None:
        self.mailer = mailer
        self.queue = queue

    @on_queue_message("module order")
    async def handle(self, order: dict[str, int], message: Message) -> None:
        self.mailer.sent.append((order, message.attempt))


class Clock(Protocol):
    def now(self) -> float: ...


class NeedsWhatNobodyBinds:
    def __init__(self, clock: Inject[Clock]) -> None: ...

    @on_queue_message("module broken")
    def handle(self) -> None: ...


def shop(mailer: Mailer) -> Any:
    return lambda binder: binder.bind(Mailer, to=mailer)


# --- the container ---


def test_an_injector_without_the_module_makes_no_queue() -> None:
    # pitfall 1: auto_bind would make a silent second queue at each get
    with pytest.raises(Exception, match="KvQueue") as error:
        Injector().get(KvQueue)

    assert "handle" in str(error.value)


def test_an_injector_without_auto_bind_makes_no_queue_either() -> None:
    with pytest.raises(UnsatisfiedRequirement):
        Injector(auto_bind=False).get(KvQueue)


def test_an_injector_without_the_module_cannot_be_installed() -> None:
    app = FastAPI()

    with pytest.raises(KvQueueError, match=r"not have this KvQueueModule.*Injector\(\[queue_mod"):
        KvQueueModule(":memory:").install(app, Injector())

    assert not hasattr(app.state, "injector")


def test_the_container_can_be_built_before_the_start() -> None:
    # pitfall 2: injector reads every attribute of a module
    module = KvQueueModule(":memory:", consumers=[OrderService])

    injector = Injector([module])

    assert injector.get(KvQueue) is injector.get(KvQueue)
    assert injector.get(KvQueueAdmin) is injector.get(KvQueueAdmin)


async def test_a_service_shares_the_one_queue_of_its_container(url: str) -> None:
    module = KvQueueModule(url, consumers=[OrderService])
    injector = Injector([module, shop(Mailer())])

    async with module.running(injector) as queue:
        assert injector.get(OrderService).queue is queue


async def test_a_child_container_may_bring_the_module(url: str) -> None:
    mailer = Mailer()
    module = KvQueueModule(url, consumers=[OrderService], listen=False)
    child = Injector([shop(mailer)]).create_child_injector([module])

    async with module.running(child) as queue:
        await queue.send_message("module order", {"id": 1})
        await queue.run_until_idle()

    assert mailer.sent == [({"id": 1}, 1)]


async def test_a_parent_without_the_module_makes_no_second_queue(url: str) -> None:
    # pitfall 3
    parent = Injector()
    module = KvQueueModule(url)
    child = parent.create_child_injector([module])

    async with module.running(child) as queue:
        assert child.get(OrderService).queue is queue
        with pytest.raises(Exception, match="KvQueue"):
            parent.get(KvQueue)


def test_installing_the_child_of_a_container_with_the_module_uses_what_the_child_binds(
    url: str,
) -> None:
    mailer = Mailer()
    module = KvQueueModule(url, consumers=[OrderService], listen=False)
    child = Injector([module]).create_child_injector([shop(mailer)])
    app = FastAPI()

    module.install(app, child)

    assert app.state.injector is child
    with TestClient(app) as client:
        client.portal.call(child.get(KvQueue).send_message, "module order", {"id": 1})
        assert client.portal.call(child.get(KvQueue).run_until_idle) == 1
    assert mailer.sent == [({"id": 1}, 1)]


def test_another_module_in_the_same_container_is_an_error(url: str) -> None:
    # pitfall 3: the last one wins, and silently the first would run the second's queue
    first, second = KvQueueModule(url), KvQueueModule(":memory:")
    injector = Injector([first, second])

    with pytest.raises(KvQueueError, match=r"another KvQueueModule.*Install that one"):
        first.install(FastAPI(), injector)

    second.install(FastAPI(), injector)


# --- installing ---


def test_an_app_without_an_injector_gets_one(url: str) -> None:
    app = FastAPI()
    module = KvQueueModule(url)

    module.install(app)

    with TestClient(app) as client:
        queue = app.state.injector.get(KvQueue)
        assert client.portal.call(queue.send_message, "module order") == 1


def test_an_app_takes_the_injector_that_the_module_is_in() -> None:
    app = FastAPI()
    module = KvQueueModule(":memory:")
    injector = Injector([module])

    module.install(app)

    assert app.state.injector is injector


def test_installing_twice_is_an_error() -> None:
    app = FastAPI()
    KvQueueModule(":memory:").install(app)

    with pytest.raises(KvQueueError, match="has a queue already"):
        KvQueueModule(":memory:").install(app)


def test_an_app_with_another_injector_is_an_error() -> None:
    # or routes and handlers would be given different services
    app = FastAPI()
    attach_injector(app, Injector())

    with pytest.raises(KvQueueError, match=r"another injector already.*one with both modules"):
        KvQueueModule(":memory:").install(app)


def test_another_injector_that_is_attached_after_the_install_stops_the_start() -> None:
    app = FastAPI()
    KvQueueModule(":memory:").install(app)
    attach_injector(app, Injector())

    with pytest.raises(KvQueueError, match="another injector already"), TestClient(app):
        pass


def test_installing_after_the_start_is_an_error() -> None:
    app = FastAPI()

    with (
        TestClient(app),
        pytest.raises(KvQueueError, match=r"started already. Call install before"),
    ):
        KvQueueModule(":memory:").install(app)


def test_installing_after_the_end_of_a_start_is_an_error() -> None:
    app = FastAPI()
    with TestClient(app):
        pass

    with pytest.raises(KvQueueError, match="started already"):
        KvQueueModule(":memory:").install(app)


def serving(url: str) -> tuple[FastAPI, Mailer]:
    app, mailer = FastAPI(), Mailer()
    module = KvQueueModule(url, consumers=[OrderService], listen=False)
    module.install(app, Injector([module, shop(mailer)]))

    @app.post("/orders/{order_id}")
    async def create(order_id: int, queue: KvQueueDep) -> int:
        await queue.send_message("module order", {"id": order_id})
        return await queue.run_until_idle()

    return app, mailer


def test_two_apps_in_one_process_have_a_queue_each(tmp_path: Path) -> None:
    (one, to_one), (two, to_two) = serving(str(tmp_path / "1.db")), serving(str(tmp_path / "2.db"))

    with TestClient(one) as client_of_one, TestClient(two) as client_of_two:
        client_of_one.post("/orders/1")
        client_of_two.post("/orders/2")

    assert to_one.sent == [({"id": 1}, 1)]
    assert to_two.sent == [({"id": 2}, 1)]


def test_an_app_starts_again_after_it_has_ended(url: str) -> None:
    # pitfall 9
    app, mailer = serving(url)

    for order_id in (1, 2):
        with TestClient(app) as client:
            assert client.post(f"/orders/{order_id}").json() == 1

    assert mailer.sent == [({"id": 1}, 1), ({"id": 2}, 1)]


# --- without an app ---


async def test_a_queue_runs_without_an_app(url: str) -> None:
    mailer = Mailer()
    module = KvQueueModule(url, consumers=[OrderService], listen=False)

    async with module.running(Injector([module, shop(mailer)])) as queue:
        await queue.send_message("module order", {"id": 1})
        handled = await queue.run_until_idle()

    assert handled == 1
    assert mailer.sent == [({"id": 1}, 1)]


async def test_a_queue_runs_once_at_a_time(url: str) -> None:
    module = KvQueueModule(url)

    async with module.running() as queue:
        with pytest.raises(KvQueueError, match=r"running already. Give each app a KvQueueModule"):
            async with module.running():
                pytest.fail("it ran twice")
        await queue.send_message("module order")


def test_two_apps_cannot_share_one_running_queue(url: str) -> None:
    module = KvQueueModule(url)
    one, two = FastAPI(), FastAPI()
    module.install(one)
    module.install(two)

    with (
        TestClient(one),
        pytest.raises(KvQueueError, match="running already"),
        TestClient(two),
    ):
        pytest.fail("it ran twice")


# --- settings ---


def used_file(module: KvQueueModule) -> str:
    app = FastAPI()
    module.install(app)
    with TestClient(app):
        return next(path.name for path in Path.cwd().glob("*.db"))


@pytest.mark.parametrize(
    ("argument", "settings", "environment", "file"),
    [
        ("argument.db", "settings.db", "environment.db", "argument.db"),
        (None, "settings.db", "environment.db", "settings.db"),
        (None, None, "environment.db", "environment.db"),
        (None, None, None, "kvqueue.db"),
    ],
)
def test_an_argument_wins_over_settings_over_the_environment_over_the_default(
    *,
    argument: str | None,
    settings: str | None,
    environment: str | None,
    file: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if environment:
        monkeypatch.setenv("KVQUEUE_URL", environment)
    chosen = KvQueueSettings(url=settings) if settings else None

    assert used_file(KvQueueModule(argument, settings=chosen)) == file


class AppSettings(KvQueueSettings):
    secret: str = Field(validation_alias="APP_SECRET")


def test_an_argument_wins_over_settings_with_fields_of_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = AppSettings.model_validate({"APP_SECRET": "hush"})

    assert used_file(KvQueueModule("argument.db", settings=settings)) == "argument.db"


def test_an_argument_beside_settings_is_checked() -> None:
    with pytest.raises(ValueError, match="url"):
        KvQueueModule("", settings=KvQueueSettings())


async def test_listen_false_in_the_environment_is_overruled_by_the_argument(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVQUEUE_LISTEN", "false")
    sends, listens = KvQueueModule(url), KvQueueModule(url, listen=True)
    injector = Injector([listens])

    async with sends.running(), listens.running(injector):
        assert len(await injector.get(KvQueueAdmin).listeners()) == 1


# --- wiring errors ---


@pytest.mark.parametrize("wrong", [OrderService, OrderService.handle, "OrderService", 3])
def test_consumers_that_are_no_list_are_refused_at_once(wrong: Any) -> None:
    with pytest.raises(HandlerError, match=r"allowed is a list.*consumers=\[OrderService\]"):
        KvQueueModule(":memory:", consumers=wrong)


def broken_app(url: str, lifespan: Any = None) -> FastAPI:
    app = FastAPI(lifespan=lifespan)
    KvQueueModule(url, consumers=[NeedsWhatNobodyBinds]).install(app)
    return app


def test_a_wiring_error_stops_the_start_and_names_class_parameter_and_remedy(url: str) -> None:
    app = broken_app(url)

    with (
        pytest.raises(
            HandlerError, match=r"NeedsWhatNobodyBinds\(clock\).*binder\.bind\(Clock, to="
        ),
        TestClient(app),
    ):
        pytest.fail("it started")


def test_a_wiring_error_lets_the_users_shutdown_run_and_closes_the_store(url: str) -> None:
    log: list[str] = []

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        log.append("startup")
        yield
        # no try, no finally: as most apps are written
        log.append("shutdown")

    with pytest.raises(HandlerError), TestClient(broken_app(url, lifespan)):
        pytest.fail("it started")

    assert log == ["startup", "shutdown"]
    assert "kvqueue-database" not in [thread.name for thread in threading.enumerate()]


def test_a_wiring_error_is_told_although_the_users_shutdown_fails_as_well(url: str) -> None:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        raise OSError("the pool is gone")

    with pytest.raises(HandlerError) as error, TestClient(broken_app(url, lifespan)):
        pytest.fail("it started")

    assert isinstance(error.value.__context__, OSError)
