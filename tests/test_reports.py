import asyncio
import sqlite3
import time
from pathlib import Path

import pytest

from kvqueue_fastapi import Message, Minute, Reject, StoreError, on_queue_message
from kvqueue_fastapi.deliveries import Deliveries
from kvqueue_fastapi.reports import Reporter, _LoopLag
from tests.contract.harness import Seen, running, until


async def test_what_a_listener_ended_is_counted_when_it_stops(tmp_path: Path) -> None:
    seen = Seen()

    @on_queue_message("n")
    async def handle(what: str, message: Message) -> None:
        seen.add(what)
        if what == "dead":
            raise Reject(what)
        if what == "retry" and message.attempt == 1:
            raise ValueError(what)
        if what == "atomic":
            await message.atomic().set(("k",), 1).commit()

    async with running(tmp_path, handle, backoff_schedule_s=(0,)) as bench:
        for what in ("done", "dead", "retry", "atomic"):
            await bench.queue.send_message("n", what)
        await seen.reach(5)
        await until(lambda: is_empty(bench))
    async with running(tmp_path, listen=False) as bench:
        minutes = await bench.admin.minutes()

    assert {minute.type for minute in minutes} == {"n"}
    assert sum_of(minutes) == (3, 1, 1)


async def is_empty(bench: object) -> bool:
    (counts,) = await bench.admin.counts()  # type: ignore[attr-defined]
    return not (counts.ready or counts.running or counts.delayed)


def sum_of(minutes: list[Minute]) -> tuple[int, int, int]:
    # The clock may go over into another minute meanwhile.
    return (
        sum(minute.handled for minute in minutes),
        sum(minute.failed for minute in minutes),
        sum(minute.dead for minute in minutes),
    )


async def test_busy_listener_reports_without_being_stopped(tmp_path: Path) -> None:
    seen, go_on = Seen(), asyncio.Event()

    @on_queue_message("n")
    async def handle() -> None:
        seen.add("n")
        await go_on.wait()

    async with running(tmp_path, handle) as bench:
        await bench.queue.send_message("n")
        await seen.reach(1)

        async def is_reported() -> bool:
            (listener,) = await bench.admin.listeners()
            return (listener.running, listener.leases) == (1, 1)

        await until(is_reported)
        go_on.set()


async def test_lag_is_the_longest_time_that_the_event_loop_took_to_answer() -> None:
    lag = _LoopLag()
    lag.begin()

    lag.look()
    time.sleep(0.05)  # noqa: ASYNC251 because it is the loop that is held up
    await asyncio.sleep(0)
    lag.look()
    longest_ms = lag.longest_ms
    await asyncio.sleep(0)
    lag.look()

    assert longest_ms >= 50
    assert lag.longest_ms == longest_ms


async def test_loop_that_has_not_answered_yet_is_late_already() -> None:
    lag = _LoopLag()
    lag.begin()

    lag.look()
    time.sleep(0.02)  # noqa: ASYNC251 because it is the loop that is held up
    lag.look()

    assert lag.longest_ms >= 20


async def test_report_that_failed_is_tried_again_and_tells_that_it_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, listen=False) as bench:
        store = bench.queue._handle.store
        reporter = Reporter(store, Deliveries(), lambda: 1)
        reporter.begin(await store.enter_listener(["n"]))
        monkeypatch.setattr("kvqueue_fastapi.reports.BUSY_S", 0)
        with sqlite3.connect(tmp_path / "q.db") as foreign:
            foreign.execute("ALTER TABLE kvqueue_minutes RENAME TO gone")
        with pytest.raises(StoreError):
            await asyncio.to_thread(reporter.look)
        store._patience.outages.has_failed()
        with sqlite3.connect(tmp_path / "q.db") as foreign:
            foreign.execute("ALTER TABLE gone RENAME TO kvqueue_minutes")

        await asyncio.to_thread(reporter.look)
        early = (await bench.admin.listeners())[0].running
        monkeypatch.setattr("kvqueue_fastapi.reports.AGAIN_S", 0)
        await asyncio.to_thread(reporter.look)

        assert (early, (await bench.admin.listeners())[0].running) == (0, 1)
        assert store.can_write
