"""Processes that are killed again and again, at any moment."""

import asyncio
import random
from collections import defaultdict

import pytest

from tests.processes.fleet import Fleet, Ledger

WORKERS_KILLED = 10
SENDERS_KILLED = 9
KEYS = 5
"""Of each key only the first message can be in somebody's hands."""


async def test_killed_workers_lose_nothing_and_keep_the_order_of_keys(fleet: Fleet) -> None:
    settings = {"max_crashes": 1_000}
    sender = await fleet.start("send_with_keys")
    for _ in range(WORKERS_KILLED):
        worker = await fleet.start(settings=settings)
        await asyncio.sleep(random.uniform(0, 0.4))
        fleet.kill(worker)
    fleet.kill(sender)
    await fleet.start(settings=settings)
    sent = [line.id for line in fleet.ledger.lines("sent")]

    await fleet.ended(*sent)

    begun = fleet.ledger.count("begun")
    again = begun.total() - len(begun)
    print(f"{len(sent)} sent, {again} delivered again after {WORKERS_KILLED} kills")
    assert all(ids == sorted(ids) for ids in first_deliveries(fleet.ledger).values())
    assert again <= KEYS * WORKERS_KILLED
    assert not fleet.rows("SELECT id FROM kvqueue_dead_letters")


@pytest.mark.case(86)
async def test_killed_senders_leave_all_of_a_commit_or_nothing(fleet: Fleet) -> None:
    for _ in range(SENDERS_KILLED // 3):
        senders = [fleet.launch("send_tens") for _ in range(3)]
        for sender in senders:
            await fleet.until(lambda pid=sender.pid: fleet.ledger.lines("sent", pid=pid))
            await asyncio.sleep(random.uniform(0, 0.1))
            fleet.kill(sender)

    stored = {row[0] for row in fleet.rows("SELECT id FROM kvqueue_messages")}
    returned = {line.id for line in fleet.ledger.lines("sent")}
    assert returned <= stored
    assert len(stored) % 10 == 0
    fleet.foreign.assert_sound()


def first_deliveries(ledger: Ledger) -> dict[str, list[int]]:
    """The messages of each key in the order in which they were first begun."""
    of_key: defaultdict[str, dict[int, None]] = defaultdict(dict)
    for line in ledger.lines("begun"):
        of_key[line.key].setdefault(line.id)
    return {key: list(ids) for key, ids in of_key.items()}
