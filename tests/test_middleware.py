import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from injector import Injector

from kvqueue_fastapi import (
    CallHandler,
    CallSend,
    Delivery,
    HandlerError,
    Kv,
    KvQueue,
    KvQueueAdmin,
    KvQueueError,
    KvQueueModule,
    KvQueueSettings,
    Message,
    Middleware,
    OutgoingMessage,
    PayloadTooLargeError,
    Reject,
    RetryLater,
    on_queue_message,
)
from tests.contract.harness import Seen, until

ONCE: dict[str, Any] = {"backoff_schedule": ()}


class Named(Middleware):
    """Adds its name to the headers, and tells when it is passed."""

    def __init__(self, name: str, passed: list[str]) -> None:
        self.name, self.passed = name, passed

    async def send(self, messages: Sequence[OutgoingMessage], call_next: CallSend) -> list[int]:
        self.passed.append(f"{self.name} sends {len(messages)}")
        ids = await call_next([self._named(message) for message in messages])
        self.passed.append(f"{self.name} sent {ids}")
        return ids

    async def handle(self, message: Message[Any], call_next: CallHandler) -> None:
        self.passed.append(f"{self.name} begins")
        await call_next(message)
        self.passed.append(f"{self.name} ends")

    def _named(self, message: OutgoingMessage) -> OutgoingMessage:
        names = (message.options.headers or {}).get("names", "") + self.name
        headers = {**(message.options.headers or {}), "names": names}
        return replace(message, options=replace(message.options, headers=headers))


class Told(Middleware):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    def settled(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    @property
    def endings(self) -> list[str]:
        return [delivery.outcome for delivery in self.deliveries]


@asynccontextmanager
async def running(
    tmp_path: Path, *handlers: Any, middleware: Sequence[Middleware], **settings: Any
) -> Any:
    module = KvQueueModule(
        str(tmp_path / "q.db"),
        consumers=handlers,
        settings=KvQueueSettings(**{"listen": False, **settings}),
        middleware=middleware,
    )
    injector = Injector([module])
    async with module.running(injector):
        yield injector


async def test_first_middleware_is_the_outermost_around_sends_and_handlers(tmp_path: Path) -> None:
    passed: list[str] = []
    names: list[str] = []

    @on_queue_message("n")
    async def handle(message: Message) -> None:
        names.append(message.headers["names"])
        passed.append("handler")

    stack = [Named("a", passed), Named("b", passed)]
    async with running(tmp_path, handle, middleware=stack) as injector:
        await injector.get(KvQueue).send_message("n", headers={"names": "-"})
        await injector.get(KvQueue).run_until_idle()

    assert names == ["-ab"]
    sent = ["a sends 1", "b sends 1", "b sent [1]", "a sent [1]"]
    assert passed == [*sent, "a begins", "b begins", "handler", "b ends", "a ends"]


async def test_each_way_to_send_goes_through_in_one_call_a_commit(tmp_path: Path) -> None:
    passed: list[str] = []
    headers = Seen()

    @on_queue_message("n")
    async def handle(message: Message) -> None:
        headers.add((message.data, message.headers.get("names")))
        if message.data == 5:
            await message.atomic().send_message("n", 6).commit()

    async with running(tmp_path, handle, middleware=[Named("a", passed)]) as injector:
        queue, kv = injector.get(KvQueue), injector.get(Kv)
        await queue.send_messages([("n", 1), ("n", 2)])
        await kv.enqueue({"type": "n", "data": 3})
        committed = await kv.atomic().set(("k",), 1).send_message("n", 4).commit()
        failed = await kv.atomic().check(("k",), None).send_message("n", 9).commit()
        await kv.set(("k",), 2)
        await queue.send_message("n", 5)
        await queue.run_until_idle()

    assert sorted(headers) == [(number, "a") for number in range(1, 7)]
    assert committed.message_ids == (4,)
    assert not failed.ok
    sends = [one for one in passed if "sen" in one]
    assert [one for one in sends if "sends" in one] == ["a sends 2", *["a sends 1"] * 5]
    assert [one for one in sends if "sent" in one] == [
        "a sent [1, 2]",
        "a sent [3]",
        "a sent [4]",
        "a sent []",
        "a sent [5]",
        "a sent [6]",
    ]


async def test_payload_is_as_it_was_when_it_was_given(tmp_path: Path) -> None:
    seen = Seen()

    @on_queue_message("n")
    async def handle(data: dict[str, int]) -> None:
        seen.add(data)

    async with running(tmp_path, handle, middleware=[Named("a", [])]) as injector:
        data = {"n": 1}
        operation = injector.get(Kv).atomic().send_message("n", data)
        data["n"] = 2
        await operation.commit()
        await injector.get(KvQueue).run_until_idle()

    assert seen == [{"n": 1}]


async def test_send_that_middleware_refuses_stores_nothing(tmp_path: Path) -> None:
    class Closed(Middleware):
        async def send(self, messages: Any, call_next: CallSend) -> list[int]:
            raise PermissionError("closed")

    class Forgetful(Middleware):
        async def send(self, messages: Any, call_next: CallSend) -> list[int]:
            return []

    class Greedy(Middleware):
        async def send(self, messages: Any, call_next: CallSend) -> list[int]:
            return await call_next(messages[:-1])

    for one, error, text in (
        (Closed(), PermissionError, "closed"),
        (Forgetful(), KvQueueError, r"did not await call_next\(messages\), so nothing was sent"),
        (Greedy(), KvQueueError, "handed on 1 messages, allowed are as many as it was given: 2"),
    ):
        async with running(tmp_path, middleware=[one]) as injector:
            with pytest.raises(error, match=text):
                await injector.get(KvQueue).send_messages([("n", 1), ("n", 2)])
            with pytest.raises(PayloadTooLargeError):
                await injector.get(KvQueue).send_message("n", "x" * 70_000)

            assert await injector.get(KvQueue).run_until_idle() == 0


async def test_what_middleware_raises_around_a_handler_is_how_that_failed(tmp_path: Path) -> None:
    told = Told()

    class Strict(Middleware):
        async def handle(self, message: Message[Any], call_next: CallHandler) -> None:
            await call_next(message)
            raise Reject("not so")

    @on_queue_message("n")
    async def handle() -> None: ...

    async with running(tmp_path, handle, middleware=[told, Strict()]) as injector:
        await injector.get(KvQueue).send_message("n")
        await injector.get(KvQueue).run_until_idle()

    (delivery,) = told.deliveries
    assert (delivery.outcome, str(delivery.error)) == ("dead", "not so")


@pytest.mark.parametrize("is_async", [True, False], ids=["async def", "def"])
async def test_middleware_sees_what_the_handler_raises_and_may_forgive_it(
    tmp_path: Path,
    is_async: bool,  # noqa: FBT001 because pytest gives it
) -> None:
    seen, told = Seen(), Told()
    where: ContextVar[str] = ContextVar("where")

    class Forgiving(Middleware):
        async def handle(self, message: Message[Any], call_next: CallHandler) -> None:
            token = where.set(f"message {message.id}")
            try:
                await call_next(message)
            except ValueError as error:
                seen.add(str(error))
            finally:
                where.reset(token)

    @on_queue_message("n")
    async def handle() -> None:
        raise ValueError(where.get())

    @on_queue_message("n")
    def handle_in_thread() -> None:
        raise ValueError(where.get())

    handler = handle if is_async else handle_in_thread
    async with running(tmp_path, handler, middleware=[Forgiving(), told]) as injector:
        await injector.get(KvQueue).send_message("n")
        await injector.get(KvQueue).run_until_idle()

    assert seen == ["message 1"]
    assert told.endings == ["done"]


async def test_each_end_of_a_delivery_is_told_with_its_error_and_times(tmp_path: Path) -> None:
    told = Told()

    @on_queue_message("n")
    async def handle(what: str, message: Message) -> None:
        if what == "later" and message.attempt == 1 and not told.endings.count("later"):
            raise RetryLater(0)
        if what == "retry" and message.attempt == 1:
            raise ValueError(what)
        if what == "dead":
            raise Reject(what)
        if what == "atomic":
            await message.atomic().set(("k",), 1).commit()

    async with running(tmp_path, handle, middleware=[told], backoff_schedule_s=(0,)) as injector:
        queue = injector.get(KvQueue)
        for what in ("done", "later", "retry", "dead", "atomic"):
            await queue.send_message("n", what)
        await queue.run_until_idle()

    endings = [(one.id, one.attempt, one.outcome, type(one.error)) for one in told.deliveries]
    assert sorted(endings, key=str) == sorted(
        [
            (1, 1, "done", type(None)),
            (2, 1, "later", RetryLater),
            (2, 1, "done", type(None)),
            (3, 1, "retry", ValueError),
            (3, 2, "done", type(None)),
            (4, 1, "dead", Reject),
            (5, 1, "done", type(None)),
        ],
        key=str,
    )
    assert all(one.type == "n" for one in told.deliveries)
    assert all(0 <= (one.waited_s or 0) < 60 for one in told.deliveries)
    assert all(one.took_s is not None and 0 <= one.took_s < 60 for one in told.deliveries)


async def test_message_that_cannot_be_read_is_told_of_though_no_handler_began(
    tmp_path: Path,
) -> None:
    told, passed = Told(), list[str]()

    @on_queue_message("n")
    async def handle(number: int) -> None: ...

    async with running(tmp_path, middleware=[]) as injector:
        await injector.get(KvQueue).send_message("n", "no number")
    async with running(tmp_path, handle, middleware=[told, Named("a", passed)]) as injector:
        await injector.get(KvQueue).run_until_idle()

    (delivery,) = told.deliveries
    assert (delivery.outcome, delivery.waited_s, delivery.took_s) == ("dead", None, None)
    assert type(delivery.error).__name__ == "PayloadError"
    assert passed == []


async def test_listener_tells_what_a_shutdown_gives_back_and_what_a_thread_ends_late(
    tmp_path: Path,
) -> None:
    told, seen = Told(), Seen()
    go_on = asyncio.Event()

    @on_queue_message("cut off")
    async def wait() -> None:
        seen.add("cut off")
        await go_on.wait()

    @on_queue_message("settles")
    async def settle(message: Message) -> None:
        await message.atomic().set(("k",), 1).commit()
        seen.add("settles")

    async with running(
        tmp_path, wait, settle, middleware=[told], listen=True, shutdown_timeout_s=0
    ) as injector:
        await injector.get(KvQueue).send_messages([("cut off", 1), ("settles", 2)])
        await seen.reach(2)

    assert sorted(told.endings) == ["done", "released"]
    assert next(one for one in told.deliveries if one.outcome == "released").took_s is not None


async def test_delivery_that_lost_its_lease_is_told_as_lost(tmp_path: Path) -> None:
    told, seen = Told(), Seen()
    go_on = asyncio.Event()

    @on_queue_message("n")
    async def handle() -> None:
        seen.add("n")
        await go_on.wait()

    async with running(tmp_path, handle, middleware=[told], listen=True) as injector:
        message_id = await injector.get(KvQueue).send_message("n")
        await seen.reach(1)
        store = injector.get(KvQueue)._handle.store
        taken = "UPDATE kvqueue_messages SET token = token + 1 WHERE id = ?"
        await asyncio.to_thread(store._call, lambda one: one.execute(taken, (message_id,)))
        go_on.set()

        async def is_told() -> bool:
            return bool(told.deliveries)

        await until(is_told)

    assert told.endings == ["lost"]


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, asyncio.CancelledError])
async def test_middleware_that_fails_when_it_is_told_is_logged_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    class Broken(Middleware):
        def settled(self, delivery: Delivery) -> None:
            raise error

    told = Told()

    @on_queue_message("n")
    async def handle() -> None: ...

    with caplog.at_level(logging.ERROR):
        async with running(tmp_path, handle, middleware=[Broken(), told]) as injector:
            await injector.get(KvQueue).send_messages([("n", 1), ("n", 2)])
            assert await injector.get(KvQueue).run_until_idle() == 2

    assert told.endings == ["done", "done"]
    assert [record.message for record in caplog.records] == [
        f"Middleware failed when it was told of message {number}" for number in (1, 2)
    ]


@pytest.mark.parametrize("wrong", [Middleware, "m", [Middleware], [object()], 7])
def test_what_is_no_middleware_is_refused_when_the_module_is_made(wrong: Any) -> None:
    with pytest.raises(HandlerError, match="allowed are instances of Middleware"):
        KvQueueModule("q.db", middleware=wrong)


def test_settled_that_nobody_would_await_is_refused() -> None:
    class Late(Middleware):
        async def settled(self, delivery: Delivery) -> None:  # type: ignore[override]
            raise AssertionError

    with pytest.raises(HandlerError, match=r"Late\.settled is an `async def`, allowed is a `def`"):
        KvQueueModule("q.db", middleware=[Late()])


async def test_coroutine_that_nobody_awaits_is_closed_and_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Late(Middleware):
        def settled(self, delivery: Delivery) -> Any:
            return self.tell()

        async def tell(self) -> None:
            raise AssertionError

    @on_queue_message("n")
    async def handle() -> None: ...

    async with running(tmp_path, handle, middleware=[Late()]) as injector:
        await injector.get(KvQueue).send_message("n")
        assert await injector.get(KvQueue).run_until_idle() == 1

    assert "settled has given a coroutine, which nobody awaits" in caplog.text


async def test_message_in_a_transaction_of_the_callers_goes_through_as_well(
    tmp_path: Path,
) -> None:
    import aiosqlite

    passed: list[str] = []
    async with running(tmp_path, middleware=[Named("a", passed)]) as injector:
        queue = injector.get(KvQueue)
        async with aiosqlite.connect(tmp_path / "q.db") as connection:
            await connection.execute("BEGIN IMMEDIATE")
            await queue.send_message("n", connection=connection)
            await connection.rollback()
            await connection.execute("BEGIN IMMEDIATE")
            await queue.send_message("n", connection=connection)
            await connection.commit()

    assert [one.split()[1] for one in passed] == ["sends", "sent"] * 2


async def test_middleware_sends_once_and_messages_alone(tmp_path: Path) -> None:
    class Twice(Middleware):
        async def send(self, messages: Any, call_next: CallSend) -> list[int]:
            await call_next(messages)
            return await call_next(messages)

    class Texts(Middleware):
        async def send(self, messages: Any, call_next: CallSend) -> list[int]:
            return await call_next([message.type for message in messages])

    class Generated(Middleware):
        async def send(self, messages: Any, call_next: CallSend) -> list[int]:
            return await call_next(message for message in messages)  # type: ignore[arg-type]

    for one, error, count in (
        (Twice(), "awaited call_next twice", 1),
        (Texts(), "handed on 'n', allowed is a list of OutgoingMessage", 1),
        (Generated(), "handed on <generator", 1),
    ):
        async with running(tmp_path, middleware=[one]) as injector:
            with pytest.raises(KvQueueError, match=error):
                await injector.get(Kv).atomic().send_message("n").commit()

            messages = await injector.get(KvQueueAdmin).messages()
        assert len(messages) == count


def test_middleware_whose_hook_cannot_be_called_is_refused() -> None:
    class Off(Middleware):
        handle = None  # type: ignore[assignment]

    with pytest.raises(HandlerError, match=r"Off\.handle is None, allowed is a method"):
        KvQueueModule(middleware=[Off()])


async def test_a_hook_that_cannot_be_awaited_is_named(tmp_path: Path) -> None:
    class Plain(Middleware):
        def handle(self, message: Any, call_next: Any) -> None:  # type: ignore[override]
            pass

    class PlainSend(Middleware):
        def send(self, messages: Any, call_next: Any) -> list[int]:  # type: ignore[override]
            return []

    told = Told()

    @on_queue_message("n")
    async def handle() -> None: ...

    async with running(tmp_path, handle, middleware=[told, Plain()]) as injector:
        await injector.get(KvQueue).send_message("n")
        await injector.get(KvQueue).run_until_idle()
    async with running(tmp_path, middleware=[PlainSend()]) as injector:
        with pytest.raises(HandlerError, match=r"PlainSend\.send has given \[\], which cannot be"):
            await injector.get(KvQueue).send_message("n")

    (delivery,) = told.deliveries
    assert "Plain.handle has given None, which cannot be awaited" in str(delivery.error)


async def test_hooks_that_are_set_on_an_instance_count(tmp_path: Path) -> None:
    class Late(Middleware):
        def __init__(self, settled: Any) -> None:
            self.settled = settled

    told: list[Delivery] = []

    @on_queue_message("n")
    async def handle() -> None: ...

    async with running(tmp_path, handle, middleware=[Late(told.append)]) as injector:
        await injector.get(KvQueue).send_message("n")
        await injector.get(KvQueue).run_until_idle()

    assert [one.outcome for one in told] == ["done"]


async def test_a_send_that_middleware_cuts_off_or_doubles_is_never_stored_twice(
    tmp_path: Path,
) -> None:
    class Impatient(Middleware):
        async def send(self, messages: Any, call_next: CallSend) -> list[int]:
            first = asyncio.ensure_future(call_next(messages))
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait([first])
            return await call_next(messages)

    class AtOnce(Middleware):
        async def send(self, messages: Any, call_next: CallSend) -> list[int]:
            first, second = await asyncio.gather(
                call_next(messages), call_next(messages), return_exceptions=True
            )
            assert not isinstance(first, BaseException)
            assert isinstance(second, BaseException)
            raise second

    for one in (Impatient(), AtOnce()):
        async with running(tmp_path, middleware=[one]) as injector:
            with pytest.raises(KvQueueError, match="awaited call_next twice"):
                await injector.get(KvQueue).send_message(type(one).__name__)

            messages = await injector.get(KvQueueAdmin).messages(type=type(one).__name__)
        assert len(messages) <= 1


async def test_a_send_that_failed_may_be_tried_again(tmp_path: Path) -> None:
    class Patient(Middleware):
        async def send(self, messages: Any, call_next: CallSend) -> list[int]:
            with pytest.raises(PayloadTooLargeError):
                await call_next([replace(messages[0], data="x" * 70_000)])
            return await call_next(messages)

    async with running(tmp_path, middleware=[Patient()]) as injector:
        await injector.get(KvQueue).send_message("n")

        assert len(await injector.get(KvQueueAdmin).messages()) == 1


async def test_what_middleware_leaves_behind_sends_nothing_or_is_told_of(tmp_path: Path) -> None:
    left: list[asyncio.Future[list[int]]] = []

    class Leaving(Middleware):
        def __init__(self, turns: int) -> None:
            self.turns = turns

        async def send(self, messages: Any, call_next: CallSend) -> list[int]:
            left.append(asyncio.ensure_future(call_next(messages)))
            for _ in range(self.turns):
                await asyncio.sleep(0)
            return []

    for turns, text, error in (
        (0, "so nothing was sent", "call_next after its send had returned"),
        (1, "may be stored all the same", None),
    ):
        async with running(tmp_path, middleware=[Leaving(turns)]) as injector:
            with pytest.raises(KvQueueError, match=text):
                await injector.get(KvQueue).send_message("n")
            await asyncio.wait(left)
            found = await injector.get(KvQueueAdmin).messages()
            assert len(found) == (error is None)
        if error is not None:
            with pytest.raises(KvQueueError, match=error):
                await left.pop()


@pytest.mark.parametrize("is_async", [True, False], ids=["async def", "def"])
async def test_a_handler_that_runs_or_has_returned_is_not_called_again(
    tmp_path: Path,
    is_async: bool,  # noqa: FBT001 because pytest gives it
) -> None:
    class AtOnce(Middleware):
        async def handle(self, message: Message[Any], call_next: CallHandler) -> None:
            _, second = await asyncio.gather(
                call_next(message), call_next(message), return_exceptions=True
            )
            refused.append(str(second))

    class Twice(Middleware):
        async def handle(self, message: Message[Any], call_next: CallHandler) -> None:
            await call_next(message)
            with pytest.raises(KvQueueError) as second:
                await call_next(message)
            refused.append(str(second.value))

    seen = Seen()
    refused: list[str] = []

    @on_queue_message("n")
    async def handle(payload: int) -> None:
        await asyncio.sleep(0)
        seen.add(payload)

    @on_queue_message("n")
    def handle_in_thread(payload: int) -> None:
        seen.add(payload)

    for one in (AtOnce(), Twice()):
        handler = handle if is_async else handle_in_thread
        async with running(tmp_path, handler, middleware=[one]) as injector:
            await injector.get(KvQueue).send_message("n", 1)
            await injector.get(KvQueue).run_until_idle()

    assert seen == [1, 1]
    assert len(refused) == 2
    assert all("would handle the message twice" in one for one in refused)


async def test_a_handler_that_failed_may_be_called_again(tmp_path: Path) -> None:
    class Stubborn(Middleware):
        async def handle(self, message: Message[Any], call_next: CallHandler) -> None:
            with pytest.raises(ValueError, match="once"):
                await call_next(message)
            await call_next(message)

    told, seen = Told(), Seen()

    @on_queue_message("n")
    async def handle() -> None:
        seen.add("n")
        if seen == ["n"]:
            raise ValueError("once")

    async with running(tmp_path, handle, middleware=[Stubborn(), told]) as injector:
        await injector.get(KvQueue).send_message("n")
        await injector.get(KvQueue).run_until_idle()

    assert (seen, told.endings) == (["n", "n"], ["done"])


async def test_a_thread_that_middleware_is_tired_of_ends_first_and_gives_its_slot_back(
    tmp_path: Path,
) -> None:
    class Impatient(Middleware):
        async def handle(self, message: Message[Any], call_next: CallHandler) -> None:
            async with asyncio.timeout(None) as limit:
                task = asyncio.ensure_future(call_next(message))
                if message.data == 1:
                    await asyncio.to_thread(begun.wait, 10)
                    asyncio.get_running_loop().call_later(0.05, go_on.set)
                    limit.reschedule(0)
                await task

    begun, go_on = threading.Event(), threading.Event()
    told, seen = Told(), Seen()

    @on_queue_message("n", concurrency=1)
    def handle(payload: int) -> None:
        begun.set()
        go_on.wait(10)
        seen.add(payload)

    async with running(tmp_path, handle, middleware=[Impatient(), told], listen=True) as injector:
        await injector.get(KvQueue).send_messages([("n", 1), ("n", 2)])
        await seen.reach(2)

    assert (seen, told.endings) == ([1, 2], ["done", "done"])


async def wait_for(call: Awaitable[None]) -> None:
    await asyncio.wait_for(call, 30)


async def shield(call: Awaitable[None]) -> None:
    await asyncio.shield(call)


async def group(call: Awaitable[None]) -> None:
    async def wait() -> None:
        await call

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(wait())


async def raise_behind(call: Awaitable[None]) -> None:
    await call
    raise ValueError("behind it")


@pytest.mark.parametrize("way", [wait_for, shield, group, raise_behind])
async def test_a_thread_that_outlives_the_shutdown_settles_whatever_middleware_does(
    tmp_path: Path, way: Callable[[Awaitable[None]], Awaitable[None]]
) -> None:
    class Around(Middleware):
        async def handle(self, message: Message[Any], call_next: CallHandler) -> None:
            await way(call_next(message))

    told, seen = Told(), Seen()
    go_on, ended = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    class Ending(Middleware):
        def settled(self, delivery: Delivery) -> None:
            loop.call_soon_threadsafe(ended.set)

    @on_queue_message("n")
    def handle() -> None:
        seen.add("n")
        go_on.wait(10)

    hooks = [Around(), told, Ending()]
    async with running(
        tmp_path, handle, middleware=hooks, listen=True, shutdown_timeout_s=0
    ) as injector:
        await injector.get(KvQueue).send_message("n")
        await seen.reach(1)
    go_on.set()
    async with asyncio.timeout(10):
        await ended.wait()

    assert (seen, told.endings) == (["n"], ["done"])


@pytest.mark.parametrize("is_async", [True, False], ids=["async def", "def"])
async def test_a_handler_that_middleware_leaves_behind_ends_before_its_message_does(
    tmp_path: Path,
    is_async: bool,  # noqa: FBT001 because pytest gives it
) -> None:
    class Leaving(Middleware):
        async def handle(self, message: Message[Any], call_next: CallHandler) -> None:
            left.append(asyncio.ensure_future(call_next(message)))
            await begun.wait()
            loop.call_later(0.05, go_on.set)
            raise Reject("no time")

    class Watching(Middleware):
        def settled(self, delivery: Delivery) -> None:
            order.append(delivery.outcome)

    left: list[asyncio.Future[None]] = []
    order: list[str] = []
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    @on_queue_message("n")
    async def handle() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            order.append("ended")

    @on_queue_message("n")
    def handle_in_thread() -> None:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(10)
        order.append("ended")

    handler = handle if is_async else handle_in_thread
    async with running(tmp_path, handler, middleware=[Leaving(), Watching()]) as injector:
        await injector.get(KvQueue).send_message("n")
        await injector.get(KvQueue).run_until_idle()

    assert order == ["ended", "dead"]
    assert left[0].done()
