"""Messages that kill the process that handles them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kvqueue_fastapi import Kv, KvQueue, KvQueueAdmin, MessageRecord
from tests.engines import ON_BOTH_ENGINES
from tests.processes.fleet import Fleet

PATIENCE_S = 30
MAX_CRASHES = 5
INNOCENT = ("work", {"seconds": 0.05})


@asynccontextmanager
async def supervised(
    fleet: Fleet, workers: int = 1, settings: dict[str, Any] | None = None
) -> AsyncIterator[None]:
    """Keep workers running: start each again when it dies."""

    async def keep_one_running() -> None:
        while True:
            worker = fleet.launch(settings=settings or {})
            while worker.poll() is None:
                await asyncio.sleep(0.02)

    supervisors = [asyncio.create_task(keep_one_running()) for _ in range(workers)]
    yield
    for supervisor in supervisors:
        supervisor.cancel()


async def dead_letters(admin: KvQueueAdmin, count: int) -> list[MessageRecord]:
    """Wait for so many dead letters."""
    async with asyncio.timeout(PATIENCE_S):
        while len(letters := await admin.dead_letters()) < count:
            await asyncio.sleep(0.02)
    return list(letters)


@pytest.mark.parametrize("death", ["die", "exit"])
async def test_poison_ends_as_a_dead_letter_that_tells_of_its_crashes(
    fleet: Fleet, queue: KvQueue, admin: KvQueueAdmin, kv: Kv, death: str
) -> None:
    keys = [("failed", 1), ("failed", 2)]
    message_id = await queue.send_message("work", {"do": death}, keys_if_undelivered=keys)

    async with supervised(fleet):
        (letter,) = await dead_letters(admin, 1)

    assert (letter.id, letter.crashes, letter.attempt) == (message_id, MAX_CRASHES, MAX_CRASHES)
    assert [error.attempt for error in letter.errors] == [1, 2, 3, 4, 5]
    assert all("the process that handled it died" in error.text for error in letter.errors)
    assert str(letter.reason).endswith("that was crash 5 of 5")
    undelivered = [entry.value for entry in await kv.get_many(keys)]
    assert undelivered == [{"type": "work", "data": {"do": death}}] * 2


@pytest.mark.parametrize(("engine", "workers"), [("sqlite", 1), ("sqlite", 2), ("postgres", 2)])
async def test_poison_takes_no_neighbour_with_it(
    fleet: Fleet, queue: KvQueue, admin: KvQueueAdmin, workers: int
) -> None:
    before = await queue.send_messages([INNOCENT] * 15)
    poison = await queue.send_message("work", {"do": "die"})
    after = await queue.send_messages([INNOCENT] * 15)

    async with supervised(fleet, workers):
        await fleet.ended(*before, *after)
        letters = await dead_letters(admin, 1)

    assert [letter.id for letter in letters] == [poison]
    assert fleet.ledger.count("begun")[poison] == MAX_CRASHES
    # At least once: what ended just before a death may not have been settled.
    assert fleet.ledger.count("ended").keys() == {*before, *after}


async def test_two_poisons_die_and_all_others_live(
    fleet: Fleet, queue: KvQueue, admin: KvQueueAdmin
) -> None:
    first = await queue.send_message("work", {"do": "die"})
    innocent = await queue.send_messages([INNOCENT] * 30)
    second = await queue.send_message("work", {"do": "exit"})

    async with supervised(fleet):
        await fleet.ended(*innocent)
        letters = await dead_letters(admin, 2)

    assert {letter.id: letter.crashes for letter in letters} == {first: 5, second: 5}
    assert fleet.ledger.count("ended").keys() == set(innocent)


async def test_what_comes_while_poison_is_about_is_handled(
    fleet: Fleet, queue: KvQueue, admin: KvQueueAdmin
) -> None:
    poison = await queue.send_message("work", {"do": "die"})
    ids: list[int] = []

    async with supervised(fleet):
        while fleet.ledger.count("begun")[poison] < MAX_CRASHES:
            ids.append(await queue.send_message(*INNOCENT))
            await asyncio.sleep(0.05)
        await fleet.ended(*ids)
        letters = await dead_letters(admin, 1)

    assert [letter.id for letter in letters] == [poison]


async def test_poison_after_poison_buries_no_slow_neighbour(
    fleet: Fleet, queue: KvQueue, admin: KvQueueAdmin
) -> None:
    slow = await queue.send_message("work", {"seconds": 1})
    poisons: list[int] = []

    async with supervised(fleet, settings={"max_crashes": 3}):
        for times in (1, 2, 3):
            await fleet.begun(slow, times)
            poisons.append(await queue.send_message("work", {"do": "die"}))
        await fleet.ended(slow)
        letters = await dead_letters(admin, 3)

    assert sorted(letter.id for letter in letters) == poisons
    assert fleet.ledger.count("begun")[slow] == 3


@ON_BOTH_ENGINES
async def test_what_was_in_hand_at_a_kill_comes_again_together(
    fleet: Fleet, queue: KvQueue
) -> None:
    ids = await queue.send_messages([("work", {"seconds": 1})] * 50)
    worker = await fleet.start()
    await fleet.until(lambda: len(fleet.ledger.lines("begun")) == 50)

    fleet.kill(worker)
    await fleet.start()
    await fleet.until(lambda: len(fleet.ledger.lines("begun")) == 100)

    assert not fleet.ledger.lines("ended")
    assert fleet.ledger.count("begun") == dict.fromkeys(ids, 2)
