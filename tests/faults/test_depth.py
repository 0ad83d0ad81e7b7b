"""However many messages wait, nothing on the way of one of them costs more."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvqueue_fastapi import KvQueueSettings
from kvqueue_fastapi.model import Failure, Outcome
from kvqueue_fastapi.store import open_store
from tests.contract.harness import running
from tests.faults.filling import filled, rows
from tests.faults.gauges import Steps, needs_proc
from tests.faults.measured import measured
from tests.store.given import LEASE_MS, ManualClock, claim, ending, mail, send

MILLION = 1_000_000


@pytest.fixture(scope="session")
def million(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = filled(tmp_path_factory.mktemp("million") / "q.db", MILLION, data="i")
    yield path
    path.unlink()


@pytest.fixture
def deep(million: Path, tmp_path: Path) -> Iterator[Path]:
    """A database in which a million messages of the type `deep` wait."""
    path = tmp_path / "q.db"
    shutil.copyfile(million, path)
    yield path
    path.unlink()


@pytest.fixture
def shallow(tmp_path: Path) -> Path:
    """The same with a thousand."""
    return filled(tmp_path / "shallow.db", 1_000, data="i")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


async def test_start_and_first_message_cost_the_same_behind_a_million(
    shallow: Path, deep: Path, steps: Steps
) -> None:
    async def life(path: Path) -> int:
        came = asyncio.Event()

        async def take() -> None:
            came.set()

        async with running(str(path), callbacks={"new": take}) as bench:
            await bench.queue.send_message("new")
            await asyncio.wait_for(came.wait(), 10)
        return steps.taken()

    little, much = await life(shallow), await life(deep)

    # What polls do meanwhile is a matter of time; a walk through a million is millions.
    assert much < little + 20_000


async def test_every_verb_costs_the_same_behind_a_million(
    shallow: Path, deep: Path, steps: Steps
) -> None:
    little, much = await costs(shallow, steps), await costs(deep, steps)

    assert {verb: cost for verb, cost in much.items() if cost > 1.1 * little[verb] + 100} == {}
    assert little["claim"] > 1_000


@needs_proc
def test_process_takes_no_more_memory_behind_a_million(shallow: Path, deep: Path) -> None:
    little = measured("handle", shallow, 900)
    much = measured("handle", deep, 10_000)

    assert much["peak_kib"] - little["peak_kib"] < 40_000


async def test_sends_go_on_while_a_million_are_counted(deep: Path) -> None:
    async with running(str(deep), listen=False) as bench:
        counting = asyncio.create_task(bench.admin.counts())
        await asyncio.sleep(0.05)
        for number in range(20):
            await bench.queue.send_message("new", number)
        was_counting = not counting.done()
        before = {one.type: one.ready for one in await counting}
        after = {one.type: one.ready for one in await bench.admin.counts()}

    assert was_counting
    assert before["deep"] == MILLION
    assert after == {"deep": MILLION, "new": 20}


async def test_stop_before_a_million_is_quick_and_leaves_them_all(deep: Path) -> None:
    full = asyncio.Event()
    begun: list[int] = []

    async def take(data: int) -> None:
        begun.append(data)
        if len(begun) == 100:
            full.set()
        await asyncio.Event().wait()

    async with running(str(deep), callbacks={"deep": take}, shutdown_timeout_s=0.1):
        await asyncio.wait_for(full.wait(), 10)
        stopped_at = time.monotonic()

    assert time.monotonic() - stopped_at < 3
    assert begun == list(range(1, 101))
    assert rows(deep, "SELECT state, attempt, count(*) FROM kvqueue_messages GROUP BY 1, 2") == [
        (0, 0, MILLION)
    ]


async def test_a_hundred_thousand_delayed_ones_cost_idle_listeners_nothing(
    tmp_path: Path, steps: Steps
) -> None:
    later = {"type": "'mail'", "state": 1, "priority": 9, "due_at_ms": f"{1 << 60} + i"}
    little = await costs(filled(tmp_path / "few.db", 1_000, **later), steps)

    much = await costs(filled(tmp_path / "many.db", 100_000, **later), steps)

    assert {verb: cost for verb, cost in much.items() if cost > 1.1 * little[verb] + 100} == {}


async def costs(path: Path, steps: Steps) -> dict[str, int]:
    """What each verb of the flow takes there, in steps of SQLite's machine."""
    store = await open_store(str(path), KvQueueSettings(), ManualClock())
    costs: dict[str, int] = {}

    async def cost(verb: str, work: Awaitable[Any]) -> Any:
        steps.taken()
        result = await work
        costs[verb] = steps.taken()
        return result

    def blocking(work: Callable[[], object]) -> Awaitable[object]:
        return asyncio.to_thread(work)

    try:
        await cost("send", send(store, *(mail(priority=10) for _ in range(100))))
        await cost("send ordered", send(store, mail(ordering_key="k")))
        held = await cost("claim", claim(store, "deep", "mail"))
        assert len(held) == 100
        await cost("claim nothing", claim(store, "none"))
        leases = [(one.id, one.token) for one in held]
        await cost("extend", blocking(lambda: store.extend(leases, LEASE_MS)))
        for outcome, some in zip(Outcome, range(0, 100, 20), strict=True):
            ends = [ending(one, outcome, failure=Failure("")) for one in held[some : some + 20]]
            await cost(outcome.name, store.settle(ends))
        await cost("look up", store.ready_types(after="", limit=100))
        await cost("count", store.count_pending(most=100))
        await cost("sweep", blocking(store.sweep))
        await cost("look for the dead", blocking(store.end_leases_of_the_dead))
    finally:
        await store.close()
    return costs
