"""Which consumers the container holds, and the handlers they bring."""

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NewType, get_origin

from injector import Binder, Injector

from kvqueue_fastapi.errors import HandlerError, shown
from kvqueue_fastapi.handlers.marks import (
    Mark,
    MarkedMethod,
    decorated_names,
    describe,
    inner_function,
    is_function,
    marked_methods,
    marks_of,
    unregistered,
)
from kvqueue_fastapi.handlers.parameters import plan_parameters
from kvqueue_fastapi.handlers.table import Handler, HandlerTable, Resolve, bind_handler
from kvqueue_fastapi.handlers.wiring import Wiring

log = logging.getLogger("kvqueue_fastapi")


@dataclass(frozen=True, slots=True)
class Contribution:
    """A consumer that a module adds; the private key is `list[Contribution]`."""

    consumer: Any


def contribute_consumers(binder: Binder, *consumers: Any) -> None:
    """Add consumers from a module of the app, so that no central list has to name them.

    Call it in the module's `configure`:

        class AuditModule(Module):
            def configure(self, binder: Binder) -> None:
                contribute_consumers(binder, AuditService)

    Args:
        binder: what `configure` is given.
        consumers: classes, interfaces that are bound to classes, and decorated functions.

    Raises:
        HandlerError: one is an instance.
    """
    for consumer in consumers:
        _refuse_instance(consumer)
    binder.multibind(list[Contribution], to=[Contribution(consumer) for consumer in consumers])


async def collect_handlers(
    injector: Injector,
    consumers: Iterable[Any] = (),
    callbacks: Mapping[str, Callable[..., Any]] | None = None,
    *,
    warn: bool = True,
) -> HandlerTable:
    """Find every consumer, have the container make it once, and plan its handlers.

    Consumers are those listed here, those that modules contributed, and classes with handlers
    that modules bound. A class counts once, however many of its interfaces are named: what a
    module bound comes before what the container makes by itself. A class that is only in a
    multibinding or only comes out of a provider function of an interface is not seen; list it.

    A consumer that needs the request scope of fastapi-injector is made for each message.
    Decorated functions that no consumer brings are named in a warning.

    Args:
        injector: the app's container.
        consumers: classes, interfaces that are bound to classes, and decorated functions.
        callbacks: functions that were added by hand, by message type.
        warn: False: this process leaves handling to others, so nothing is missing here.

    Raises:
        HandlerError: something cannot be made or called, or two handlers take one type. Stops
            the start-up; the text names the class, the parameter and the remedy.
    """
    collection = _Collection(injector)
    listed = [*consumers, *(c.consumer for c in collection.wiring.multibound(list[Contribution]))]
    for consumer in listed:
        _refuse_instance(consumer)
    for consumer in dict.fromkeys(listed):
        if is_function(consumer):
            await collection.add_function(consumer)
    for key in collection.in_order(c for c in listed if not is_function(c)):
        await collection.add_consumer(key, listed=key in listed)
    for message_type, callback in (callbacks or {}).items():
        await collection.add_callback(message_type, callback)
    for name in unregistered(collection.names) if warn else ():
        log.warning(
            "%s is decorated with @on_queue_message, but no consumer brings it: its messages "
            "wait. Put its class, or the function, into consumers=[…].",
            name,
        )
    return collection.table


def handler_of_callback(message_type: str, callback: Callable[..., Any]) -> Handler:
    """Make a handler of a function that nobody decorated.

    Raises:
        HandlerError: it has parameters that a handler cannot have.
    """
    if isinstance(callback, type) or not callable(callback):
        msg = (
            f"{shown(callback)} is given as a handler of {message_type!r}, allowed is a function. "
            "Give a function or a bound method; a class is listed as a consumer."
        )
        raise HandlerError(msg)
    called = _called(callback)
    name = describe(called)
    try:
        parameters = plan_parameters(inner_function(called), name=name)
    except ValueError as error:  # such as a builtin, of which nobody knows what it takes
        msg = f"{name} has no signature: {error}. Give a function that calls it."
        raise HandlerError(msg) from error
    return bind_handler(Mark(message_type), called, parameters, name=name)


class _Collection:
    """What was found so far.

    Attributes:
        names: see `decorated_names`.
    """

    def __init__(self, injector: Injector) -> None:
        self.wiring = Wiring(injector)
        self.table = HandlerTable(injector.get, self.wiring.request_scope)
        self.names: list[str] = []
        self._classes: set[type | None] = set()

    def in_order(self, listed: Iterable[Any]) -> list[Any]:
        bound = (key for key in self.wiring.explicit_keys() if self._has_handlers(key))
        return sorted(dict.fromkeys((*listed, *bound)), key=self._is_implicit)

    async def add_function(self, function: Callable[..., Any]) -> None:
        """Take the handlers of a listed function."""
        name = describe(function)
        marks = marks_of(function)
        if not marks:
            msg = f'{name} is listed as a consumer. Decorate it: @on_queue_message("its.type").'
            raise HandlerError(msg)
        if next(iter(inspect.signature(function).parameters), "") == "self":
            msg = f"{name} is a method without its object. List its class as the consumer."
            raise HandlerError(msg)
        self.names += decorated_names(function)
        parameters = plan_parameters(function, name=name)
        for mark in marks:
            await self._add(bind_handler(mark, function, parameters, name=name))

    async def add_callback(self, message_type: str, callback: Callable[..., Any]) -> None:
        """Take a handler that was added by hand."""
        await self._add(handler_of_callback(message_type, callback))

    async def add_consumer(self, key: Any, *, listed: bool) -> None:
        """Have the container make a consumer, and take its handlers; once for each class."""
        self.names += decorated_names(key)
        # a class that is bound under two names brings its handlers once
        if self.wiring.implementation(key) in self._classes:
            return
        consumer = await self.wiring.make(key, asked_by=f"Consumer {describe(key)}")
        cls = type(consumer)
        if cls in self._classes:
            return
        self._classes.add(cls)
        self.names += decorated_names(cls)
        methods = marked_methods(cls, key if isinstance(key, type) else None)
        if listed and not methods:
            msg = (
                f"Consumer {describe(key)} has no handler in {cls.__qualname__}. "
                'Decorate a method: @on_queue_message("its.type").'
            )
            raise HandlerError(msg)
        for method in methods:
            await self._add_method(key, consumer, method)

    async def _add_method(self, key: Any, consumer: Any, method: MarkedMethod) -> None:
        name = f"{type(consumer).__name__}.{method.name}"
        function = inner_function(method.attribute)
        parameters = plan_parameters(function, name=name, is_method=_is_bound(method.attribute))
        target, make_target = getattr(consumer, method.name), None
        if self.wiring.is_scoped(key):
            target, make_target = None, _maker(key, method.name)
        for mark in method.marks:
            handler = bind_handler(
                mark, function, parameters, name=name, target=target, make_target=make_target
            )
            await self._add(handler)

    async def _add(self, handler: Handler) -> None:
        for parameter, interface in handler.parameters.injected.items():
            await self.wiring.make(interface, asked_by=f"{handler.name}({parameter})")
        self.table.add(handler)

    def _has_handlers(self, key: Any) -> bool:
        cls = self.wiring.implementation(key)
        interface = key if isinstance(key, type) else None
        return any(marked_methods(c, interface) for c in (cls, interface) if c is not None)

    def _is_implicit(self, key: Any) -> bool:
        return not self.wiring.is_explicit(key)


def _maker(key: Any, name: str) -> Callable[[Resolve], Callable[..., Any]]:
    def make_target(resolve: Resolve) -> Callable[..., Any]:
        target: Callable[..., Any] = getattr(resolve(key), name)
        return target

    return make_target


def _called(callback: Any) -> Callable[..., Any]:
    is_object = not (
        is_function(callback) or inspect.isroutine(callback) or isinstance(callback, type)
    )
    # of an object, it is this method that has the annotations and is async or not
    called: Callable[..., Any] = callback.__call__ if is_object else callback
    return called


def _is_bound(attribute: Any) -> bool:
    return hasattr(type(attribute), "__get__") and not isinstance(attribute, staticmethod)


def _refuse_instance(consumer: Any) -> None:
    is_key = isinstance(consumer, (type, NewType)) or get_origin(consumer) is not None
    if is_key or is_function(consumer):
        return
    cls = type(getattr(consumer, "__self__", consumer)).__qualname__
    msg = (
        f"{consumer!r} is listed as a consumer, allowed are classes and functions. List the class "
        f"{cls}; if it must be this instance, bind it: binder.bind({cls}, to=…)."
    )
    raise HandlerError(msg)
