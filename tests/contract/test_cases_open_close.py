"""Cases 97 to 100: to open, to close, and what is left in between."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from injector import Injector

from kvqueue_fastapi import (
    InvalidOptionError,
    Kv,
    KvQueue,
    KvQueueAdmin,
    KvQueueClosedError,
    KvQueueModule,
    KvQueueNotStartedError,
)
from tests.contract.harness import Bench, Seen, running

USES: list[Callable[[Bench], Any]] = [
    lambda bench: bench.queue.send_message("n", 1),
    lambda bench: bench.queue.send_messages([("n", 1)]),
    lambda bench: bench.queue.send_messages([]),
    lambda bench: bench.queue.run_until_idle(),
    lambda bench: bench.admin.counts(),
    lambda bench: bench.admin.messages(),
    lambda bench: bench.admin.dead_letters(),
    lambda bench: bench.admin.message(1),
    lambda bench: bench.admin.requeue([1]),
    lambda bench: bench.admin.requeue_all("n"),
    lambda bench: bench.admin.discard([1]),
    lambda bench: bench.admin.cancel(1),
    lambda bench: bench.admin.pause("n"),
    lambda bench: bench.admin.resume("n"),
    lambda bench: bench.admin.listeners(),
]


@pytest.mark.case(97)
async def test_idle_listener_stops_at_once(place: str) -> None:
    async with running(place, callbacks={"n": Seen().take}, poll_interval_s=3_600):
        await asyncio.sleep(0.05)
        began = time.monotonic()

    assert time.monotonic() - began < 1


@pytest.mark.case(98)
async def test_shutdown_waits_for_running_handlers_and_settles_those_that_finish(
    place: str,
) -> None:
    begun, ended = Seen(), Seen()

    async def handle(data: int) -> None:
        begun.add(data)
        await asyncio.sleep(0.2)
        ended.add(data)

    async with running(place, callbacks={"n": handle}, shutdown_timeout_s=5) as bench:
        await bench.queue.send_messages([("n", number) for number in range(3)])
        await begun.reach(3)

    async with running(place, listen=False) as bench:
        assert not await bench.admin.messages()
    assert len(begun) == len(ended) == 3


@pytest.mark.case(98)
async def test_handlers_beyond_the_grace_are_cancelled_and_given_back_without_a_trace(
    place: str,
) -> None:
    begun, cancelled = Seen(), Seen()

    async def handle(data: int) -> None:
        begun.add(data)
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.add(data)

    async with running(place, callbacks={"n": handle}, shutdown_timeout_s=0.1) as bench:
        await bench.queue.send_message("n", 1, backoff_schedule=[])
        await begun.reach(1)
    async with running(place, listen=False) as bench:
        (record,) = await bench.admin.messages()

    assert cancelled == [1]
    assert (record.state, record.attempt, record.crashes) == ("ready", 0, 0)
    assert record.errors == ()


@pytest.mark.case(98)
async def test_messages_claimed_ahead_are_given_back_at_the_shutdown(place: str) -> None:
    seen, go_on = Seen(), asyncio.Event()

    async def handle(data: int) -> None:
        seen.add(data)
        if data >= 500:
            await go_on.wait()

    async with running(
        place, callbacks={"n": handle}, concurrency=2, shutdown_timeout_s=0
    ) as bench:
        await bench.queue.send_messages([("n", number) for number in range(520)])
        await seen.reach(502)
    async with running(place, listen=False) as bench:
        left = await bench.admin.messages()

    assert [record.data for record in left] == list(range(500, 520))
    assert {(record.state, record.attempt, record.crashes) for record in left} == {("ready", 0, 0)}


@pytest.mark.case(98)
async def test_handler_that_fails_because_it_was_cancelled_spends_no_attempt(
    place: str,
) -> None:
    begun = Seen()

    async def handle() -> None:
        begun.add("call")
        try:
            await asyncio.sleep(60)
        finally:
            raise ConnectionError

    async with running(place, callbacks={"n": handle}, shutdown_timeout_s=0) as bench:
        await bench.queue.send_message("n", backoff_schedule=[])
        await begun.reach(1)
    async with running(place, listen=False) as bench:
        (record,) = await bench.admin.messages()

    assert (record.state, record.attempt) == ("ready", 0)


@pytest.mark.case(99)
@pytest.mark.parametrize("use", USES)
async def test_every_use_before_the_start_and_after_the_end_has_one_error(
    tmp_path: Path, use: Callable[[Bench], Any]
) -> None:
    module = KvQueueModule(str(tmp_path / "q.db"), listen=False)
    injector = Injector([module])
    bench = Bench(injector.get(KvQueue), injector.get(KvQueueAdmin), injector.get(Kv))

    with pytest.raises(KvQueueNotStartedError, match=r"async with module.running\(\)"):
        await use(bench)
    async with module.running(injector):
        pass
    with pytest.raises(KvQueueClosedError, match="The queue is closed"):
        await use(bench)


@pytest.mark.case(99)
async def test_queue_can_be_opened_again_after_it_was_closed(tmp_path: Path) -> None:
    module = KvQueueModule(str(tmp_path / "q.db"), listen=False)

    async with module.running() as queue:
        first = await queue.send_message("n")
    async with module.running() as queue:
        second = await queue.send_message("n")

    assert (first, second) == (1, 2)


@pytest.mark.case(99)
async def test_error_in_the_block_closes_the_queue_and_comes_out(tmp_path: Path) -> None:
    module = KvQueueModule(str(tmp_path / "q.db"))

    with pytest.raises(ZeroDivisionError):
        async with module.running() as queue:
            raise ZeroDivisionError

    with pytest.raises(KvQueueClosedError):
        await queue.send_message("n")


@pytest.mark.case(100)
async def test_queue_in_memory_works_and_is_private() -> None:
    seen, others = Seen(), Seen()
    async with (
        running(":memory:", callbacks={"n": seen.take}) as bench,
        running(":memory:", callbacks={"n": others.take}),
    ):
        await bench.queue.send_message("n", 1)
        await seen.stay(1)

        assert not await bench.admin.messages()
        assert len(await bench.admin.listeners()) == 1

    assert others == []


@pytest.mark.case(100)
async def test_path_that_is_empty_or_begins_with_a_colon_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 character"):
        KvQueueModule("")
    for url, text in [
        ("sqlite:///", "Filename cannot be empty"),
        (":foo", r"Filename cannot start with ':' unless prefixed with './'"),
        ("mysql://host/db", "is neither a path nor"),
    ]:
        with pytest.raises(InvalidOptionError, match=text):
            async with KvQueueModule(url).running():
                pass
