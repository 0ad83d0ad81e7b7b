"""Callers that are cancelled while they wait: what they left is whole or not there."""

import asyncio
import itertools
import json
import random
import sqlite3
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kvqueue_fastapi import StoreBusyError
from kvqueue_fastapi.store.base import Store
from tests.contract.harness import Bench, running
from tests.faults.filling import rows
from tests.faults.gauges import Sample, needs_proc, sample

Call = Callable[[Bench], Coroutine[Any, Any, Any]]

NOTHING, WHOLE = (0, False), (3, True)
"""How many messages there are, and whether the key is."""

CALLS: dict[str, tuple[Call, tuple[int, bool]]] = {
    "send_message": (lambda bench: bench.queue.send_message("m", 1), (1, False)),
    "send_messages": (lambda bench: bench.queue.send_messages([("m", 1)] * 3), (3, False)),
    "commit": (
        lambda bench: bench.kv.atomic().set(("k",), 1).send_message("m").send_message("m").commit(),
        (2, True),
    ),
    "enqueue": (lambda bench: bench.kv.enqueue(1), (1, False)),
}
ENDS = {
    # The call has just begun to wait, so its batch has not begun.
    "waiting": [NOTHING, NOTHING],
    # Its batch is with the database.
    "begun": [NOTHING, "whole"],
    # It is committed, but the caller has not seen the answer.
    "answered": [NOTHING, "whole"],
}
"""At each point where a call waits: the count that `max_pending` asks for, then the commit."""


@types.coroutine
def cancelled_at(
    point: int, moment: str, call: Coroutine[Any, Any, Any], store: Store
) -> Generator[Any, Any, Any]:
    """Await a call; cancel this task when the call waits for the `point`th time."""

    def cancel_when_begun() -> None:
        store.extend([], 1_000)  # blocks until what was handed in before it is done
        caller.cancel()

    loop, caller = asyncio.get_running_loop(), asyncio.current_task()
    assert caller is not None
    go_on = partial(call.send, None)
    for waits in itertools.count(1):
        try:
            waited = go_on()
        except StopIteration as ended:
            return ended.value
        if waits == point and moment == "waiting":
            caller.cancel()
        elif waits == point and moment == "begun":
            loop.call_soon(cancel_when_begun)
        elif waits == point:
            waited.add_done_callback(lambda _: caller.cancel())
        try:
            yield waited
            go_on = partial(call.send, None)
        except BaseException as error:  # noqa: BLE001 because it is the call's
            go_on = partial(call.throw, error)
    raise AssertionError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program holds the write lock meanwhile."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("ROLLBACK")
    connection.close()


@pytest.mark.parametrize("moment", ENDS)
@pytest.mark.parametrize("name", CALLS)
async def test_wherever_a_call_is_cancelled_it_leaves_all_or_nothing(
    tmp_path: Path, name: str, moment: str
) -> None:
    call, whole = CALLS[name]
    left: list[Any] = []

    for point in itertools.count(1):
        where = tmp_path / str(point)
        where.mkdir()
        async with running(where, listen=False, max_pending=1_000) as bench:
            task = asyncio.create_task(
                _run(cancelled_at(point, moment, call(bench), bench.queue._handle.store))
            )
            await asyncio.wait([task])
        if not task.cancelled():
            break
        left.append(what_is_left(where / "q.db"))

    assert left == [whole if end == "whole" else end for end in ENDS[moment]]


async def test_what_cancelled_callers_left_waiting_is_never_written(tmp_path: Path) -> None:
    async with running(tmp_path, listen=False) as bench:
        with locked(tmp_path / "q.db"):
            first = asyncio.create_task(bench.queue.send_message("m", "first"))
            await asyncio.sleep(0.05)
            gone = [asyncio.create_task(bench.queue.send_message("m", n)) for n in range(2_000)]
            last = asyncio.create_task(bench.queue.send_message("m", "last"))
            await asyncio.sleep(0)
            for task in gone:
                task.cancel()
            await asyncio.wait(gone)
        answers = [await first, await last]

        stored = {one.id: one.data for one in await bench.admin.messages(limit=1_000)}
    assert stored == dict(zip(answers, ["first", "last"], strict=True))


async def test_callers_behind_a_locked_database_are_all_refused_when_the_first_are(
    tmp_path: Path,
) -> None:
    large = "x" * 65_000
    # Each waits three seconds for the lock; each batch has room for 64 of them.
    async with running(tmp_path, listen=False, lease_s=9) as bench:
        with locked(tmp_path / "q.db"):
            async with asyncio.timeout(12):
                answers = await asyncio.gather(
                    *(bench.queue.send_message("m", large) for _ in range(640)),
                    return_exceptions=True,
                )
        after = await bench.queue.send_message("m", "after")

    assert {type(answer) for answer in answers} == {StoreBusyError}
    assert rows(tmp_path / "q.db", "SELECT id FROM kvqueue_messages") == [(after,)]


@needs_proc
async def test_a_storm_of_cancelled_sends_leaves_no_garbage_and_harms_no_neighbour(
    tmp_path: Path,
) -> None:
    chance = random.Random(17)
    async with running(tmp_path, listen=False) as bench:
        await storm(bench, 1_000, chance)
        before = await calm(bench)
        answers = await storm(bench, 10_000, chance)
        after = await calm(bench)

    survivors = [str(n) for n in range(0, 10_000, 10)]
    stored = dict(rows(tmp_path / "q.db", "SELECT id, data FROM kvqueue_messages"))
    assert [json.loads(stored[message_id]) for message_id in answers] == survivors
    assert after.tasks == before.tasks
    assert after.files == before.files
    assert after.objects - before.objects < 500
    assert after.memory_kib - before.memory_kib < 20_000


async def storm(bench: Bench, count: int, chance: random.Random) -> list[int]:
    """Cancel nine of ten sends, each at some moment. Returns the answers of the others."""
    tasks = [asyncio.create_task(bench.queue.send_message("m", str(n))) for n in range(count)]
    for number, task in enumerate(tasks):
        if number % 10:
            task.cancel()
        if chance.random() < 0.01:
            await asyncio.sleep(chance.choice([0, 0, 0.001]))
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    answers = ended[::10]
    assert len(set(answers)) == len(answers)
    return answers  # type: ignore[return-value] # none of these was cancelled


async def calm(bench: Bench) -> Sample:
    """What is taken when the last batch is forgotten."""
    await bench.queue.send_message("m", "calm")
    await asyncio.sleep(0.05)
    return sample(objects=True)


async def _run(call: Any) -> Any:
    return await call


def what_is_left(path: Path) -> tuple[int, bool]:
    """How many messages, and whether the key."""
    ((messages, keys),) = rows(
        path, "SELECT (SELECT count(*) FROM kvqueue_messages), (SELECT count(*) FROM kvqueue_kv)"
    )
    return messages, bool(keys)
