"""`python -m tests.benchmarks [--quick]`: the queue beside raw `sqlite3`, in one run.

Rates are medians of three rounds in which the rows take turns, because machines drift.
"""

import argparse
import asyncio
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks import floor, kv_floor, kv_ours, ours

Measure = Callable[[Path], float]


def rows(scale: int) -> dict[str, Measure]:
    """What is measured, by its name; `scale` divides the work."""
    many, few = 40_000 // scale, 4_000 // scale
    return {
        "floor: send, 100 rows a commit": lambda p: floor.send_rate(p, many, 100),
        "send, 100 concurrent producers": lambda p: asyncio.run(ours.send_rate(p, many, 100)),
        "floor: send, 1 row a commit": lambda p: floor.send_rate(p, few, 1),
        "send, one by one": lambda p: asyncio.run(ours.send_rate(p, few, 1)),
        "floor: claim + delete, batches of 100": lambda p: floor.handle_rate(p, 20_000 // scale),
        "handle, 2,000 waiting": lambda p: handle(p, 2_000, scale),
        "handle, 20,000 waiting": lambda p: handle(p, 20_000 // scale, scale),
        "handle, 200,000 waiting": lambda p: handle(p, 200_000 // scale, scale),
        **kv_rows(many, few, 100_000 // scale),
    }


def kv_rows(many: int, few: int, listed: int) -> dict[str, Measure]:
    """The same of keys and values."""
    return {
        "floor: set, 100 keys a commit": lambda p: kv_floor.set_rate(p, many, 100),
        "set, 100 concurrent": lambda p: asyncio.run(kv_ours.set_rate(p, many, 100)),
        "floor: set, 1 key a commit": lambda p: kv_floor.set_rate(p, few, 1),
        "set, one by one": lambda p: asyncio.run(kv_ours.set_rate(p, few, 1)),
        "floor: get, one by one": lambda p: kv_floor.get_rate(p, many),
        "get, 100 concurrent": lambda p: asyncio.run(kv_ours.get_rate(p, many, 100)),
        "get, one by one": lambda p: asyncio.run(kv_ours.get_rate(p, few, 1)),
        "floor: check + set + send, 100 a commit": lambda p: kv_floor.atomic_rate(p, many, 100),
        "check + set + enqueue, 100 concurrent": lambda p: asyncio.run(
            kv_ours.atomic_rate(p, many, 100)
        ),
        "floor: check + set + send, 1 a commit": lambda p: kv_floor.atomic_rate(p, few, 1),
        "check + set + enqueue, one by one": lambda p: asyncio.run(kv_ours.atomic_rate(p, few, 1)),
        "floor: list, 100,000 keys": lambda p: kv_floor.list_rate(p, listed),
        "list, 100,000 keys": lambda p: asyncio.run(kv_ours.list_rate(p, listed)),
    }


def handle(path: Path, waiting: int, scale: int) -> float:
    """Handle at most 20,000 of those that wait, so that it stays that deep."""
    return asyncio.run(ours.handle_rate(path, waiting, min(waiting, 20_000 // scale)))


RATIOS = {
    "send, 100 concurrent producers": "floor: send, 100 rows a commit",
    "send, one by one": "floor: send, 1 row a commit",
    "handle, 2,000 waiting": "floor: claim + delete, batches of 100",
    "handle, 20,000 waiting": "floor: claim + delete, batches of 100",
    "handle, 200,000 waiting": "handle, 2,000 waiting",
    "set, 100 concurrent": "floor: set, 100 keys a commit",
    "set, one by one": "floor: set, 1 key a commit",
    "get, 100 concurrent": "floor: get, one by one",
    "get, one by one": "floor: get, one by one",
    "check + set + enqueue, 100 concurrent": "floor: check + set + send, 100 a commit",
    "check + set + enqueue, one by one": "floor: check + set + send, 1 a commit",
    "list, 100,000 keys": "floor: list, 100,000 keys",
}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small round, to see it run")
    quick = parser.parse_args().quick
    measured = rows(20 if quick else 1)
    rates: dict[str, list[float]] = {name: [] for name in measured}
    latencies: list[float] = []
    for _ in range(1 if quick else 3):
        for name, measure in measured.items():
            with tempfile.TemporaryDirectory() as directory:
                rates[name].append(measure(Path(directory, "bench.db")))
        with tempfile.TemporaryDirectory() as directory:
            count = 20 if quick else 200
            latencies += asyncio.run(ours.latencies_ms(Path(directory, "bench.db"), count))
    print_table(rates, sorted(latencies))


def print_table(rates: dict[str, list[float]], latencies: list[float]) -> None:
    """Print what was measured as Markdown, with the machine."""
    print(
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}, WAL, "
        f"synchronous=FULL; medians of {len(next(iter(rates.values())))} rounds\n"
    )
    print("| | a second | lowest to highest | ratio |\n|---|---|---|---|")
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        base = RATIOS.get(name)
        ratio = f"{medians[name] / medians[base]:.2f} of {base!r}" if base else ""
        span = f"{min(values):,.0f} to {max(values):,.0f}"
        print(f"| {name} | {medians[name]:,.0f} | {span} | {ratio} |")
    p50, p99 = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)]
    print(f"| idle latency, send to handler | p50 {p50:.2f} ms | p99 {p99:.2f} ms | |")


if __name__ == "__main__":
    main()
