"""What a row of the benchmark is."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

Figures = dict[str, float]
"""What was measured, by name, such as {"per_s": 52_000} or {"p50_ms": 0.8, "p99_ms": 2.1}."""

WARM_UP = 10
"""Sends of a tenth of what is measured come first, everywhere."""

Measure = Callable[[Path, int], Figures]
"""Measures once, in a process of its own.

Args: an empty directory, and by what to divide the work (1: the whole; --quick: 20).
"""


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
