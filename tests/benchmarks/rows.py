"""What a row of the benchmark is."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

Figures = dict[str, float]
"""What was measured, by name, such as {"per_s": 52_000} or {"p50_ms": 0.8, "p99_ms": 2.1}."""

SYNCED = "each commit synced"
WARM_UP = 10
"""Sends of a tenth of what is measured come first, everywhere."""

Measure = Callable[[Path, int], Figures]
"""Measures once, in a process of its own.

Args: an empty directory, and by what to divide the work (1: the whole; --quick: 20).
"""


def percentiles(taken_ms: list[float]) -> Figures:
    """The median and the 99th percentile of at least one value."""
    ordered = sorted(taken_ms)
    return {
        "p50_ms": ordered[len(ordered) // 2],
        "p99_ms": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
    }


def not_installed(*modules: str) -> str | None:
    """Which of the modules that a row needs has to be installed first; None: none."""
    lacking = [module for module in modules if importlib.util.find_spec(module) is None]
    return f"{', '.join(lacking)} not installed" if lacking else None


def nothing_missing() -> str | None:
    return None


class Row(NamedTuple):
    """One measurement that takes its turn in each round.

    Attributes:
        work: the letter of what is measured, A to L, or "KV".
        name: the line of the table; unique within its work.
        who: the system: "ours", "floor", or a peer such as "huey".
        durability: what a power cut costs: "each commit synced", "not synced", "in memory" …
        measure: picklable, so that it can run in a process of its own: a function of a module,
            or a `functools.partial` of one.
        missing: why it has to be skipped, such as a package that is not installed; None: not.
    """

    work: str
    name: str
    who: str
    durability: str
    measure: Measure
    missing: Callable[[], str | None] = nothing_missing
