"""What the package is to reach, each as a number that a report can be asked for."""

import re
import statistics
from collections.abc import Callable
from typing import NamedTuple

from tests.benchmarks.rounds import OWN, Result

BEST_PEER = {"A": 29_600, "C": 16_500}
"""Messages a second of BullMQ: the most in the peers' figures on this class of machine."""
CEILING = "BackgroundTasks"
"""No queue: what it takes is lost with its process."""
POSTGRES_PEERS = ("PgQueuer", "procrastinate")
Value = Callable[[list[Result]], list[float]]
"""What was reached in each round; empty: it was not measured."""


class Goal(NamedTuple):
    """One goal.

    Attributes:
        value: what was reached.
        most: whether less is better.
    """

    work: str
    text: str
    value: Value
    limit: float
    most: bool = False

    def holds(self, value: float) -> bool:
        return value <= self.limit if self.most else value >= self.limit


def of(work: str, name: str = "", figures: str = "per_s", who: str = "^ours$") -> Value:
    """A figure of a row; all but the work are regular expressions for a part of the name."""

    def value(results: list[Result]) -> list[float]:
        for one in results:
            if one.work == work and re.search(who, one.who) and re.search(name, one.name):
                for found in one.figures():
                    if re.search(figures, found):
                        return one.each(found)
        return []

    return value


def ratio(one: Value, other: Value) -> Value:
    """One figure over another, round by round, because a machine drifts from one to the next."""
    return lambda results: [
        above / below for above, below in zip(one(results), other(results), strict=False)
    ]


def over(one: Value, constant: float) -> Value:
    """One figure over a constant."""
    return lambda results: [value / constant for value in one(results)]


def difference(one: Value, other: Value) -> Value:
    """One figure less another."""
    return lambda results: [
        more - less for more, less in zip(one(results), other(results), strict=False)
    ]


def best(works: str, who: Callable[[str], bool]) -> Value:
    """The highest rate of some."""

    def value(results: list[Result]) -> list[float]:
        rates = [
            one.each("per_s")
            for one in results
            if one.work in works and who(one.who) and "per_s" in one.figures()
        ]
        return [max(turn) for turn in zip(*rates, strict=False)]

    return value


def furthest(choose: Callable[..., list[float]], values: list[Value]) -> Value:
    """The one whose median is the lowest or the highest, of those that were measured."""

    def value(results: list[Result]) -> list[float]:
        found = [each(results) for each in values]
        return choose([one for one in found if one], key=statistics.median, default=[])

    return value


def is_deno(who: str) -> bool:
    return "deno" in who.lower()


def is_peer(who: str) -> bool:
    return who not in OWN and CEILING not in who


def _floor(work: str, name: str) -> Value:
    return of(work, name, who="^floor$")


def _obstacles(depth: str) -> list[Value]:
    plain = of("D", f"^{depth} waiting$")
    obstacles = ("all of .* ordering", "blocked ordering", "delayed", "one type", "5 paused")
    return [ratio(of("D", f"^{depth} waiting, .*{one}"), plain) for one in obstacles]


def _on_postgres(work: str, name: str = "", figure: str = "per_s") -> Value:
    return of(work, name, figure, who="^ours on PostgreSQL$")


def _over_peers(work: str) -> Value:
    """Ours on PostgreSQL over the better one of those that are on it as well."""
    return ratio(_on_postgres(work), best(work, POSTGRES_PEERS.__contains__))


GOALS = [
    Goal("A", "at least 0.33 of the floor at 100 rows a commit",
         ratio(of("A"), _floor("A", "^100 rows")), 0.33),
    Goal("A", "at least 8 times Deno KV", ratio(of("A"), best("A", is_deno)), 8),
    Goal("A", "ahead of the best peer's figure on this class of machine (BullMQ, 29,600)",
         over(of("A"), BEST_PEER["A"]), 1),
    Goal("A", "ahead of every peer of this run", ratio(of("A"), best("A", is_peer)), 1),
    Goal("B", "at least 0.45 of the floor at 1 row a commit",
         ratio(of("B"), _floor("B", "^1 row")), 0.45),
    Goal("C", "at least 40,000 settled a second", of("C"), 40_000),
    Goal("C", "at least 12 times Deno KV near empty", ratio(of("C"), best("CD", is_deno)), 12),
    Goal("C", "ahead of the best peer's figure on this class of machine (BullMQ, 16,500)",
         over(of("C"), BEST_PEER["C"]), 1),
    Goal("C", "ahead of every peer of this run", ratio(of("C"), best("C", is_peer)), 1),
    Goal("D", "2,000,000 deep at least 0.8 of 2,000 deep",
         ratio(of("D", "^2,000,000 waiting$"), of("D", "^2,000 waiting$")), 0.8),
    Goal("D", "the worst of what is in the way, 2,000,000 deep, at least 0.33 of plain",
         furthest(min, _obstacles("2,000,000")), 1 / 3),
    Goal("D", "the same 2,000 deep", furthest(min, _obstacles("2,000")), 1 / 3),
    Goal("E", "p50 in the process under 1 ms", of("E", "^in the process$", "p50"), 1, most=True),
    Goal("E", "p99 in the process under 5 ms", of("E", "^in the process$", "p99"), 5, most=True),
    Goal("E", "p50 across two processes under 15 ms", of("E", "^across", "p50"), 15, most=True),
    Goal("E", "p99 across two processes under 60 ms", of("E", "^across", "p99"), 60, most=True),
    Goal("F", "at least 0.8 of the route that does not send",
         ratio(of("F", "sends$"), of("F", "does not send$", who="")), 0.8),
    Goal("G", "p99 at most 3 times idle",
         ratio(of("G", "worked off", "p99"), of("G", "idle", "p99")), 3, most=True),
    Goal("H", "the listener under 1 % of a core",
         difference(of("H", "with the", "percent"), of("H", "without", "percent", "")),
         1, most=True),
    Goal("I", "under 40 MB more than empty, at the worst",
         furthest(max, [of("I", name, "^over_empty") for name in ("delayed", "type", "handled")]),
         40, most=True),
    Goal("J", "import at most 60 ms over fastapi and injector",
         of("J", "^import", "^import_ms"), 60, most=True),
    Goal("J", "start under 50 ms with 1,000,000 waiting",
         of("J", "1,000,000", "start_ms"), 50, most=True),
    Goal("K", "four workers at least 1.3 times one, a handler that does nothing",
         ratio(of("K", "nothing, workers: 4"), of("K", "nothing, workers: 1")), 1.3),
    Goal("K", "the same, a handler that computes for 1 ms",
         ratio(of("K", "computes.*: 4"), of("K", "computes.*: 1")), 1.3),
    Goal("K", "no starved worker: the least busy of four at least half of an even share",
         furthest(min, [of("K", f"{what}.*: 4", "share") for what in ("nothing", "computes")]),
         0.5),
    Goal("A", "on PostgreSQL at least 4 times PgQueuer and procrastinate", _over_peers("A"), 4),
    Goal("C", "on PostgreSQL at least 3 times PgQueuer and procrastinate", _over_peers("C"), 3),
    Goal("D", "on PostgreSQL 500,000 deep at least 0.8 of 10,000 deep",
         ratio(_on_postgres("D", "500,000 waiting"), _on_postgres("D", "10,000 waiting")), 0.8),
    Goal("D", "on PostgreSQL after 1,000,000 messages at least 0.8 of before",
         _on_postgres("D", "after 1,000,000", "of_before"), 0.8),
    Goal("E", "on PostgreSQL p50 under 4 ms", _on_postgres("E", "", "p50"), 4, most=True),
]  # fmt: skip
