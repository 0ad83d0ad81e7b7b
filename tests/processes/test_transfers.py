"""Transfers between accounts by tasks in several processes, some of which are killed."""

import asyncio
import random
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from kvqueue_fastapi import Kv
from tests.engines import ON_BOTH_ENGINES
from tests.processes.fleet import KV_WORKER, Fleet

pytestmark = ON_BOTH_ENGINES

ACCOUNTS = [("account", number) for number in range(10)]
BALANCE = 100
TASKS = [7, 7, 6]
KILLS = 4
PROGRESS = 20
"""How many transfers each process makes in each phase."""

Process = subprocess.Popen[bytes]
Snapshot = tuple[int, ...]


@pytest.fixture
async def kv(kv: Kv) -> Kv:
    for account in ACCOUNTS:
        await kv.set(account, BALANCE)
    return kv


async def test_no_snapshot_shows_another_sum_while_processes_are_killed(
    fleet: Fleet, kv: Kv
) -> None:
    async with observed(kv) as snapshots:
        tellers = await asyncio.gather(*(start_teller(fleet, tasks) for tasks in TASKS))
        await progress(fleet, tellers, snapshots)
        for kill in range(KILLS):
            await asyncio.sleep(random.uniform(0, 0.1))
            fleet.kill(tellers.pop(0))
            await progress(fleet, tellers, snapshots)
            tellers.append(await start_teller(fleet, TASKS[kill % len(TASKS)]))
        await progress(fleet, tellers, snapshots)

    print(f"{len(snapshots)} snapshots of {len(fleet.ledger.lines('transferred'))} transfers")
    assert {sum(snapshot) for snapshot in snapshots} == {BALANCE * len(ACCOUNTS)}
    assert min(map(min, snapshots)) >= 0
    assert not fleet.log.read_text()


async def test_each_transfer_is_made_once_however_often_it_was_outrun(fleet: Fleet, kv: Kv) -> None:
    async with observed(kv) as snapshots:
        await asyncio.gather(*(start_teller(fleet, tasks, count=10) for tasks in TASKS))
        await fleet.until(lambda: len(fleet.ledger.lines("done")) == len(TASKS))

    balances = [BALANCE] * len(ACCOUNTS)
    for line in fleet.ledger.lines("transferred"):
        source, target, amount = map(int, line.key.split())
        balances[source] -= amount
        balances[target] += amount
    assert await look(kv) == tuple(balances)
    assert {sum(snapshot) for snapshot in snapshots} == {BALANCE * len(ACCOUNTS)}
    assert len(fleet.ledger.lines("transferred")) == 10 * sum(TASKS)
    assert fleet.ledger.lines("outrun")


async def start_teller(fleet: Fleet, tasks: int, count: int = 1_000_000) -> Process:
    config = {"writers": tasks, "accounts": len(ACCOUNTS), "count": count}
    return await fleet.start("transfer", program=KV_WORKER, **config)


async def progress(fleet: Fleet, tellers: Sequence[Process], snapshots: list[Snapshot]) -> None:
    """Wait until each process has gone on, and the observer has seen it."""

    def transfers(teller: Process) -> int:
        return len(fleet.ledger.lines("transferred", pid=teller.pid))

    begun_at = len(snapshots)
    goals = {teller: transfers(teller) + PROGRESS for teller in tellers}
    await fleet.until(lambda: all(transfers(teller) >= goal for teller, goal in goals.items()))
    await fleet.until(lambda: len(set(snapshots[begun_at:])) >= PROGRESS)


async def look(kv: Kv) -> Snapshot:
    entries = await kv.get_many(ACCOUNTS, int)
    return tuple(-1 if entry.value is None else entry.value for entry in entries)


@asynccontextmanager
async def observed(kv: Kv) -> AsyncIterator[list[Snapshot]]:
    """Look at all accounts again and again."""
    snapshots: list[Snapshot] = []
    over = asyncio.Event()

    async def observe() -> None:
        while not over.is_set():
            snapshots.append(await look(kv))
            await asyncio.sleep(0.002)

    observer = asyncio.create_task(observe())
    try:
        yield snapshots
    finally:
        over.set()
        await observer
