"""Handling while many messages wait, and while others are in the way.

The consumer's own messages are younger than what is in the way of them, and never of a higher
priority, so that a claim that walks over what it cannot take would have to walk over all of it.
"""

import asyncio
import os
import shutil
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from kvqueue_fastapi import KvQueueModule, on_queue_message
from tests.benchmarks import floor
from tests.benchmarks.floor import PAYLOAD, TYPE
from tests.benchmarks.ours import Consumer, Order, handle_some
from tests.benchmarks.rows import SYNCED, Figures, Row

HOUR_MS = 3_600_000
ALL_TYPES = 10_000
EACH_HANDLED, EACH_PAUSED = 500, 4
"""Of all types each 500th is handled, and of those each fourth is paused."""


def type_name(n: int) -> str:
    return f"type.{n:05}"


HANDLED = range(0, ALL_TYPES, EACH_HANDLED)
WARM_UP = 4_000
"""Handled before the clock starts, because a listener finds its pace in the first 0.1 s."""


def one_type() -> type[Consumer]:
    return Consumer


def twenty_types() -> type[Consumer]:
    class ManyTypes(Consumer):
        async def handle(self, order: Order) -> None:
            self.ledger.note()

        for n in HANDLED:
            handle = on_queue_message(type_name(n))(handle)

    return ManyTypes


class Obstacle(NamedTuple):
    """What is in the way.

    Attributes:
        name: of the row.
        fill: statements that put it there, with :count, :keys, :now_ms, :later_ms and :data.
        blocking: how many messages are in the way.
        own: the statement that puts the consumer's own messages there, with :first and :waiting.
        consumer: whose messages are handled.
    """

    name: str
    fill: tuple[str, ...] = ()
    blocking: int = 0
    own: str = ""
    consumer: Callable[[], type[Consumer]] = one_type


_NUMBERS = """
WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < :count - 1)
INSERT INTO kvqueue_messages
       (id, type, data, state, lane, priority, due_at_ms, sent_at_ms, ordering_key)
"""
_OWN = _NUMBERS.replace(":count", ":waiting")
OWN = f"{_OWN} SELECT :first + n, '{TYPE}', :data, 0, 0, 0, :now_ms, :now_ms, NULL FROM number"
KEYED = f"""
{_OWN} SELECT :first + n, '{TYPE}', :data, iif(n < :keys, 0, 2), 0, 0, :now_ms, :now_ms,
              'key-' || (n % :keys) FROM number
"""
BLOCKED = f"""
{_NUMBERS} SELECT 1 + n, '{TYPE}', :data, iif(n < :keys, 1, 2), 0, 10,
                  iif(n < :keys, :later_ms, :now_ms), :now_ms, 'key-' || (n % :keys) FROM number
"""
DELAYED = f"""
{_NUMBERS} SELECT 1 + n, '{TYPE}', :data, 1, 0, 10, :later_ms + n, :now_ms, NULL FROM number
"""
UNHANDLED = f"""
{_NUMBERS} SELECT 1 + n, printf('type.%05d', n % {ALL_TYPES}), :data, 0, 0, 10,
                  :now_ms, :now_ms, NULL FROM number
            WHERE n % {ALL_TYPES} % {EACH_HANDLED} > 0
               OR n % {ALL_TYPES} % {EACH_HANDLED * EACH_PAUSED} = 0
"""
SPREAD = f"""
{_OWN} SELECT :first + n,
              printf('type.%05d', {EACH_HANDLED} * (1 + n % 3 + {EACH_PAUSED} * (n / 3 % 5))),
              :data, 0, 0, 0, :now_ms, :now_ms, NULL FROM number
"""
KNOWN = f"""
WITH RECURSIVE number (n) AS (
    SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < {ALL_TYPES} - 1)
INSERT INTO kvqueue_types (type, paused, first_seen_at_ms)
SELECT printf('type.%05d', n), n % {EACH_HANDLED * EACH_PAUSED} = 0, :now_ms FROM number
"""

NOTHING = Obstacle("", own=OWN)
KEYS = Obstacle("all of 100,000 ordering keys", own=KEYED)
OBSTACLES = [
    Obstacle("behind 100,000 blocked ordering keys", (BLOCKED,), 500_000, OWN),
    Obstacle("behind 500,000 delayed of a higher priority", (DELAYED,), 500_000, OWN),
    Obstacle("one type beside 10,000", (UNHANDLED, KNOWN), 200_000, OWN),
    Obstacle("20 of 10,000 types, 5 paused", (UNHANDLED, KNOWN), 200_000, SPREAD, twenty_types),
]


class Size(NamedTuple):
    """How much of what.

    Attributes:
        warm_up: handled before the clock starts.
        handled: and then, while it runs.
        ready: all that can be handled: so many of them wait at the end.
        turns: how often, from the start.
    """

    warm_up: int
    handled: int
    ready: int
    turns: int

    @classmethod
    def of(cls, waiting: int, divisor: int) -> "Size":
        # Less than a thousand would be over before there is anything to see.
        count = max(1_000, min(waiting, 20_000) // divisor)
        warm_up = WARM_UP // divisor
        ready = warm_up + count + max(1_000, waiting // divisor)
        return cls(warm_up, count, ready, max(1, 20_000 // divisor // count))


def handle(directory: Path, divisor: int, *, waiting: int, obstacle: Obstacle) -> Figures:
    """Messages a second, while at least so many wait from the first to the last."""
    size = Size.of(waiting, divisor)
    first = obstacle.blocking // divisor + 1
    ids = range(first, first + size.ready)
    consumer = obstacle.consumer()
    rates = [
        asyncio.run(handle_some(path, ids, size.warm_up, size.handled, consumer))["per_s"]
        for path in _copies(directory, size, divisor, obstacle)
    ]
    return {"per_s": statistics.harmonic_mean(rates)}


def handle_as_floor(directory: Path, divisor: int, *, waiting: int) -> Figures:
    """The same by raw `sqlite3`, in batches of 100, with two commits each."""
    size = Size.of(waiting, divisor)
    rates = []
    for path in _copies(directory, size, divisor, NOTHING):
        connection = floor.connect_filled(path)
        floor.handle_some(connection, size.warm_up, fused=False)
        rates.append(floor.handle_some(connection, size.handled, fused=False))
        connection.close()
    return {"per_s": statistics.harmonic_mean(rates)}


def _copies(directory: Path, size: Size, divisor: int, obstacle: Obstacle) -> Iterator[Path]:
    made_once = directory.parent / "made-once"
    made_once.mkdir(exist_ok=True)
    filled = _filled(made_once, size.ready, divisor, obstacle)
    for turn in range(size.turns):
        path = directory / f"deep{turn}.db"
        shutil.copyfile(filled, path)
        with path.open("rb") as file:
            os.fsync(file.fileno())  # else the first commits wait for the copy to reach the disk
        yield path


def _filled(made_once: Path, waiting: int, divisor: int, obstacle: Obstacle) -> Path:
    """A database that is made once a run, because two million rows take a while."""
    name = "".join(letter if letter.isalnum() else "-" for letter in obstacle.name)
    path = made_once / f"{waiting}-{name}.db"
    if not path.exists():
        unfinished = path.with_suffix(".unfinished")
        asyncio.run(_fill(unfinished, waiting, divisor, obstacle))
        unfinished.rename(path)
    return path


async def _fill(path: Path, waiting: int, divisor: int, obstacle: Obstacle) -> None:
    async with KvQueueModule(str(path), listen=False).running():
        pass
    connection = sqlite3.connect(path, isolation_level=None)
    now_ms = int(time.time() * 1000)
    values = {
        "count": obstacle.blocking // divisor,
        "first": obstacle.blocking // divisor + 1,
        "keys": 100_000 // divisor,
        "waiting": waiting,
        "now_ms": now_ms,
        "later_ms": now_ms + HOUR_MS,
        "data": PAYLOAD,
    }
    connection.execute("BEGIN IMMEDIATE")
    for statement in (*obstacle.fill, obstacle.own):
        connection.execute(statement, values)
    connection.execute("COMMIT")
    connection.close()


def _row(waiting: int, obstacle: Obstacle) -> Row:
    name = f"{waiting:,} waiting" + (f", {obstacle.name}" if obstacle.name else "")
    return Row("D", name, "ours", SYNCED, partial(handle, waiting=waiting, obstacle=obstacle))


DEPTHS = (2_000, 200_000, 2_000_000)
ROWS = [
    *(
        Row("D", f"{waiting:,} waiting", "floor", SYNCED, partial(handle_as_floor, waiting=waiting))
        for waiting in DEPTHS
    ),
    *(_row(waiting, NOTHING) for waiting in DEPTHS),
    *(_row(waiting, KEYS) for waiting in DEPTHS[1:]),
    *(_row(waiting, obstacle) for obstacle in OBSTACLES for waiting in (DEPTHS[0], DEPTHS[-1])),
]
