"""Handlers that take longer than their lease, with or without the event loop."""

import asyncio

import pytest

from kvqueue_fastapi import KvQueue
from tests.engines import ON_BOTH_ENGINES
from tests.processes.fleet import Fleet

LEASE_S = 1
SETTINGS = {"lease_s": LEASE_S}


@pytest.mark.case(89)
@pytest.mark.parametrize("do", ["sleep", "spin"])
async def test_a_handler_of_three_leases_has_one_delivery(
    fleet: Fleet, queue: KvQueue, do: str
) -> None:
    await fleet.start(settings=SETTINGS)
    message_id = await queue.send_message("work", {"do": do, "seconds": 3 * LEASE_S})
    await fleet.begun(message_id)
    await fleet.start(settings=SETTINGS)

    await fleet.ended(message_id)
    await fleet.until(lambda: not fleet.rows("SELECT id FROM kvqueue_messages"))

    assert fleet.ledger.count("begun") == {message_id: 1}
    assert [line.lost for line in fleet.ledger.lines("ended")] == [False]


async def test_a_thread_of_three_leases_has_one_delivery(fleet: Fleet, queue: KvQueue) -> None:
    await fleet.start(settings=SETTINGS)
    message_id = await queue.send_message("thread", {"seconds": 3 * LEASE_S})
    await fleet.begun(message_id)
    await fleet.start(settings=SETTINGS)

    await fleet.ended(message_id)

    assert fleet.ledger.count("begun") == {message_id: 1}


@ON_BOTH_ENGINES
async def test_a_blocked_loop_keeps_all_the_messages_in_its_hands(
    fleet: Fleet, queue: KvQueue
) -> None:
    await fleet.start(settings=SETTINGS)
    beside = await queue.send_messages([("work", {"seconds": 0.5})] * 20)
    await fleet.begun(beside[-1])
    blocking = await queue.send_message("work", {"do": "block", "seconds": 2 * LEASE_S})
    await fleet.begun(blocking)
    await fleet.start(settings=SETTINGS)

    await fleet.ended(blocking, *beside)

    assert fleet.ledger.count("begun") == dict.fromkeys([*beside, blocking], 1)


@pytest.mark.case(90)
async def test_a_message_that_waited_for_two_leases_has_one_delivery(
    fleet: Fleet, queue: KvQueue
) -> None:
    message_id = await queue.send_message("work", {"seconds": 1.5})
    await asyncio.sleep(2 * LEASE_S)
    await fleet.start(settings=SETTINGS)
    await fleet.begun(message_id)

    await fleet.start(settings=SETTINGS)
    await fleet.ended(message_id)

    assert fleet.ledger.count("begun") == {message_id: 1}
