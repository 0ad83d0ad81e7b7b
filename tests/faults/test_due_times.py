"""A hundred thousand messages that are due at once, or that are not due yet."""

import asyncio
import time
from pathlib import Path

import pytest

from kvqueue_fastapi import KvQueueSettings
from kvqueue_fastapi.store import open_store
from kvqueue_fastapi.testing import FakeClock
from tests.contract.harness import running
from tests.faults.filling import filled, rows
from tests.faults.gauges import Steps
from tests.store.given import ManualClock, claim

MANY = 100_000


async def longest_gap(ended: asyncio.Event) -> float:
    """How long the event loop was held at the most, in seconds."""
    longest, last = 0.0, time.monotonic()
    while not ended.is_set():
        await asyncio.sleep(0.001)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    return longest


async def test_many_messages_due_in_the_same_millisecond_come_then_once_each_and_in_order(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    due_at_ms = clock.wall_ms() + 60_000
    path = filled(tmp_path / "q.db", MANY, state=1, due_at_ms=due_at_ms, data="i")
    came: list[int] = []
    all_came = asyncio.Event()

    async def take(number: int) -> None:
        came.append(number)
        if len(came) >= MANY:
            all_came.set()

    ticking = asyncio.create_task(longest_gap(all_came))
    async with running(str(path), callbacks={"deep": take}, modules=(clock,), poll_interval_s=0.05):
        clock.advance(59.999)
        await asyncio.sleep(0.3)
        came_early = list(came)
        clock.advance(0.001)
        await asyncio.wait_for(all_came.wait(), 60)

    assert came_early == []
    assert came == list(range(1, MANY + 1))
    assert await ticking < 1


async def test_a_claim_makes_only_a_slice_of_what_is_due_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(monkeypatch)
    costs: list[int] = []

    for count in (2_000, MANY):
        path = filled(tmp_path / f"{count}.db", count, state=1)
        store = await open_store(str(path), KvQueueSettings(), ManualClock())
        steps.taken()
        assert len(await claim(store, "deep")) == 100
        costs.append(steps.taken())
        await store.close()

    assert costs[1] < 1.1 * costs[0]


async def test_ready_messages_pass_a_hundred_thousand_delayed_ones(tmp_path: Path) -> None:
    later = {"state": 1, "priority": 9, "due_at_ms": 1 << 60}
    path = filled(tmp_path / "q.db", MANY, **later)
    came: list[int] = []
    all_came = asyncio.Event()

    async def take(number: int) -> None:
        came.append(number)
        if len(came) == 1_000:
            all_came.set()

    async with running(str(path), callbacks={"deep": take}) as bench:
        await bench.queue.send_messages([("deep", number) for number in range(1_000)])
        await asyncio.wait_for(all_came.wait(), 10)

    assert came == list(range(1_000))
    assert rows(path, "SELECT state, count(*) FROM kvqueue_messages") == [(1, MANY)]
