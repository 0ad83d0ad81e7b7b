"""The key-value store as a program uses it: `Kv.open`, typed values."""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from kvqueue_fastapi import Kv
from tests.benchmarks import kv_floor
from tests.benchmarks.kv_floor import FEW, LISTED, MANY
from tests.benchmarks.ours import ORDER, Order
from tests.benchmarks.rows import SYNCED, Row

KEYS = [("users", n) for n in range(len(kv_floor.KEYS))]


def set_rate(path: Path, count: int, callers: int) -> float:
    """Keys a second, set by so many tasks, each awaiting its own."""

    async def one(kv: Kv, n: int) -> None:
        await kv.set(KEYS[n % len(KEYS)], ORDER)

    return asyncio.run(_rate(path, count, callers, one))


def get_rate(path: Path, count: int, callers: int) -> float:
    """Keys a second, read and checked as a model."""

    async def one(kv: Kv, n: int) -> None:
        await kv.get(KEYS[n % len(KEYS)], Order)

    return asyncio.run(_rate(path, count, callers, one))


def atomic_rate(path: Path, count: int, callers: int) -> float:
    """Check, set and enqueue in one operation."""
    stamps: dict[int, str | None] = {}

    async def one(kv: Kv, n: int) -> None:
        n %= len(KEYS)
        operation = kv.atomic().check(KEYS[n], stamps.get(n)).set(KEYS[n], ORDER)
        committed = await operation.enqueue(ORDER).commit()
        assert committed.ok
        stamps[n] = committed.versionstamp

    return asyncio.run(_rate(path, count, callers, one, filled=False))


def list_rate(path: Path, count: int) -> float:
    """Keys a second, walked through in order, without a type."""
    return asyncio.run(_list_rate(path, count))


async def _list_rate(path: Path, count: int) -> float:
    await _fill(path, count)
    async with Kv.open(str(path)) as kv:
        began = time.perf_counter()
        async for _ in kv.list(prefix=("users",), batch_size=1_000):
            pass
        return count / (time.perf_counter() - began)


async def _rate(
    path: Path,
    count: int,
    callers: int,
    one: Callable[[Kv, int], Awaitable[None]],
    *,
    filled: bool = True,
) -> float:
    if filled:
        await _fill(path, len(KEYS))

    async def call(kv: Kv, caller: int) -> None:
        for n in range(caller, count, callers):
            await one(kv, n)

    async with Kv.open(str(path)) as kv:
        began = time.perf_counter()
        await asyncio.gather(*(call(kv, caller) for caller in range(callers)))
        return count / (time.perf_counter() - began)


async def _fill(path: Path, count: int) -> None:
    async with Kv.open(str(path)):
        pass
    connection = sqlite3.connect(path, isolation_level=None)
    kv_floor.fill(connection, count)
    connection.close()


ROWS = [
    Row("KV", name, "ours", SYNCED, kv_floor.per_s(rate, count))
    for name, rate, count in (
        ("set, 100 concurrent", partial(set_rate, callers=100), MANY),
        ("set, one by one", partial(set_rate, callers=1), FEW),
        ("get with a model, 100 concurrent", partial(get_rate, callers=100), MANY),
        ("get with a model, one by one", partial(get_rate, callers=1), FEW),
        ("check + set + enqueue, 100 concurrent", partial(atomic_rate, callers=100), MANY),
        ("check + set + enqueue, one by one", partial(atomic_rate, callers=1), FEW),
        ("list, 100,000 keys, decoded", list_rate, LISTED),
    )
]
