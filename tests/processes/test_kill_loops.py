"""Processes that are killed again and again, at any moment."""

import asyncio
import random
from collections import Counter, defaultdict

from fleet import Fleet

KILLS = 20


async def test_every_message_of_a_killed_worker_is_handled_and_keys_keep_their_order(
    fleet: Fleet,
) -> None:
    sender = await fleet.start("send_with_keys")
    settings = {"max_crashes": 100}
    in_hand: list[set[int]] = []
    for _ in range(KILLS):
        worker = await fleet.start(settings=settings)
        await asyncio.sleep(random.uniform(0, 0.3))
        fleet.kill(worker)
    fleet.kill(sender)

    await fleet.start(settings=settings)
    sent = [line.id for line in fleet.ledger.lines("sent")]
    await fleet.ended(*sent)

    first_of_key: defaultdict[str, list[int]] = defaultdict(list)
    seen: set[int] = set()
    for line in fleet.ledger.lines("begun"):
        if line.id not in seen:
            seen.add(line.id)
            first_of_key[line.key].append(line.id)
    assert all(ids == sorted(ids) for ids in first_of_key.values())
    assert len(sent) > 300
