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
    ProviderOf,
    inject,
    multiprovider,
    provider,
    singleton,
)

from kvqueue_fastapi.errors import HandlerError
from kvqueue_fastapi.handlers.consumers import collect_handlers
from kvqueue_fastapi.handlers.decorator import on_queue_message


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

    @on_queue_message("wired")
    def handle(self, order: Any) -> Any: ...


@on_queue_message("wired ping")
def ping(data: Any, mailer: Inject[Mailer]) -> Any: ...


@pytest.fixture
def scoped() -> Iterator[Injector]:
    injector = Injector()
    fastapi_injector.attach_injector(FastAPI(), injector)
    injector.binder.bind(Session, scope=fastapi_injector.request_scope)
    yield injector
    injector.get(fastapi_injector.RequestScope)._loop.close()


async def assert_refused(injector: Injector, consumer: Any, match: str) -> None:
    with pytest.raises(HandlerError, match=match):
        await collect_handlers(injector, [consumer])


def needing(interface: Any) -> type:
    class Consumer:
        @inject
        def __init__(self, needed: interface) -> None: ...

        @on_queue_message("a")
        def handle(self) -> None: ...

    return Consumer


async def test_an_abstract_dependency_is_named_with_its_parameter() -> None:
    await assert_refused(
        Injector(),
        needing(OrderPort),
        r"Consumer .*: OrderPort, which Consumer\(needed\) needs, is abstract.*bind\(OrderPort",
    )


async def test_a_protocol_that_nothing_implements_is_named_with_its_parameter() -> None:
    class Port(Protocol): ...

    await assert_refused(
        Injector(),
        needing(Port),
        r"Port, which Consumer\(needed\) needs, is bound by nothing.*bind\(",
    )


async def test_a_listed_interface_that_nothing_implements_is_refused() -> None:
    await assert_refused(
        Injector(), OrderPort, "Consumer OrderPort: OrderPort is abstract.*Bind it"
    )


async def test_an_unbound_dependency_is_named() -> None:
    def configure(binder: Binder) -> None:
        binder.bind(OrderService)
        binder.bind(Mailer)

    await assert_refused(
        Injector(configure, auto_bind=False),
        OrderService,
        r"Session, which Mailer\(session\) needs, is bound by nothing",
    )


async def test_a_constructor_that_is_not_annotated_is_refused() -> None:
    class Consumer:
        def __init__(self, mailer: Mailer) -> None: ...

        @on_queue_message("a")
        def handle(self) -> None: ...

    await assert_refused(
        Injector(), Consumer, r"cannot be made: .*'mailer'\. Annotate .* Inject\[…\]"
    )


@pytest.mark.parametrize("annotate", [lambda init: init, inject])
async def test_a_constructor_whose_annotation_has_no_name_at_run_time_is_refused(
    annotate: Any,
) -> None:
    class Consumer:
        @annotate
        def __init__(self, mailer: "Inject[OnlyForTypeCheckers]") -> None: ...  # noqa: F821

        @on_queue_message("a")
        def handle(self) -> None: ...

    await assert_refused(
        Injector(),
        Consumer,
        r"Consumer cannot be made: .*Consumer\(mailer\) .*OnlyForTypeCheckers.* Import it at",
    )


class Chicken:
    @inject
    def __init__(self, egg: "Egg") -> None: ...

    @on_queue_message("a")
    def handle(self) -> None: ...


class Egg:
    @inject
    def __init__(self, chicken: Chicken) -> None: ...


async def test_a_circle_is_refused() -> None:
    await assert_refused(
        Injector(), Chicken, r"Chicken cannot be made: circular .* ProviderOf\[…\]"
    )


async def test_an_error_of_a_constructor_is_told() -> None:
    class Consumer:
        def __init__(self) -> None:
            msg = "no network"
            raise OSError(msg)

        @on_queue_message("a")
        def handle(self) -> None: ...

    await assert_refused(Injector(), Consumer, "Consumer cannot be made: OSError: no network")


class AsyncShop(Module):
    @provider
    async def mailer(self) -> Mailer:
        return Mailer(Session())


async def test_an_async_provider_is_refused_before_it_runs() -> None:
    await assert_refused(
        Injector([AsyncShop()]),
        OrderService,
        r"Mailer, which OrderService\(mailer\) needs, has an `async def` provider",
    )


async def test_a_coroutine_from_a_plain_provider_is_refused_and_closed() -> None:
    async def make() -> Mailer:
        return Mailer(Session())

    injector = Injector(lambda binder: binder.bind(Mailer, to=lambda: make()))  # noqa: PLW0108

    await assert_refused(injector, ping, r"ping\(mailer\): Mailer is a coroutine")


async def test_injected_parameters_are_tried_at_the_start() -> None:
    class Consumer:
        @on_queue_message("a")
        def handle(self, order: Any, port: Inject[OrderPort]) -> None: ...

    await assert_refused(Injector(), Consumer, r"Consumer\.handle\(port\): OrderPort is abstract")


async def test_lists_of_multibindings_are_looked_into() -> None:
    injector = Injector(lambda binder: binder.multibind(list[OrderPort], to=OrderPort))

    await assert_refused(injector, needing(list[OrderPort]), r"list\[.*OrderPort\], .* is abstract")


async def test_what_a_multiprovider_gives_is_fine() -> None:
    class Shop(Module):
        @multiprovider
        def mailers(self, mailer: Mailer) -> list[Mailer]:
            return [mailer]

    table = await collect_handlers(Injector([Shop()]), [needing(list[Mailer])])

    assert table.types == ("a",)


async def test_a_singleton_that_would_keep_a_scoped_dependency_is_refused(
    scoped: Injector,
) -> None:
    scoped.binder.bind(Mailer, scope=singleton)

    await assert_refused(
        scoped, OrderService, r"Mailer, which OrderService\(mailer\) needs, is a singleton"
    )


async def test_a_singleton_may_hold_a_provider_of_a_scoped_dependency(scoped: Injector) -> None:
    consumer = needing(ProviderOf[Session])
    scoped.binder.bind(consumer, scope=singleton)

    assert (await collect_handlers(scoped)).types == ("a",)


async def test_a_scoped_binding_without_attached_scope_is_refused() -> None:
    injector = Injector(lambda binder: binder.bind(Session, scope=fastapi_injector.request_scope))

    await assert_refused(injector, OrderService, r"needs the request scope.*attach_injector\(app")


@pytest.mark.parametrize("interface", [ProviderOf[Mailer], list[Mailer], Session])
async def test_the_need_of_a_scope_is_seen_through_indirections(
    scoped: Injector, interface: Any
) -> None:
    scoped.binder.multibind(list[Mailer], to=Mailer)

    table = await collect_handlers(scoped, [needing(interface)])

    assert next(iter(table)).asks_container
