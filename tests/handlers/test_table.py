import functools
from collections.abc import Callable
from typing import Any

import pytest
from injector import Inject
from pydantic import BaseModel

from kvqueue_fastapi.errors import HandlerError, InvalidOptionError
from kvqueue_fastapi.handlers.marks import Mark
from kvqueue_fastapi.handlers.parameters import plan_parameters
from kvqueue_fastapi.handlers.table import Handler, HandlerTable, bind_handler
from kvqueue_fastapi.message import Hold, Message
from kvqueue_fastapi.model import Claim


class Order(BaseModel):
    id: int


class Mailer: ...


MAILER = Mailer()
MESSAGE = Message(Hold(Claim(1, 1, "a", "7", 1, 0, 0, None, None), 0.0), 7, {})


def bind(function: Callable[..., Any], mark: Mark = Mark("a"), **options: Any) -> Handler:  # noqa: B008
    parameters = plan_parameters(function, name=function.__qualname__)
    return bind_handler(mark, function, parameters, name=function.__qualname__, **options)


def never(interface: Any) -> Any:
    raise AssertionError(interface)


def give(interface: Any) -> Any:
    assert interface is Mailer
    return MAILER


def nothing() -> Any:
    return ()


def payload(order: Any) -> Any:
    return (order,)


def message(message: Message[Any]) -> Any:
    return (message,)


def both(order: Any, message: Message[Any]) -> Any:
    return (order, message)


def turned(message: Message[Any], order: Any) -> Any:
    return (order, message)


def named(*, order: Any, message: Message[Any], size: int = 3) -> Any:
    return (order, message, size)


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (nothing, ()),
        (payload, (7,)),
        (message, (MESSAGE,)),
        (both, (7, MESSAGE)),
        (turned, (7, MESSAGE)),
        (named, (7, MESSAGE, 3)),
    ],
)
def test_a_handler_is_given_what_it_takes_without_the_container(
    function: Callable[..., Any], given: tuple[Any, ...]
) -> None:
    handler = bind(function)

    assert handler.call(7, MESSAGE, never) == given
    assert not handler.asks_container


def test_injected_parameters_are_asked_for_at_each_call() -> None:
    def handle(retries: int = 3, *, order: Any, mailer: Inject[Mailer]) -> Any:
        return (retries, order, mailer)

    handler = bind(handle)

    assert handler.asks_container
    assert handler.call(7, MESSAGE, give) == (3, 7, MAILER)


def test_a_target_can_be_made_for_each_message() -> None:
    asked: list[Any] = []

    def make_target(resolve: Callable[[Any], Any]) -> Callable[..., Any]:
        asked.append(resolve(Mailer))
        return payload

    handler = bind(payload, make_target=make_target)

    assert handler.call(1, MESSAGE, give) == (1,)
    assert handler.call(2, MESSAGE, give) == (2,)
    assert asked == [MAILER, MAILER]
    assert handler.asks_container


def test_options_of_the_mark_arrive() -> None:
    async def handle(order: Order) -> None: ...

    handler = bind(handle, Mark("a", 2, 1.5, (500,), (KeyError,)))

    assert (handler.message_type, handler.concurrency, handler.timeout_s) == ("a", 2, 1.5)
    assert (handler.backoff_schedule_ms, handler.give_up_on) == ((500,), (KeyError,))
    assert handler.adapter is not None


def test_async_is_told_from_the_function_and_what_it_wraps() -> None:
    async def handle(order: Any) -> None: ...

    @functools.wraps(handle)
    def wrapper(order: Any) -> Any:
        return handle(order)

    partial = functools.partial(handle)
    functools.update_wrapper(partial, handle)

    assert bind(handle).is_async
    assert bind(wrapper).is_async
    assert bind(partial).is_async
    assert not bind(payload).is_async


def test_a_sync_override_of_a_handler_with_a_timeout_is_refused() -> None:
    with pytest.raises(HandlerError, match="payload is a `def` handler with timeout=1"):
        bind(payload, Mark("a", timeout_s=1.0))


def test_a_def_handler_that_gives_a_coroutine_has_failed() -> None:
    # Or a message would pass for handled that nobody has handled.
    async def work(order: Any) -> None: ...

    def handle(order: Any) -> Any:
        return work(order)

    with pytest.raises(HandlerError, match=r"handle is a `def` handler .* Make it `async def`"):
        bind(handle).call(7, MESSAGE, never)


def test_a_table_finds_handlers_by_type() -> None:
    table = HandlerTable()
    first, second = bind(payload), bind(nothing, Mark("b"))

    table.add(first)
    table.add(second)

    assert table.get("a") is first
    assert table.get("c") is None
    assert table.types == ("a", "b")
    assert list(table) == [first, second]


def test_a_table_of_some_types_has_these_alone() -> None:
    table = HandlerTable()
    first, second = bind(payload), bind(nothing, Mark("b"))
    table.add(first)
    table.add(second)

    assert list(table.only(["b"])) == [second]
    assert table.types == ("a", "b")
    with pytest.raises(InvalidOptionError, match=r"Nobody here handles 'c'\. Handled are: a, b\."):
        table.only(["a", "c"])


def test_two_handlers_of_one_type_are_refused_by_name() -> None:
    table = HandlerTable()
    table.add(bind(payload))

    with pytest.raises(HandlerError, match=r"take 'a': payload \(in .*\) and nothing \(in"):
        table.add(bind(nothing))


def test_a_table_without_container_says_so() -> None:
    with pytest.raises(HandlerError, match="Mailer cannot be made without an injector"):
        HandlerTable().resolve(Mailer)
