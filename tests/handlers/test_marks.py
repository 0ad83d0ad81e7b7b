import functools
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from kvqueue_fastapi.errors import HandlerError
from kvqueue_fastapi.handlers.decorator import on_queue_message
from kvqueue_fastapi.handlers.marks import decorated_names, marked_methods, unregistered


def types_of(consumer: type, interface: type | None = None) -> dict[str, list[str]]:
    methods = marked_methods(consumer, interface)
    return {m.name: [mark.message_type for mark in m.marks] for m in methods}


class Base:
    @on_queue_message("a")
    async def handle(self) -> None: ...


def test_inherited_handlers_count() -> None:
    class Sub(Base): ...

    assert types_of(Sub) == {"handle": ["a"]}


def test_an_undecorated_override_keeps_its_type() -> None:
    class Sub(Base):
        async def handle(self) -> None: ...

    (method,) = marked_methods(Sub)

    assert method.attribute is vars(Sub)["handle"]
    assert types_of(Sub) == {"handle": ["a"]}


def test_a_decorated_override_replaces_the_type() -> None:
    class Sub(Base):
        @on_queue_message("b")
        async def handle(self) -> None: ...

    assert types_of(Sub) == {"handle": ["b"]}


def test_none_switches_a_handler_off_also_for_subclasses() -> None:
    class Sub(Base):
        handle = None

    class Below(Sub):
        async def handle(self) -> None: ...

    assert types_of(Sub) == {}
    assert types_of(Below) == {}


def test_an_override_that_is_no_function_is_refused() -> None:
    class Sub(Base):
        handle = 7

    with pytest.raises(HandlerError, match=r"Sub.handle overrides .* int.*handle = None"):
        marked_methods(Sub)


def test_static_and_class_methods_count_in_both_decorator_orders() -> None:
    class Service:
        @on_queue_message("a")
        @staticmethod
        async def above_static() -> None: ...

        @staticmethod
        @on_queue_message("b")
        async def below_static() -> None: ...

        @on_queue_message("c")
        @classmethod
        async def above_class(cls) -> None: ...

        @classmethod
        @on_queue_message("d")
        async def below_class(cls) -> None: ...

    assert [types for (types,) in types_of(Service).values()] == ["a", "b", "c", "d"]


def test_wrapped_handlers_keep_their_type() -> None:
    class Service:
        @functools.lru_cache  # noqa: B019 because only its wrapping matters
        @on_queue_message("a")
        def handle(self) -> None: ...

    assert types_of(Service) == {"handle": ["a"]}


def test_looking_runs_no_property() -> None:
    class Service:
        @property
        def broken(self) -> Any:
            raise RuntimeError

        @on_queue_message("a")
        async def handle(self) -> None: ...

    assert types_of(Service) == {"handle": ["a"]}


def test_marks_of_a_protocol_count_for_what_is_bound_to_it() -> None:
    class Port(Protocol):
        @on_queue_message("a")
        async def handle(self) -> None: ...

        @on_queue_message("b")
        async def missing(self) -> None: ...

    class Service:
        async def handle(self) -> None: ...

    assert types_of(Service, Port) == {"handle": ["a"]}
    assert types_of(Service) == {}


@dataclass(slots=True)
class Slotted:
    size: int = 0

    @on_queue_message("slotted")
    async def handle(self) -> None: ...


class Overriding(Base):
    @on_queue_message("b")
    async def handle(self) -> None: ...


@on_queue_message("forgotten")
async def forgotten() -> None: ...


def test_a_function_that_no_consumer_brings_is_named() -> None:
    assert f"{__name__}.forgotten" in unregistered([])
    assert f"{__name__}.forgotten" not in unregistered(decorated_names(forgotten))


def test_a_class_that_is_made_twice_gives_no_false_alarm() -> None:
    assert f"{__name__}.Slotted.handle" not in unregistered(decorated_names(Slotted))


def test_an_overridden_handler_is_not_forgotten() -> None:
    missing = unregistered(decorated_names(Overriding))

    assert f"{__name__}.Base.handle" not in missing
    assert f"{__name__}.Overriding.handle" not in missing


def test_functions_made_in_functions_are_not_remembered() -> None:
    @on_queue_message("local")
    async def local() -> None: ...

    assert not [name for name in unregistered([]) if "<locals>" in name]
