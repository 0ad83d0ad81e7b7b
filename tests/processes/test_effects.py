"""Effects of handlers that happen once, whatever becomes of their processes."""

import asyncio
import random
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kvqueue_fastapi import Kv, KvU64
from tests.engines import ON_BOTH_ENGINES
from tests.processes.fleet import KV_WORKER, Fleet

pytestmark = ON_BOTH_ENGINES

LEASE_S = 1
SETTINGS: dict[str, Any] = {
    "lease_s": LEASE_S,
    "concurrency": 10,
    "max_crashes": 1_000,
    "backoff_schedule_s": [0.05] * 20,
}
FAULTS = {
    "die before": 2,
    "die during": 4,
    "die after": 2,
    "raise before": 20,
    "raise after": 20,
    "": 250,
}
"""What goes wrong before, during or after a commit, and in how many messages."""
UNSETTLED = "SELECT id FROM kvqueue_messages WHERE type = 'effect'"
REFUSALS = ["LeaseLostError", "StoreBusyError"]
HELD = "SELECT id, attempt FROM kvqueue_messages WHERE state = 3"

Process = subprocess.Popen[bytes]


async def test_effects_happen_once_whatever_goes_wrong(fleet: Fleet, kv: Kv) -> None:
    async with supervised(fleet) as workers:
        sending = asyncio.create_task(send_faults(kv))
        await kill_now_and_then(fleet, workers)
        frozen = await busy_one(fleet, workers)
        await fleet.freeze(frozen)
        await asyncio.sleep(1.5 * LEASE_S)
        fleet.thaw(frozen)
        await kill_now_and_then(fleet, workers)
        ids = await sending
        await fleet.until(lambda: not fleet.rows(UNSETTLED))

    await assert_effects_once(fleet, kv, ids)
    again = fleet.ledger.count("begun").total() - len(ids)
    print(f"{len(ids)} messages, {again} delivered again, {len(refusals(fleet))} commits too late")


@pytest.mark.case(93)
async def test_a_commit_after_another_took_over_writes_nothing(fleet: Fleet, kv: Kv) -> None:
    frozen, message_id = await frozen_holder(fleet, kv)
    peer = await peer_that_takes_over(fleet)

    fleet.thaw(frozen)
    go(fleet, attempt=1)
    await fleet.until(lambda: fleet.ledger.lines("refused", message_id))

    assert refusals(fleet) == [(frozen.pid, "LeaseLostError")]
    assert fleet.rows("SELECT key FROM kvqueue_kv") == []
    assert fleet.rows(HELD) == [(message_id, 2)]
    go(fleet, attempt=2)
    await fleet.until(lambda: not fleet.rows(UNSETTLED))
    await assert_effects_once(fleet, kv, [message_id])
    # written down behind the commit
    await fleet.until(lambda: fleet.ledger.lines("committed"))
    assert [line.pid for line in fleet.ledger.lines("committed")] == [peer.pid]


@pytest.mark.case(93)
async def test_a_commit_after_another_has_committed_writes_nothing(fleet: Fleet, kv: Kv) -> None:
    frozen, message_id = await frozen_holder(fleet, kv)
    await peer_that_takes_over(fleet)
    go(fleet, attempt=2)
    await fleet.until(lambda: not fleet.rows(UNSETTLED))

    go(fleet, attempt=1)
    fleet.thaw(frozen)
    await fleet.until(lambda: fleet.ledger.lines("refused", message_id))

    assert refusals(fleet) == [(frozen.pid, "LeaseLostError")]
    await assert_effects_once(fleet, kv, [message_id])


async def test_a_commit_that_freezes_on_its_way_is_made_by_another(fleet: Fleet, kv: Kv) -> None:
    holder, message_id = await waiting_holder(fleet, kv)
    with fleet.foreign.lock():
        go(fleet, attempt=1)
        await asyncio.sleep(LEASE_S / 6)
        # Its commit is on its way, and waits for this lock.
        fleet.stop(holder)
    await peer_that_takes_over(fleet)

    fleet.thaw(holder)
    await fleet.until(lambda: fleet.ledger.lines("refused", message_id))
    go(fleet, attempt=2)
    await fleet.until(lambda: not fleet.rows(UNSETTLED))

    # It may also have lost its patience with the foreign lock.
    assert refusals(fleet) in ([(holder.pid, error)] for error in REFUSALS)
    await assert_effects_once(fleet, kv, [message_id])


async def assert_effects_once(fleet: Fleet, kv: Kv, ids: list[int]) -> None:
    """Each of these messages had its effects once, and nothing is left to do."""
    effects = {entry.key[1]: entry.versionstamp async for entry in kv.list(prefix=("effect",))}
    sent = fleet.rows("SELECT data FROM kvqueue_messages")
    committed = fleet.ledger.lines("committed")
    assert (await kv.get(("effects", "count"))).value == KvU64(len(ids))
    assert list(effects) == sorted(ids)
    assert sorted(int(data) for (data,) in sent) == sorted(ids)
    assert {(line.id, line.version) for line in committed} <= set(effects.items())
    assert not fleet.rows("SELECT id FROM kvqueue_dead_letters")


def refusals(fleet: Fleet) -> list[tuple[int, str]]:
    return [(line.pid, line.key) for line in fleet.ledger.lines("refused")]


async def send(kv: Kv, fault: str) -> int:
    committed = await kv.atomic().send_message("effect", {"fault": fault}).commit()
    return committed.message_ids[0]


async def send_faults(kv: Kv) -> list[int]:
    faults = list(Counter(FAULTS).elements())
    random.shuffle(faults)
    ids = []
    for fault in faults:
        ids.append(await send(kv, fault))
        await asyncio.sleep(0.01)
    return ids


async def kill_now_and_then(fleet: Fleet, workers: list[Process]) -> None:
    for _ in range(2):
        await asyncio.sleep(random.uniform(0.2, 0.6))
        fleet.kill(random.choice(workers))


async def busy_one(fleet: Fleet, workers: list[Process]) -> Process:
    def busy() -> list[Process]:
        alive = [worker for worker in workers if worker.poll() is None]
        return [worker for worker in alive if fleet.ledger.lines("begun", pid=worker.pid)]

    await fleet.until(busy)
    return random.choice(busy())


@asynccontextmanager
async def supervised(fleet: Fleet) -> AsyncIterator[list[Process]]:
    """Keep two workers running: start each again when it dies."""
    workers = [launch(fleet) for _ in range(2)]

    async def supervise() -> None:
        while True:
            for index, worker in enumerate(workers):
                if worker.poll() is not None:
                    workers[index] = launch(fleet)
            await asyncio.sleep(0.02)

    await fleet.until(lambda: len(fleet.ledger.lines("ready")) == len(workers))
    supervisor = asyncio.create_task(supervise())
    try:
        yield workers
    finally:
        supervisor.cancel()


def launch(fleet: Fleet) -> Process:
    return fleet.launch("listen", program=KV_WORKER, settings=SETTINGS)


async def waiting_holder(fleet: Fleet, kv: Kv) -> tuple[Process, int]:
    """Have a process begin a message and wait, before it commits, for a `go`."""
    holder = launch(fleet)
    message_id = await send(kv, "wait")
    await fleet.begun(message_id)
    return holder, message_id


async def frozen_holder(fleet: Fleet, kv: Kv) -> tuple[Process, int]:
    holder, message_id = await waiting_holder(fleet, kv)
    await fleet.freeze(holder)
    return holder, message_id


async def peer_that_takes_over(fleet: Fleet) -> Process:
    """Start a process, and wait until it has begun what the frozen one had; it waits as well."""
    peer = launch(fleet)
    await fleet.until(lambda: fleet.ledger.lines("begun", pid=peer.pid))
    return peer


def go(fleet: Fleet, *, attempt: int) -> None:
    (fleet.directory / f"go-{attempt}").touch()
