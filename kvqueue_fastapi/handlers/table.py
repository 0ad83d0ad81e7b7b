"""The handlers of this process: one a message type, ready to be called."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

from pydantic import TypeAdapter

from kvqueue_fastapi.errors import HandlerError, InvalidOptionError, shown
from kvqueue_fastapi.handlers.marks import Mark, describe, is_async_function, refuse_unfit
from kvqueue_fastapi.message import Message

Resolve: TypeAlias = Callable[[Any], Any]
"""Asks the container for an interface."""

Call: TypeAlias = Callable[[Any, Message[Any], Resolve], Any]
"""Calls a handler with a payload and its message, asking the container for what it needs."""


class Given(Enum):
    """What comes with each message."""

    PAYLOAD = "payload"
    MESSAGE = "message"


class Injected(NamedTuple):
    """What the container gives."""

    interface: Any


class Default(NamedTuple):
    """What stays as the handler's author wrote it."""

    value: Any


Source: TypeAlias = Given | Injected | Default


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What a handler takes, and where each of it comes from.

    Attributes:
        positional: one source for each parameter that can be given by position, in order.
        keyword: likewise for those that have to be named.
        payload: the name of the payload parameter; None: there is none.
        message: the name of the parameter that takes the `Message`; None: there is none.
        injected: the interface of each `Inject[…]` parameter, by its name.
        adapter: reads the payload from JSON; None: it is taken as the JSON says.
    """

    positional: Sequence[Source] = ()
    keyword: Mapping[str, Source] = field(default_factory=dict[str, Source])
    payload: str | None = None
    message: str | None = None
    injected: Mapping[str, Any] = field(default_factory=dict[str, Any])
    adapter: TypeAdapter[Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Handler:
    """One function that takes the messages of one type.

    Attributes:
        message_type: the type.
        name: "OrderService.send_receipt".
        function: what was decorated, or what overrides it.
        parameters: what it takes.
        call: `call(payload, message, resolve)` runs it. It asks the container only where
            `asks_container` says so. What it returns is to be awaited where `is_async`;
            what a `def` handler returns is dropped, also where it could be awaited.
        asks_container: whether the consumer is made for each message, or a parameter is
            `Inject[…]`. Such a call belongs inside a request scope of its own, where the
            container has one.
        is_async: whether it runs on the event loop; if not, in a thread.
        concurrency: how many at a time in this process; None: no limit of its own.
        timeout_s: None: it may take as long as it likes.
        backoff_schedule_ms: None: that of the message or of the settings.
        give_up_on: exceptions that make a dead letter at once.
    """

    message_type: str
    name: str
    function: Callable[..., Any]
    parameters: Parameters
    call: Call
    asks_container: bool = False
    is_async: bool = True
    concurrency: int | None = None
    timeout_s: float | None = None
    backoff_schedule_ms: tuple[int, ...] | None = None
    give_up_on: tuple[type[Exception], ...] = ()

    @property
    def adapter(self) -> TypeAdapter[Any] | None:
        """Reads the payload from JSON; None: it is taken as the JSON says."""
        return self.parameters.adapter


def bind_handler(
    mark: Mark,
    function: Callable[..., Any],
    parameters: Parameters,
    *,
    name: str,
    target: Callable[..., Any] | None = None,
    make_target: Callable[[Resolve], Callable[..., Any]] | None = None,
) -> Handler:
    """Make a handler out of a function's plan.

    Args:
        mark: the type and options.
        function: the function as its author wrote it.
        parameters: what it takes.
        name: for logs and errors.
        target: what to call; None: the function itself.
        make_target: makes what to call, for each message; then `target` is not used.

    Raises:
        HandlerError: a method overrides a handler with what could not be run likewise.
    """
    refuse_unfit(function, mark)
    is_async = is_async_function(function)
    call = _call_for(parameters, target or function, make_target)
    return Handler(
        message_type=mark.message_type,
        name=name,
        function=function,
        parameters=parameters,
        call=call if is_async else _refusing_coroutines(call, name),
        asks_container=make_target is not None or bool(parameters.injected),
        is_async=is_async,
        concurrency=mark.concurrency,
        timeout_s=mark.timeout_s,
        backoff_schedule_ms=mark.backoff_schedule_ms,
        give_up_on=mark.give_up_on,
    )


class HandlerTable:
    """Which handler takes which message type; built once, at start-up.

    Args:
        resolve: asks the container; what `Handler.call` wants.
        request_scope: opens a request scope for one message; None: the container has none.
    """

    def __init__(
        self,
        resolve: Resolve | None = None,
        request_scope: Callable[[], AbstractAsyncContextManager[None]] | None = None,
    ) -> None:
        self.resolve: Resolve = resolve or _no_container
        self.request_scope = request_scope
        self._handlers: dict[str, Handler] = {}

    def add(self, handler: Handler) -> None:
        """Take a handler in.

        Raises:
            HandlerError: another one takes its type already.
        """
        known = self._handlers.setdefault(handler.message_type, handler)
        if known is not handler:
            msg = (
                f"Two handlers take {handler.message_type!r}: {_place(known)} and "
                f"{_place(handler)}. Send two messages, or let one handler call the other."
            )
            raise HandlerError(msg)

    def get(self, message_type: str) -> Handler | None:
        """Give the handler of a type; None: this process does not handle it."""
        return self._handlers.get(message_type)

    def adapter_of(self, message_type: str) -> TypeAdapter[Any] | None:
        """Give what reads the payload of a type; None: nobody here, or whatever JSON holds."""
        handler = self._handlers.get(message_type)
        return None if handler is None else handler.parameters.adapter

    @property
    def types(self) -> tuple[str, ...]:
        """The types that this process handles, in the order in which they were added."""
        return tuple(self._handlers)

    def only(self, types: Iterable[str]) -> "HandlerTable":
        """Give the handlers of some of the types, as a table of their own.

        Raises:
            InvalidOptionError: nobody here handles one of them.
        """
        chosen = HandlerTable(self.resolve, self.request_scope)
        for message_type in types:
            handler = self.get(message_type)
            if handler is None:
                there = ", ".join(self.types) or "none"
                msg = f"Nobody here handles {shown(message_type)}. Handled are: {there}."
                raise InvalidOptionError(msg)
            chosen.add(handler)
        return chosen

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._handlers.values())

    def __len__(self) -> int:
        return len(self._handlers)


def _no_container(interface: Any) -> Any:
    msg = f"{describe(interface)} cannot be made without an injector. Register the module in one."
    raise HandlerError(msg)


def _place(handler: Handler) -> str:
    return f"{handler.name} (in {handler.function.__module__})"


def _call_for(
    parameters: Parameters,
    target: Callable[..., Any],
    make_target: Callable[[Resolve], Callable[..., Any]] | None,
) -> Call:
    if make_target is None and not parameters.keyword:
        # the shapes that most handlers have, because a loop costs more than the call
        match tuple(parameters.positional):
            case ():
                return lambda _payload, _message, _resolve: target()
            case (Given.PAYLOAD,):
                return lambda payload, _message, _resolve: target(payload)
            case (Given.MESSAGE,):
                return lambda _payload, message, _resolve: target(message)
            case (Given.PAYLOAD, Given.MESSAGE):
                return lambda payload, message, _resolve: target(payload, message)
            case _:
                pass
    return _any_call(parameters, make_target or (lambda _resolve: target))


def _refusing_coroutines(call: Call, name: str) -> Call:
    """Of a `def` handler: what it left undone must not pass for handled."""

    def checked(payload: Any, message: Message[Any], resolve: Resolve) -> Any:
        result = call(payload, message, resolve)
        if not inspect.iscoroutine(result):
            return result
        result.close()
        msg = (
            f"{name} is a `def` handler that returned a coroutine, which nobody awaits. Make it "
            "`async def` and await it; a decorator around an `async def` needs functools.wraps."
        )
        raise HandlerError(msg)

    return checked


def _any_call(parameters: Parameters, make_target: Callable[[Resolve], Callable[..., Any]]) -> Call:
    positional, keyword = tuple(parameters.positional), tuple(parameters.keyword.items())

    def call(payload: Any, message: Message[Any], resolve: Resolve) -> Any:
        def value(source: Source) -> Any:
            if source is Given.PAYLOAD:
                return payload
            if source is Given.MESSAGE:
                return message
            return resolve(source.interface) if isinstance(source, Injected) else source.value

        target = make_target(resolve)
        return target(*map(value, positional), **{name: value(given) for name, given in keyword})

    return call
