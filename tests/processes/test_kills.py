"""kill -9 while messages are being handled."""

import pytest

from kvqueue_fastapi import KvQueue, KvQueueAdmin
from tests.engines import ON_BOTH_ENGINES
from tests.processes.fleet import Fleet

TAKEOVER_S = 3
"""A second or so is the promise; the lease of 30 s would be the failure."""
LONG = {"seconds": 60}


@ON_BOTH_ENGINES
@pytest.mark.case(88)
async def test_a_live_peer_takes_over_soon_after_a_kill(fleet: Fleet, queue: KvQueue) -> None:
    first = await fleet.start()
    message_id = await queue.send_message("work", LONG)
    await fleet.begun(message_id)
    peer = await fleet.start()

    killed_at = fleet.kill(first)
    again = await fleet.begun(message_id, times=2)

    assert again.pid == peer.pid
    assert again.at - killed_at < TAKEOVER_S
    print(f"takeover by a peer: {again.at - killed_at:.2f} s")


@ON_BOTH_ENGINES
@pytest.mark.case(88)
async def test_a_restart_right_after_a_kill_takes_over_soon(fleet: Fleet, queue: KvQueue) -> None:
    first = await fleet.start()
    message_id = await queue.send_message("work", LONG)
    await fleet.begun(message_id)

    killed_at = fleet.kill(first)
    second = await fleet.start()
    again = await fleet.begun(message_id, times=2)

    ready_at = fleet.ledger.lines("ready", pid=second.pid)[0].at
    assert again.at - ready_at < TAKEOVER_S
    print(f"takeover after restart: {again.at - killed_at:.2f} s, {again.at - ready_at:.2f} ready")


@ON_BOTH_ENGINES
@pytest.mark.case(91)
async def test_a_kill_spends_no_retry(fleet: Fleet, queue: KvQueue, admin: KvQueueAdmin) -> None:
    first = await fleet.start(settings={"backoff_schedule_s": []})
    message_id = await queue.send_message("work", LONG, backoff_schedule=[])
    await fleet.begun(message_id)

    fleet.kill(first)
    await fleet.start(settings={"backoff_schedule_s": []})
    again = await fleet.begun(message_id, times=2)

    record = await admin.message(message_id)
    assert record is not None
    assert (again.attempt, record.attempt, record.crashes) == (2, 2, 1)
    assert [error.text for error in record.errors] == ["the process that handled it died"]


async def test_everything_in_flight_comes_again_and_ends_once(
    fleet: Fleet, queue: KvQueue, admin: KvQueueAdmin
) -> None:
    ids = await queue.send_messages([("work", {"seconds": 0.3})] * 20)
    for _ in range(3):
        doomed = await fleet.start(settings={"concurrency": 10})
        await fleet.until(lambda pid=doomed.pid: fleet.ledger.lines("begun", pid=pid))
        fleet.kill(doomed)
    await fleet.start(settings={"concurrency": 10})

    await fleet.ended(*ids)

    assert fleet.ledger.count("ended") == dict.fromkeys(ids, 1)
    assert not await admin.dead_letters()


@ON_BOTH_ENGINES
async def test_dead_listeners_leave_neither_records_nor_files(
    fleet: Fleet, queue: KvQueue, admin: KvQueueAdmin, engine: str
) -> None:
    for _ in range(3):
        fleet.kill(await fleet.start())

    last = await fleet.start()
    await fleet.until(lambda: len(fleet.rows("SELECT id FROM kvqueue_listeners")) == 1)

    assert [listener.pid for listener in await admin.listeners()] == [last.pid]
    assert len(list(fleet.directory.glob("*-listener-*"))) == (engine == "sqlite")
