"""Watches and listeners that begin, end and fail at odd moments."""

import asyncio
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from injector import Injector

from kvqueue_fastapi import (
    Kv,
    KvQueueClosedError,
    KvQueueModule,
    KvQueueNotStartedError,
    KvQueueSettings,
    Message,
)
from tests.contract.harness import PATIENCE_S, Seen, is_there, running, until


def our_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("kvqueue")]


async def test_whoever_watches_again_while_the_store_closes_is_told(tmp_path: Path) -> None:
    async def follow() -> str:
        while True:
            try:
                async for _ in kv.watch([("k",)]):
                    seen.add("shown")
            except KvQueueClosedError:
                return "closed"

    seen = Seen()
    kv = await Kv.open(str(tmp_path / "q.db"))
    task = asyncio.create_task(follow())
    await seen.reach(1)

    async with asyncio.timeout(PATIENCE_S):
        await kv.close()

        assert await task == "closed"


async def test_whoever_watches_again_while_an_app_stops_is_told(tmp_path: Path) -> None:
    async def follow(kv: Kv) -> None:
        while True:
            async for _ in kv.watch([("k",)]):
                seen.add("shown")

    seen = Seen()
    async with running(tmp_path) as bench:
        task = asyncio.create_task(follow(bench.kv))
        await seen.reach(1)

    with pytest.raises(KvQueueClosedError):
        await task


async def test_nobody_begins_to_listen_while_the_listeners_drain(tmp_path: Path) -> None:
    async def slow(value: int) -> None:
        seen.add(value)
        await asyncio.sleep(0.2)

    async def supervise() -> str:
        while True:
            try:
                await kv.listen_queue(slow)
            except KvQueueClosedError:
                return "closed"

    seen = Seen()
    kv = await Kv.open(str(tmp_path / "q.db"))
    tasks = [asyncio.create_task(supervise()) for _ in range(2)]
    await kv.enqueue(1)
    await seen.reach(1)

    async with asyncio.timeout(PATIENCE_S):
        await kv.close()

        assert await asyncio.gather(*tasks) == ["closed", "closed"]


async def test_listening_can_begin_again_with_the_next_start_of_an_app(tmp_path: Path) -> None:
    seen = Seen()
    module = KvQueueModule(str(tmp_path / "q.db"))
    injector = Injector([module])
    kv = injector.get(Kv)

    for start in range(2):
        async with module.running(injector):
            task = asyncio.create_task(kv.listen_queue(seen.take))
            await kv.enqueue(start)
            await seen.reach(start + 1)
        await task

    assert seen == [0, 1]


@pytest.mark.parametrize("settles", [False, True])
async def test_handler_that_is_slow_to_be_cancelled_keeps_its_message_only_until_it_ends(
    tmp_path: Path, *, settles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(value: int, message: Message) -> None:
        seen.add(value)
        try:
            if settles and seen.count(value) == 1:
                await message.atomic().set(("settled",), 1).commit()
            if seen.count(value) == 1:
                await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.2)

    monkeypatch.setattr("kvqueue_fastapi.listener.CANCEL_S", 0.05)
    seen = Seen()
    settings = KvQueueSettings(shutdown_timeout_s=0)
    async with Kv.open(str(tmp_path / "q.db"), settings=settings) as kv:
        first = asyncio.create_task(kv.listen_queue(slow))
        await kv.enqueue(7)
        await seen.reach(1)
        if settles:
            await until(lambda: is_there(kv, ("settled",)))
        first.cancel()
        await asyncio.wait([first])
        again = asyncio.create_task(kv.listen_queue(slow))
        await seen.stay(1 if settles else 2)
        again.cancel()
        await asyncio.wait([again])

    await until(gone)


async def gone() -> bool:
    return not our_threads()


async def test_key_value_store_is_not_used_on_another_event_loop(tmp_path: Path) -> None:
    async def use() -> str:
        try:
            await kv.set(("k",), 1)
        except Exception as error:  # noqa: BLE001
            return f"{type(error).__name__}: {error}"
        return "used"

    async with Kv.open(str(tmp_path / "q.db")) as kv:
        told = await asyncio.to_thread(lambda: asyncio.run(use()))

        assert "not started on this event loop, but on another one" in told
        assert (await kv.get(("k",))).versionstamp is None


async def test_many_handlers_that_are_slow_to_be_cancelled_do_not_stop_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(value: int) -> None:
        seen.add(value)
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05 + value * 0.0002)

    monkeypatch.setattr("kvqueue_fastapi.listener.CANCEL_S", 0.05)
    seen = Seen()
    settings = KvQueueSettings(shutdown_timeout_s=0)
    async with asyncio.timeout(PATIENCE_S):
        async with Kv.open(str(tmp_path / "q.db"), settings=settings) as kv:
            task = asyncio.create_task(kv.listen_queue(slow))
            for value in range(60):
                await kv.enqueue(value)
            await seen.reach(60)
        await task
        await until(gone)

        async with running(tmp_path, listen=False) as bench:
            messages = await bench.admin.messages(limit=100)
    assert [(one.state, one.attempt) for one in messages] == [("ready", 0)] * 60


async def test_stop_does_not_wait_for_the_threads_of_others(tmp_path: Path) -> None:
    async def handle(value: int) -> None:
        seen.add(value)
        await asyncio.to_thread(go_on.wait, PATIENCE_S)

    seen, go_on = Seen(), threading.Event()
    settings = KvQueueSettings(shutdown_timeout_s=0)
    kv = await Kv.open(str(tmp_path / "q.db"), settings=settings)
    task = asyncio.create_task(kv.listen_queue(handle))
    for value in range(40):
        await kv.enqueue(value)
    await seen.reach(40)

    async with asyncio.timeout(PATIENCE_S / 2):
        await kv.close()
        await task
    go_on.set()

    assert seen.count(39) == 1


async def test_store_stays_patient_when_one_listener_stops(tmp_path: Path) -> None:
    seen = Seen()
    async with Kv.open(str(tmp_path / "q.db")) as kv:
        before = kv._handle.store._patience.seconds  # type: ignore[attr-defined]
        task = asyncio.create_task(kv.listen_queue(seen.take))
        await kv.enqueue(1)
        await seen.reach(1)
        task.cancel()
        await asyncio.wait([task])

        assert kv._handle.store._patience.seconds == before  # type: ignore[attr-defined]


async def test_message_of_a_handler_that_finds_the_store_closed_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handle(value: int, message: Message) -> None:
        seen.add(value)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await closed.wait()
        await message.atomic().set(("k",), 1).commit()

    monkeypatch.setattr("kvqueue_fastapi.listener.CANCEL_S", 0.05)
    seen, closed = Seen(), asyncio.Event()
    settings = KvQueueSettings(shutdown_timeout_s=0, backoff_schedule_s=())
    kv = await Kv.open(str(tmp_path / "q.db"), settings=settings)
    task = asyncio.create_task(kv.listen_queue(handle))
    await kv.enqueue(1)
    await seen.reach(1)
    await kv.close()
    closed.set()
    await task
    await until(gone)

    async with running(tmp_path, listen=False) as bench:
        (message,) = await bench.admin.messages()
    assert (message.state, message.attempt) == ("ready", 0)


async def test_store_is_not_closed_from_another_event_loop(tmp_path: Path) -> None:
    async with Kv.open(str(tmp_path / "q.db")) as kv:
        with pytest.raises(KvQueueNotStartedError, match="on another one"):
            await asyncio.to_thread(lambda: asyncio.run(kv.close()))

        assert (await kv.set(("k",), 1)).ok


async def test_listener_that_cannot_leave_closes_nothing_under_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def slow(value: int) -> None:
        seen.add(value)
        await asyncio.sleep(0.3)
        seen.add("done")

    seen = Seen()
    kv = await Kv.open(str(tmp_path / "q.db"))
    first = asyncio.create_task(kv.listen_queue(slow))
    await kv.enqueue(1)
    await seen.reach(1)
    second = asyncio.create_task(kv.listen_queue(slow))
    await asyncio.sleep(0.05)
    leave = kv._handle.store.leave_listener
    leaves: list[int] = []

    def leave_but_the_first(listener_id: int) -> None:
        leaves.append(listener_id)
        if len(leaves) == 1:
            raise OSError("no")
        leave(listener_id)

    kv._handle.store.leave_listener = leave_but_the_first  # type: ignore[method-assign]
    await kv.close()
    await asyncio.gather(first, second)

    assert seen == [1, "done"]
    assert "could not stop cleanly" in caplog.text
