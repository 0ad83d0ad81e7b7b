import functools
import math
from datetime import timedelta
from typing import Any

import pytest

from kvqueue_fastapi.errors import HandlerError
from kvqueue_fastapi.handlers.decorator import on_queue_message
from kvqueue_fastapi.handlers.marks import Mark, marks_of


async def handle(data: Any) -> None: ...


def test_the_function_itself_comes_back() -> None:
    async def handler() -> None: ...

    assert on_queue_message("a")(handler) is handler


def test_options_are_kept_in_storage_units() -> None:
    @on_queue_message(
        "a", concurrency=2, timeout=1, backoff_schedule=[0.5, 2], give_up_on=[KeyError]
    )
    async def handler() -> None: ...

    assert marks_of(handler) == (Mark("a", 2, 1.0, (500, 2000), (KeyError,)),)


def test_timedeltas_are_taken() -> None:
    @on_queue_message("a", timeout=timedelta(minutes=1), backoff_schedule=[timedelta(seconds=1)])
    async def handler() -> None: ...

    assert marks_of(handler)[0].timeout_s == 60
    assert marks_of(handler)[0].backoff_schedule_ms == (1000,)


def test_an_empty_schedule_is_one() -> None:
    @on_queue_message("a", backoff_schedule=[])
    async def handler() -> None: ...

    assert marks_of(handler)[0].backoff_schedule_ms == ()


def test_stacked_decorators_are_several_types() -> None:
    @on_queue_message("b")
    @on_queue_message("a")
    async def handler() -> None: ...

    assert [mark.message_type for mark in marks_of(handler)] == ["a", "b"]


def test_one_type_twice_is_refused() -> None:
    @on_queue_message("a")
    async def handler() -> None: ...

    with pytest.raises(HandlerError, match="twice for 'a'"):
        on_queue_message("a")(handler)


def test_marking_a_wrapper_leaves_its_function_alone() -> None:
    @on_queue_message("a")
    async def handler() -> None: ...

    @on_queue_message("b")
    @functools.wraps(handler)
    async def wrapper() -> None: ...

    assert [mark.message_type for mark in marks_of(handler)] == ["a"]
    assert [mark.message_type for mark in marks_of(wrapper)] == ["a", "b"]


def test_missing_parentheses_are_named() -> None:
    decorator: Any = on_queue_message

    with pytest.raises(HandlerError, match=r"without a message type on handle\. Write @on_queue"):
        decorator(handle)
    with pytest.raises(HandlerError, match="without a message type on handle"):
        decorator(classmethod(handle))


@pytest.mark.parametrize("message_type", ["", "a" * 256, "a\nb", "a\x00", "\ud800", 7, None])
def test_a_bad_type_is_refused(message_type: Any) -> None:
    with pytest.raises(HandlerError, match="Message type"):
        on_queue_message(message_type)


def test_a_type_of_255_characters_is_taken() -> None:
    async def handler() -> None: ...

    on_queue_message("ä" * 255)(handler)

    assert len(marks_of(handler)[0].message_type) == 255


@pytest.mark.parametrize("concurrency", [0, -1, True, 1.0, "2"])
def test_a_bad_concurrency_is_refused(concurrency: Any) -> None:
    with pytest.raises(HandlerError, match=r"concurrency is .*from 1"):
        on_queue_message("a", concurrency=concurrency)


@pytest.mark.parametrize(
    "timeout", [0, -1, math.nan, math.inf, True, "5", timedelta(0), timedelta(seconds=-1)]
)
def test_a_bad_timeout_is_refused(timeout: Any) -> None:
    with pytest.raises(HandlerError, match=r"timeout is .*above 0"):
        on_queue_message("a", timeout=timeout)


@pytest.mark.parametrize("schedule", [[-1], ["1"], 5, [math.nan], [1] * 1000])
def test_a_bad_backoff_schedule_is_refused(schedule: Any) -> None:
    with pytest.raises(HandlerError, match="backoff_schedule"):
        on_queue_message("a", backoff_schedule=schedule)


@pytest.mark.parametrize(
    "give_up_on", [ValueError, [BaseException], ["ValueError"], [ValueError()]]
)
def test_only_exception_classes_are_given_up_on(give_up_on: Any) -> None:
    with pytest.raises(HandlerError, match=r"give_up_on=\(ValueError,\)"):
        on_queue_message("a", give_up_on=give_up_on)


def test_a_timeout_on_a_sync_handler_is_refused() -> None:
    def handler() -> None: ...

    with pytest.raises(HandlerError, match="thread cannot be cancelled"):
        on_queue_message("a", timeout=1)(handler)


def test_a_plain_wrapper_of_an_async_function_may_have_a_timeout() -> None:
    @functools.wraps(handle)
    def wrapper(*args: Any) -> Any:
        return handle(*args)

    on_queue_message("a", timeout=1)(wrapper)

    assert marks_of(wrapper)[0].timeout_s == 1


def test_generators_are_refused() -> None:
    def generator() -> Any:
        yield 1

    async def async_generator() -> Any:
        yield 1

    for function in (generator, async_generator):
        with pytest.raises(HandlerError, match="is a generator"):
            on_queue_message("a")(function)


def test_a_class_is_refused() -> None:
    with pytest.raises(HandlerError, match=r"Service is a class\. Write"):

        @on_queue_message("a")
        class Service: ...


@pytest.mark.parametrize("thing", [7, "text", property(lambda _: 1), print])
def test_what_is_no_function_is_refused(thing: Any) -> None:
    with pytest.raises(HandlerError, match="is no function"):
        on_queue_message("a")(thing)
