import functools
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol

import fastapi_injector
import pytest
from fastapi import FastAPI
from injector import (
    Binder,
    Inject,
    Injector,
    Module,
    provider,
    singleton,
)
from pydantic import BaseModel

from kvqueue_fastapi.errors import HandlerError
from kvqueue_fastapi.handlers.consumers import collect_handlers, contribute_consumers
from kvqueue_fastapi.handlers.decorator import on_queue_message
from kvqueue_fastapi.handlers.table import HandlerTable
from kvqueue_fastapi.message import Hold, Message
from kvqueue_fastapi.model import Claim

MESSAGE = Message(Hold(Claim(1, 1, "a", "7", 1, 0, 0, None, None), 0.0), 7, {})


class Session: ...


class Mailer:
    def __init__(self, session: Inject[Session]) -> None:
        self.session = session


class OrderPort(ABC):
    @abstractmethod
    def handle(self, order: Any) -> Any: ...


class OrderService(OrderPort):
    def __init__(self, mailer: Inject[Mailer]) -> None:
        self.mailer = mailer

    @on_queue_message("order")
    def handle(self, order: Any) -> Any:
        return (self, order)


class AuditService:
    @on_queue_message("audit")
    @staticmethod
    def audit(entry: Any) -> Any:
        return entry

    @classmethod
    @on_queue_message("count")
    def count(cls, number: Any) -> Any:
        return (cls, number)


@on_queue_message("ping")
def ping(data: Any, mailer: Inject[Mailer]) -> Any:
    return (data, mailer)


def call(table: HandlerTable, message_type: str) -> Any:
    handler = table.get(message_type)
    assert handler is not None
    return handler.call(7, MESSAGE, table.resolve)


@pytest.fixture
def scoped() -> Iterator[Injector]:
    injector = Injector()
    fastapi_injector.attach_injector(FastAPI(), injector)
    injector.binder.bind(Session, scope=fastapi_injector.request_scope)
    yield injector
    injector.get(fastapi_injector.RequestScope)._loop.close()


# discovery


async def test_a_listed_class_brings_its_bound_methods() -> None:
    table = await collect_handlers(Injector(), [OrderService, AuditService])

    assert table.types == ("order", "audit", "count")
    assert call(table, "audit") == 7
    assert call(table, "count") == (AuditService, 7)
    service, order = call(table, "order")
    assert (type(service), order) == (OrderService, 7)


async def test_a_consumer_is_made_once() -> None:
    table = await collect_handlers(Injector(), [OrderService])

    assert call(table, "order")[0] is call(table, "order")[0]
    assert not next(iter(table)).asks_container


async def test_handlers_are_named_after_class_and_method() -> None:
    table = await collect_handlers(Injector(), [OrderService, ping])

    assert {handler.name for handler in table} == {"ping", "OrderService.handle"}


async def test_a_listed_function_is_a_consumer() -> None:
    table = await collect_handlers(Injector(), [ping])

    data, mailer = call(table, "ping")

    assert data == 7
    assert isinstance(mailer, Mailer)


async def test_a_listed_interface_is_planned_from_what_is_bound_to_it() -> None:
    class Port(Protocol):
        @on_queue_message("order")
        def handle(self, order: Any) -> Any: ...

    class Service:
        def handle(self, message: Message[Any]) -> Any:
            return message

    injector = Injector(lambda binder: binder.bind(Port, to=Service))
    table = await collect_handlers(injector, [Port])

    assert call(table, "order") is MESSAGE


async def test_interface_and_implementation_together_are_one_handler() -> None:
    def configure(binder: Binder) -> None:
        binder.bind(OrderPort, to=OrderService, scope=singleton)

    injector = Injector(configure)
    table = await collect_handlers(injector, [OrderService, OrderPort, OrderService])

    assert table.types == ("order",)
    assert call(table, "order")[0] is injector.get(OrderPort)


async def test_a_provider_of_an_interface_is_one_handler_with_its_class() -> None:
    class Shop(Module):
        @provider
        @singleton
        def port(self, mailer: Mailer) -> OrderPort:
            return OrderService(mailer)

    injector = Injector([Shop()])
    table = await collect_handlers(injector, [OrderService, OrderPort])

    assert call(table, "order")[0] is injector.get(OrderPort)


async def test_modules_contribute_consumers() -> None:
    class Audit(Module):
        def configure(self, binder: Binder) -> None:
            contribute_consumers(binder, AuditService)

    class Ping(Module):
        def configure(self, binder: Binder) -> None:
            contribute_consumers(binder, ping)

    table = await collect_handlers(Injector([Audit(), Ping()]))

    assert set(table.types) == {"audit", "count", "ping"}


async def test_contributions_of_a_parent_count() -> None:
    parent = Injector(lambda binder: contribute_consumers(binder, AuditService))
    child = parent.create_child_injector(lambda binder: contribute_consumers(binder, ping))

    table = await collect_handlers(child)

    assert set(table.types) == {"audit", "count", "ping"}


async def test_bound_classes_with_handlers_are_found() -> None:
    def configure(binder: Binder) -> None:
        binder.bind(OrderPort, to=OrderService)
        binder.bind(AuditService, to=AuditService())
        binder.multibind(list[Mailer], to=Mailer)

    table = await collect_handlers(Injector(configure))

    assert set(table.types) == {"order", "audit", "count"}


async def test_bindings_of_a_parent_are_found() -> None:
    parent = Injector(lambda binder: binder.bind(AuditService))

    table = await collect_handlers(parent.create_child_injector())

    assert set(table.types) == {"audit", "count"}


async def test_classes_that_are_only_made_on_demand_are_not_found() -> None:
    injector = Injector()
    injector.get(OrderService)

    assert len(await collect_handlers(injector)) == 0


# what may not be listed


async def test_an_instance_is_refused() -> None:
    service = AuditService()

    for listed in (service, service.count):
        with pytest.raises(HandlerError, match=r"List the class.*binder\.bind\("):
            await collect_handlers(Injector(), [listed])
    with pytest.raises(HandlerError, match="List the class AuditService"):
        Injector(lambda binder: contribute_consumers(binder, service))


async def test_a_consumer_without_handlers_is_refused() -> None:
    with pytest.raises(HandlerError, match="Consumer Mailer has no handler in Mailer"):
        await collect_handlers(Injector(), [Mailer])
    with pytest.raises(HandlerError, match="call is listed as a consumer"):
        await collect_handlers(Injector(), [call])


async def test_a_method_without_its_object_is_refused() -> None:
    with pytest.raises(HandlerError, match=r"OrderService\.handle is a method without its object"):
        await collect_handlers(Injector(), [OrderService.handle])


async def test_two_handlers_of_one_type_are_refused() -> None:
    class Other:
        @on_queue_message("order")
        def take(self) -> None: ...

    with pytest.raises(HandlerError, match=r"'order': OrderService\.handle .* and Other\.take"):
        await collect_handlers(Injector(), [OrderService, Other])


async def test_an_override_keeps_the_time_out_that_its_thread_cannot_have() -> None:
    class Base:
        @on_queue_message("slow", timeout=1)
        async def handle(self) -> None: ...

    class Sub(Base):
        def handle(self) -> None: ...

    with pytest.raises(HandlerError, match="thread cannot be cancelled"):
        await collect_handlers(Injector(), [Sub])


@on_queue_message("forgotten")
def forgotten() -> None: ...


async def test_a_decorated_function_that_nobody_brings_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "kvqueue_fastapi"):
        await collect_handlers(Injector(), [OrderService])

    warned = [str(record.args[0]) for record in caplog.records if record.args]
    assert f"{__name__}.forgotten" in warned
    assert f"{__name__}.OrderService.handle" not in warned


# the request scope


async def test_without_a_request_scope_there_is_none_to_open() -> None:
    assert (await collect_handlers(Injector(), [OrderService])).request_scope is None


async def test_the_request_scope_is_not_looked_for_where_its_library_is_not_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "fastapi_injector")

    assert (await collect_handlers(Injector(), [OrderService])).request_scope is None


async def test_three_messages_have_three_sessions(scoped: Injector) -> None:
    table = await collect_handlers(scoped, [OrderService])
    services = []

    for _ in range(3):
        assert table.request_scope is not None
        async with table.request_scope():
            services.append(call(table, "order")[0])

    assert next(iter(table)).asks_container
    assert len({service.mailer.session for service in services}) == 3


async def test_injected_parameters_share_the_scope_of_their_message(scoped: Injector) -> None:
    table = await collect_handlers(scoped, [ping])

    assert table.request_scope is not None
    async with table.request_scope():
        assert call(table, "ping")[1].session is scoped.get(Session)


async def test_a_consumer_that_needs_no_scope_is_made_once_beside_one(scoped: Injector) -> None:
    table = await collect_handlers(scoped, [OrderService, AuditService])

    asks = {handler.message_type: handler.asks_container for handler in table}

    assert asks == {"order": True, "audit": False, "count": False}


async def test_a_partial_can_be_listed() -> None:
    table = await collect_handlers(
        Injector(), [on_queue_message("part")(functools.partial(call, HandlerTable()))]
    )

    assert table.types == ("part",)


class CallableService:
    async def __call__(self, size: int) -> int:
        return size


async def test_a_callable_object_is_planned_as_the_method_that_is_called() -> None:
    table = await collect_handlers(Injector(), callbacks={"size": CallableService()})

    handler = table.get("size")
    assert handler is not None
    assert handler.is_async
    assert handler.adapter is not None
    assert handler.adapter.validate_json("7") == 7


class BoundModel(BaseModel):
    name: str = "shop"


async def test_a_bound_pydantic_model_does_not_hinder_the_search_for_consumers() -> None:
    injector = Injector([lambda binder: binder.bind(BoundModel, to=BoundModel())])

    table = await collect_handlers(injector, [])

    assert len(table) == 0
