"""Cases 66 and 67 of `Kv`: who may listen, and who gets what."""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from injector import Inject

from kvqueue_fastapi import (
    HandlerError,
    Kv,
    KvQueueSettings,
    Message,
)
from tests.contract.harness import PATIENCE_S, Crowd, Seen, listening, running, until


class Desk:
    """Takes values in every way in which something can be called."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    async def __call__(self, value: int) -> None:
        self.seen.add(value)

    async def method(self, value: int) -> None:
        self.seen.add(value)

    async def two(self, _prefix: str, value: int) -> None:
        self.seen.add(value)

    async def told(self, message: Message[int]) -> None:
        self.seen.add(message.data)

    async def both(self, value: int, message: Message) -> None:
        self.seen.add(value if message.attempt == 1 else message)

    def sync(self, value: int) -> None:
        self.seen.add(value if threading.current_thread() is not threading.main_thread() else None)


class Order:
    """No handler: to make one of it would pass for having handled a value."""

    def __init__(self, value: int = 0) -> None: ...


def generates(value: int) -> Any:
    yield value


async def asks(value: int, desk: Inject[Desk]) -> None: ...


async def takes_two(one: int, other: int) -> None: ...


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "kv.db")


@pytest.fixture
async def kv(url: str) -> AsyncIterator[Kv]:
    async with Kv.open(url, settings=KvQueueSettings(shutdown_timeout_s=PATIENCE_S)) as kv:
        yield kv


def listen(kv: Kv, handler: Callable[..., Any]) -> asyncio.Task[None]:
    return asyncio.create_task(kv.listen_queue(handler))


async def left(url: str) -> list[tuple[Any, int]]:
    """The values that wait in a file, and how many attempts each has spent."""
    async with running(url, listen=False) as bench:
        return [(one.data, one.attempt) for one in await bench.admin.messages()]


@pytest.mark.case(66)
async def test_each_value_goes_to_one_of_ten_listeners(kv: Kv) -> None:
    seen = Seen()
    async with listening(kv, *[seen.take] * 10):
        for number in range(10):
            await kv.enqueue(number)
            assert await seen.reach(number + 1) == list(range(number + 1))

        await seen.stay(10)


@pytest.mark.case(66)
@pytest.mark.parametrize("stores", [1, 2])
async def test_listeners_share_the_values_among_them(url: str, stores: int) -> None:
    crowd, seen = Crowd(), Seen()

    async def handle(name: str, number: int) -> None:
        crowd.enter(name)
        seen.add(number)
        await asyncio.sleep(0.005)

    first, second = (functools.partial(handle, name) for name in ("first", "second"))
    settings = KvQueueSettings(concurrency=2)
    async with (
        Kv.open(url, settings=settings) as one,
        Kv.open(url, settings=settings) as two,
        listening(one, first),
        listening(one if stores == 1 else two, second),
    ):
        await asyncio.gather(*(one.enqueue(number) for number in range(100)))
        came = await seen.stay(100)

    assert sorted(came) == list(range(100))
    assert min(crowd.now.values()) >= 10
    assert len(crowd.now) == 2


@pytest.mark.case(67)
async def test_one_store_enqueues_and_another_listens(kv: Kv, url: str) -> None:
    seen = Seen()
    async with Kv.open(url) as other, listening(other, seen.take):
        await kv.enqueue("test")

        assert await seen.stay(1) == ["test"]


@pytest.mark.parametrize(
    "handler_of",
    [
        Desk,
        lambda seen: Desk(seen).method,
        lambda seen: functools.partial(Desk(seen).two, "prefix"),
        lambda seen: Desk(seen).told,
        lambda seen: Desk(seen).both,
        lambda seen: Desk(seen).sync,
        lambda seen: lambda value=0: seen.add(value),
        lambda seen: lambda: seen.add(7),
        lambda seen: seen.append,
    ],
    ids=["object", "method", "partial", "message", "both", "sync", "lambda", "nothing", "builtin"],
)
async def test_whatever_can_be_called_with_a_value_can_listen(
    kv: Kv, handler_of: Callable[[Seen], Callable[..., Any]]
) -> None:
    seen = Seen()

    async def holds() -> bool:
        return seen == [7]

    async with listening(kv, handler_of(seen)):
        await kv.enqueue(7)

        await until(holds)


@pytest.mark.parametrize(
    "handler", [None, "handler", 7, [], generates, asks, takes_two, print, Order, dict, int]
)
async def test_what_cannot_handle_a_value_is_refused(kv: Kv, url: str, handler: Any) -> None:
    await kv.enqueue(7)

    with pytest.raises(HandlerError):
        await asyncio.wait_for(kv.listen_queue(handler), 0.5)

    assert await left(url) == [(7, 0)]


async def test_value_that_the_listener_does_not_take_is_given_up_and_the_next_one_comes(
    kv: Kv,
) -> None:
    seen, failed = Seen(), ("failed",)
    async with listening(kv, Desk(seen).method):
        await kv.enqueue("seven", keys_if_undelivered=[failed])
        await kv.enqueue(8)

        assert await seen.stay(1) == [8]

    assert (await kv.get(failed)).value == "seven"


async def test_cancelled_listener_lets_its_handler_finish_and_takes_no_more(kv: Kv) -> None:
    begun, ended = Seen(), Seen()

    async def handle(value: int) -> None:
        begun.add(value)
        await asyncio.sleep(0.1)
        ended.add(value)

    listener = listen(kv, handle)
    await kv.enqueue(1)
    await begun.reach(1)
    listener.cancel()
    await asyncio.wait([listener])
    await kv.enqueue(2)

    assert listener.cancelled()
    assert await ended.stay(1) == [1]
    async with listening(kv, ended.take):
        assert await ended.stay(2) == [1, 2]


async def test_listener_that_is_cancelled_before_it_began_has_taken_nothing(kv: Kv) -> None:
    seen = Seen()
    await kv.enqueue(1)
    for pauses in range(10):
        listener = listen(kv, seen.take)
        for _ in range(pauses):
            await asyncio.sleep(0)
        listener.cancel()
        await asyncio.wait([listener])

    async with listening(kv, seen.take):
        assert await seen.stay(1) == [1]
