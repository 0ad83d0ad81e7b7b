"""A message that is one crash from its end: nothing else begins while it may do harm."""

import asyncio
import sqlite3
from collections import deque
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest

from kvqueue_fastapi import KvQueueModule, KvQueueSettings, on_queue_message
from kvqueue_fastapi.handlers.table import HandlerTable
from kvqueue_fastapi.isolation import Isolation
from kvqueue_fastapi.message import Hold
from kvqueue_fastapi.model import Claim
from kvqueue_fastapi.rooms import Rooms
from kvqueue_fastapi.runners import Runners
from tests.contract.harness import Seen, running


async def suspect(where: Path, name: str, crashes: int = 4) -> None:
    """Put a message in as the store has it after so many crashes of five."""
    async with running(where, listen=False):
        pass  # the file is there now, with its tables
    with closing(sqlite3.connect(where / "q.db", isolation_level=None)) as connection:
        connection.execute(
            "INSERT INTO kvqueue_messages (type, data, crashes, attempt, state, lane)"
            " VALUES ('work', json_quote(?1), ?2, ?2, 1 + ?2, 1 + ?2)",
            (name, crashes),
        )


def keep_apart_for(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("isolation", "listener"):
        monkeypatch.setattr(f"kvqueue_fastapi.{module}.APART_S", seconds)


class Worker:
    """Notes who begins and who ends, each after its own time."""

    def __init__(self, **seconds: float) -> None:
        self.seen = Seen()
        self._seconds = seconds

    async def work(self, name: str) -> None:
        self.seen.add(f"{name} begins")
        await asyncio.sleep(self._seconds.get(name, 0))
        self.seen.add(f"{name} ends")


async def test_nothing_begins_while_an_isolated_message_runs(tmp_path: Path) -> None:
    worker = Worker(suspect=0.3)
    await suspect(tmp_path, "suspect")

    async with running(tmp_path, callbacks={"work": worker.work}) as bench:
        await worker.seen.reach(1)
        await bench.queue.send_message("work", "other")
        await worker.seen.reach(4)

    assert worker.seen == ["suspect begins", "suspect ends", "other begins", "other ends"]


async def test_isolated_message_begins_when_nothing_else_runs(tmp_path: Path) -> None:
    worker = Worker(other=0.3)

    async with running(tmp_path, callbacks={"work": worker.work}) as bench:
        await bench.queue.send_message("work", "other")
        await worker.seen.reach(1)
        await suspect(tmp_path, "suspect")
        await worker.seen.reach(4)

    assert worker.seen == ["other begins", "other ends", "suspect begins", "suspect ends"]


async def test_isolated_messages_run_one_after_another(tmp_path: Path) -> None:
    worker = Worker(a=0.05, b=0.05)
    for name in ("a", "b"):
        await suspect(tmp_path, name)

    async with running(tmp_path, callbacks={"work": worker.work}, poll_interval_s=3_600):
        await worker.seen.reach(4)

    assert worker.seen == ["a begins", "a ends", "b begins", "b ends"]


async def test_handler_that_takes_hours_holds_up_no_isolated_message_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_apart_for(0.1, monkeypatch)
    worker = Worker(endless=3_600, suspect=3_600)

    async with running(tmp_path, callbacks={"work": worker.work}, shutdown_timeout_s=0) as bench:
        await bench.queue.send_message("work", "endless")
        await worker.seen.reach(1)
        await suspect(tmp_path, "suspect")
        await worker.seen.reach(2)
        await bench.queue.send_message("work", "other")
        await worker.seen.reach(4)

    assert worker.seen == ["endless begins", "suspect begins", "other begins", "other ends"]


async def test_shutdown_does_not_wait_for_an_isolated_message(tmp_path: Path) -> None:
    worker = Worker(suspect=3_600)
    await suspect(tmp_path, "suspect")

    async with running(tmp_path, callbacks={"work": worker.work}, shutdown_timeout_s=0) as bench:
        await worker.seen.reach(1)

    async with running(tmp_path, listen=False) as bench:
        (record,) = await bench.admin.messages()
    assert (record.state, record.attempt, record.crashes) == ("isolated", 4, 4)


async def test_drain_takes_isolated_messages_too(tmp_path: Path) -> None:
    worker = Worker()
    await suspect(tmp_path, "suspect")

    async with running(tmp_path, listen=False, callbacks={"work": worker.work}) as bench:
        await bench.queue.send_message("work", "other")
        handled = await bench.queue.run_until_idle()

    assert handled == 2
    assert worker.seen == ["other begins", "other ends", "suspect begins", "suspect ends"]


async def test_isolated_message_waits_for_room_and_then_comes_before_its_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_apart_for(0.05, monkeypatch)
    worker = Worker(first=0.3, second=0.3, third=0.3)

    begun, is_there = asyncio.Event(), asyncio.Event()

    @on_queue_message("work", concurrency=1)
    async def one_at_a_time(name: str) -> None:
        if name == "first":
            begun.set()
            await is_there.wait()
        await worker.work(name)

    async with running(tmp_path, one_at_a_time) as bench:
        await bench.queue.send_messages([("work", name) for name in ("first", "second", "third")])
        await begun.wait()
        await suspect(tmp_path, "suspect")
        is_there.set()
        await worker.seen.reach(8)

    # The second had been claimed when it was told of the suspect, and was given back.
    order = ("first", "suspect", "second", "third")
    assert worker.seen == [f"{name} {does}" for name in order for does in ("begins", "ends")]


async def test_quarantine_goes_on_behind_a_handler_that_never_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_apart_for(0.1, monkeypatch)
    worker = Worker(endless=3_600)
    for name in ("endless", "other", "another"):
        await suspect(tmp_path, name, crashes=3)

    async with running(
        tmp_path, callbacks={"work": worker.work}, shutdown_timeout_s=0, poll_interval_s=3_600
    ):
        await worker.seen.reach(5)

    begun = [line for line in worker.seen if line.endswith("begins")]
    assert begun == ["endless begins", "other begins", "another begins"]


async def test_who_has_outlasted_one_wait_is_not_waited_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endless = Hold(Claim(1, 1, "work", "null", 1, 0, 0, None, None), claimed_at=0)
    begun = asyncio.Event()

    async def handle(_hold: Hold) -> None:
        begun.set()
        await asyncio.Event().wait()

    runners = Runners(10, deque([endless]), handle, failed=lambda _hold, _error: None)
    isolation = Isolation(Rooms(HandlerTable(), KvQueueSettings(), claim_size=100), runners)
    runners.start()
    await begun.wait()

    keep_apart_for(0.01, monkeypatch)
    await isolation.until_idle()
    keep_apart_for(3_600, monkeypatch)
    async with asyncio.timeout(5):
        await isolation.until_idle()

    assert list(runners.running.values()) == [endless]
    for runner in runners.running:
        runner.cancel()


async def test_nothing_begins_before_the_good_end_of_an_isolated_message_is_written_down(
    postgres_url: str,
) -> None:
    seen = Seen()
    foreign = await asyncpg.connect(postgres_url)
    locking = foreign.transaction()

    @on_queue_message("work")
    async def work(name: str) -> None:
        seen.add(name)
        if name == "suspect":
            # its row, so that it cannot be removed
            await locking.start()
            await foreign.execute("SELECT 1 FROM kvqueue.kvqueue_messages FOR UPDATE")

    await foreign.execute(
        "INSERT INTO kvqueue.kvqueue_messages (type, data, crashes, attempt, state, lane)"
        " VALUES ('work', '\"suspect\"', 4, 4, 5, 5)"
    )
    async with KvQueueModule(postgres_url, consumers=[work]).running() as queue:
        await seen.reach(1)
        await queue.send_message("work", "other")
        await asyncio.sleep(0.3)
        before = list(seen)
        await locking.rollback()
        await seen.reach(2)
    await foreign.close()

    assert before == ["suspect"]
    assert seen == ["suspect", "other"]
