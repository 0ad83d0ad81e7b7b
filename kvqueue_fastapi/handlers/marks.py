"""The marks that make a function a handler, and where they are found."""

import functools
import inspect
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple, get_origin

from kvqueue_fastapi.errors import HandlerError

_MARKS: Final = "__kvqueue_marks__"

# names only, because a kept function would keep everything that it refers to
_decorated: Final[dict[str, None]] = {}


class Mark(NamedTuple):
    """What `@on_queue_message` says about a function; None: as the settings say."""

    message_type: str
    concurrency: int | None = None
    timeout_s: float | None = None
    backoff_schedule_ms: tuple[int, ...] | None = None
    give_up_on: tuple[type[Exception], ...] = ()


class MarkedMethod(NamedTuple):
    """A handler as it stands in its class.

    Attributes:
        name: the attribute under which the class has it.
        attribute: as the class body holds it: a function, staticmethod or classmethod.
        marks: one for each message type.
    """

    name: str
    attribute: Any
    marks: tuple[Mark, ...]


def add_mark(attribute: Any, mark: Mark) -> None:
    """Mark a function, and remember its name; see `unregistered`."""
    function = inner_function(attribute)
    setattr(function, _MARKS, (*marks_of(function), mark))
    name = _name(function)
    if name and "<locals>" not in name:
        _decorated[name] = None


def inner_function(attribute: Any) -> Any:
    """Give the function inside a staticmethod or classmethod; anything else as it is."""
    if isinstance(attribute, (staticmethod, classmethod)):
        return attribute.__func__
    return attribute


def marks_of(attribute: Any) -> tuple[Mark, ...]:
    """Give the marks of anything that a class body may hold, without running its code."""
    try:
        # Not getattr, which some objects answer with code of their own, such as pydantic's.
        own = object.__getattribute__(inner_function(attribute), "__dict__")
    except AttributeError:
        return ()
    marks: tuple[Mark, ...] = own.get(_MARKS, ())
    return marks


def marked_methods(consumer: type, interface: type | None = None) -> list[MarkedMethod]:
    """Find the handlers of a class by static look-up; no attribute of it is run.

    Args:
        consumer: the class whose methods handle.
        interface: what the consumer is bound to, where it does not inherit from it: its marks
            count for the methods that it shares with the consumer.

    Returns:
        In the order in which the classes define them, base classes first.

    Raises:
        HandlerError: a handler is overridden by something that is no function.
    """
    chain = dict.fromkeys((*consumer.__mro__, *(interface.__mro__ if interface else ())))
    names = dict.fromkeys(
        name
        for base in reversed(chain)
        for name, attribute in vars(base).items()
        if marks_of(attribute)
    )
    found = (_marked_method(consumer, list(chain), name) for name in names)
    return [method for method in found if method is not None]


def decorated_names(consumer: Any) -> Iterator[str]:
    """Name what a consumer, a class or a function, brings or overrides; for `unregistered`."""
    if not isinstance(consumer, type):
        yield _name(consumer)
        return
    for base in consumer.__mro__:
        for attribute in vars(base).values():
            if marks_of(attribute):
                yield _name(inner_function(attribute))


def unregistered(registered: Iterable[str]) -> list[str]:
    """Name the decorated functions that no consumer brings, as "module.qualname".

    Functions made inside functions are left out: tests and factories make them.

    Args:
        registered: what `decorated_names` gave for every consumer.
    """
    known = set(registered)
    return [name for name in _decorated if name not in known]


def is_async_function(function: Any) -> bool:
    """Whether calling it gives something to await, as far as its definition tells."""
    if inspect.iscoroutinefunction(function):
        return True
    inner = function.func if isinstance(function, functools.partial) else None
    inner = inner or getattr(function, "__wrapped__", None)
    return inner is not None and is_async_function(inner)


def is_function(thing: Any) -> bool:
    """Whether it is a function, or a wrapper around one."""
    return (
        inspect.isfunction(thing)
        or isinstance(thing, functools.partial)
        or (callable(thing) and not isinstance(thing, type) and hasattr(thing, "__wrapped__"))
    )


def refuse_unfit(function: Any, mark: Mark) -> None:
    """Refuse a function that could not be run as its mark says.

    Raises:
        HandlerError: it is a generator, or a `def` handler with a time-out.
    """
    name = describe(function)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        msg = f"{name} is a generator, which nobody would run. Use `return`, not `yield`."
        raise HandlerError(msg)
    if mark.timeout_s is not None and not is_async_function(function):
        msg = (
            f"{name} is a `def` handler with timeout={mark.timeout_s}, but its thread cannot be "
            "cancelled. Make it `async def`, or leave the timeout out."
        )
        raise HandlerError(msg)


def describe(function: Any) -> str:
    """Name a function or class as its author knows it."""
    # list[Order] would pass for list
    name = getattr(function, "__qualname__", None) if get_origin(function) is None else None
    return str(name or repr(function))


def _marked_method(consumer: type, chain: list[type], name: str) -> MarkedMethod | None:
    attribute = next((vars(c)[name] for c in consumer.__mro__ if name in vars(c)), None)
    if attribute is None:
        return None
    if not callable(inner_function(attribute)):
        msg = (
            f"{consumer.__qualname__}.{name} overrides a handler with "
            f"{type(attribute).__name__}. Make it a method, or write `{name} = None` to "
            "switch the handler off."
        )
        raise HandlerError(msg)
    marks = _nearest_marks(chain, name)
    return MarkedMethod(name, attribute, marks) if marks else None


def _nearest_marks(chain: list[type], name: str) -> tuple[Mark, ...]:
    for base in chain:
        attribute = vars(base).get(name, _MARKS)
        # switched off here, so what lies further up does not count
        if attribute is None:
            return ()
        if marks := marks_of(attribute):
            return marks
    return ()


def _name(function: Any) -> str:
    qualname = getattr(function, "__qualname__", "")
    return f"{function.__module__}.{qualname}" if qualname else ""
