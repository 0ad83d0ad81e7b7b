"""Processes that are killed while they commit values, counts and messages together."""

import asyncio
import json
import random
from collections import Counter, defaultdict
from itertools import pairwise
from typing import NamedTuple

import pytest

from kvqueue_fastapi import Kv
from tests.engines import ON_BOTH_ENGINES
from tests.processes.fleet import KV_WORKER, Fleet

GENERATIONS = 3
COMMITTERS = 2
WRITERS = 3


class Name(NamedTuple):
    """What one commit has in the key of its value and in its message."""

    generation: int
    pid: int
    writer: int
    number: int


@ON_BOTH_ENGINES
@pytest.mark.case(86)
async def test_kills_leave_all_of_an_atomic_or_nothing(fleet: Fleet, kv: Kv) -> None:
    await kill_generations(fleet)

    stored = await stored_versions(kv)
    counts = {entry.key[1]: entry.value async for entry in kv.list(prefix=("count",), type=int)}
    messages = fleet.rows("SELECT data FROM kvqueue_messages")
    assert counts == Counter(name.pid for name in stored)
    assert sorted(Name(*json.loads(data)) for (data,) in messages) == sorted(stored)
    once = [(sum(name.number % 2 for name in stored),)]
    assert fleet.rows("SELECT count(*) FROM kvqueue_idempotency") == once
    assert len(counts) == GENERATIONS * COMMITTERS
    fleet.foreign.assert_sound()


@pytest.mark.case(86)
async def test_no_atomic_that_returned_is_lost_by_a_kill(fleet: Fleet, kv: Kv) -> None:
    await kill_generations(fleet)

    stored = await stored_versions(kv)
    returned = returned_versions(fleet)
    print(f"{len(stored)} commits, {len(returned)} of them returned")
    assert returned.items() <= stored.items()
    # Each writer went on only when its commit had returned, so it misses one at the most.
    assert len(stored) - len(returned) <= GENERATIONS * COMMITTERS * WRITERS


@ON_BOTH_ENGINES
@pytest.mark.case(86)
async def test_versionstamps_grow_across_kills(fleet: Fleet, kv: Kv) -> None:
    await kill_generations(fleet)

    stored = await stored_versions(kv)
    of_generation: defaultdict[int, list[str]] = defaultdict(list)
    of_writer: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for name, version in sorted(stored.items()):
        of_generation[name.generation].append(version)
        of_writer[name.pid, name.writer].append(version)

    assert len(set(stored.values())) == len(stored)
    assert all(versions == sorted(versions) for versions in of_writer.values())
    eras = [of_generation[generation] for generation in range(GENERATIONS)]
    assert all(max(earlier) < min(later) for earlier, later in pairwise(eras))


async def kill_generations(fleet: Fleet) -> None:
    """Have processes commit, several at once, and kill each at a random moment."""
    for generation in range(GENERATIONS):
        config = {"generation": generation, "writers": WRITERS}
        committers = [
            fleet.launch("commit", program=KV_WORKER, **config) for _ in range(COMMITTERS)
        ]
        for committer in committers:
            await fleet.until(lambda pid=committer.pid: fleet.ledger.lines("committed", pid=pid))
        for committer in committers:
            await asyncio.sleep(random.uniform(0, 0.1))
            fleet.kill(committer)


async def stored_versions(kv: Kv) -> dict[Name, str]:
    return {Name(*entry.key[1:]): entry.versionstamp async for entry in kv.list(prefix=("value",))}


def returned_versions(fleet: Fleet) -> dict[Name, str]:
    lines = fleet.ledger.lines("committed")
    return {Name(*json.loads(line.key)): line.version for line in lines}
