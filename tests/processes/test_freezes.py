"""A process that is stopped for longer than its lease, and then goes on."""

import asyncio

import pytest

from kvqueue_fastapi import KvQueue, KvQueueAdmin
from tests.engines import ON_BOTH_ENGINES
from tests.processes.fleet import Fleet

LEASE_S = 1
SETTINGS = {"lease_s": LEASE_S}


@ON_BOTH_ENGINES
@pytest.mark.case(93)
async def test_a_frozen_holder_loses_its_message_to_a_peer(
    fleet: Fleet, queue: KvQueue, admin: KvQueueAdmin
) -> None:
    frozen = await fleet.start(settings=SETTINGS)
    message_id = await queue.send_message("work", {"seconds": 0.5})
    await fleet.begun(message_id)
    await fleet.freeze(frozen)

    peer = await fleet.start(settings=SETTINGS)
    again = await fleet.begun(message_id, times=2)

    assert (again.pid, again.attempt) == (peer.pid, 2)
    await fleet.ended(message_id)
    await fleet.until(lambda: not fleet.rows("SELECT 1 FROM kvqueue_messages"))
    assert not await admin.dead_letters()


@ON_BOTH_ENGINES
@pytest.mark.case(93)
async def test_the_late_ack_of_a_thawed_holder_changes_nothing(
    fleet: Fleet, queue: KvQueue
) -> None:
    frozen = await fleet.start(settings=SETTINGS)
    message_id = await queue.send_message("work", {"seconds": 1.5})
    await fleet.begun(message_id)
    await fleet.freeze(frozen)
    peer = await fleet.start(settings=SETTINGS)
    again = await fleet.begun(message_id, times=2)

    fleet.thaw(frozen)
    await fleet.until(lambda: fleet.ledger.lines("ended", message_id, frozen.pid))

    # The peer is still at work, and it is the peer that ends it.
    held = "SELECT id, attempt, crashes FROM kvqueue_messages WHERE state = 3"
    assert fleet.rows(held) == [(message_id, again.attempt, 1)]
    await fleet.until(lambda: fleet.ledger.lines("ended", message_id, peer.pid))
    assert fleet.ledger.count("begun")[message_id] == 2


@pytest.mark.parametrize("left_s", [0, 1])
async def test_a_thawed_handler_can_see_that_its_lease_is_lost(
    fleet: Fleet, queue: KvQueue, left_s: float
) -> None:
    frozen = await fleet.start(settings=SETTINGS)
    message_id = await queue.send_message("work", {"seconds": LEASE_S + left_s})
    await fleet.begun(message_id)
    await fleet.freeze(frozen)
    peer = await fleet.start(settings=SETTINGS)
    await fleet.begun(message_id, times=2)

    fleet.thaw(frozen)
    await fleet.until(lambda: len(fleet.ledger.lines("ended", message_id)) == 2)

    lost = {line.pid: line.lost for line in fleet.ledger.lines("ended", message_id)}
    assert lost == {frozen.pid: True, peer.pid: False}


async def test_a_thawed_process_goes_on_listening(fleet: Fleet, queue: KvQueue) -> None:
    frozen = await fleet.start(settings=SETTINGS)
    await fleet.freeze(frozen)
    await asyncio.sleep(2 * LEASE_S)
    fleet.thaw(frozen)

    message_id = await queue.send_message("work", {})

    await fleet.ended(message_id, within_s=5)
    assert [line.pid for line in fleet.ledger.lines("begun", message_id)] == [frozen.pid]


async def test_nothing_is_lost_when_a_busy_process_freezes(fleet: Fleet, queue: KvQueue) -> None:
    settings = {**SETTINGS, "concurrency": 4}
    frozen = await fleet.start(settings=settings)
    ids = await queue.send_messages([("work", {"seconds": 0.02})] * 300)
    await fleet.until(lambda: len(fleet.ledger.lines("ended")) > 20)
    await fleet.freeze(frozen)

    await fleet.start(settings=settings)
    await fleet.ended(*ids)
    fleet.thaw(frozen)

    await fleet.until(lambda: not fleet.rows("SELECT id FROM kvqueue_messages"))
    assert max(fleet.ledger.count("begun").values()) == 2


@ON_BOTH_ENGINES
async def test_a_thawed_process_begins_nothing_that_it_has_lost(
    fleet: Fleet, queue: KvQueue
) -> None:
    settings = {**SETTINGS, "concurrency": 4}
    frozen = await fleet.start(settings=settings)
    ids = await queue.send_messages([("work", {"seconds": 0.02})] * 200)
    await fleet.until(lambda: len(fleet.ledger.lines("ended")) > 50)
    await fleet.freeze(frozen)
    had_begun = {line.id for line in fleet.ledger.lines("begun", pid=frozen.pid)}
    peer = await fleet.start(settings=settings)
    await fleet.ended(*ids[-100:])
    await asyncio.sleep(LEASE_S)  # or it would have lost nothing yet

    fleet.thaw(frozen)
    await asyncio.sleep(LEASE_S)

    by_peer = {line.id for line in fleet.ledger.lines("begun", pid=peer.pid)}
    begun = {line.id for line in fleet.ledger.lines("begun", pid=frozen.pid)}
    assert not (begun - had_begun) & by_peer
