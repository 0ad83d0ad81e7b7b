"""What was measured, as Markdown, and as JSON to print again."""

import json
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks.goals import GOALS
from tests.benchmarks.plan import WORKS
from tests.benchmarks.rounds import OWN, Result

UNITS = {
    "per_s": "a second",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "cpu_percent": "% of a core",
    "smallest_share": "smallest share",
    "rss_mb": "RSS MB",
    "over_empty_mb": "RSS MB over empty",
    "pss_over_empty_mb": "PSS MB over empty",
    "import_ms": "import ms",
    "fastapi_and_injector_ms": "of fastapi and injector ms",
    "start_ms": "start ms",
}
RATIO_OF = ("per_s", "p99_ms", "p50_ms")
"""The figure that a ratio is of: the first that both rows have."""
FLOORS = {
    "A": "100 rows a commit",
    "B": "1 row a commit",
    "C": "batches of 100, two commits",
    "set, 100 concurrent": "set, 100 keys a commit",
    "set, one by one": "set, 1 key a commit",
    "get with a model, 100 concurrent": "get, one by one",
    "get with a model, one by one": "get, one by one",
    "check + set + enqueue, 100 concurrent": "check + set + send, 100 a commit",
    "check + set + enqueue, one by one": "check + set + send, 1 a commit",
    "list, 100,000 keys, decoded": "list, 100,000 keys",
}
PLAIN = {"F": "does not send", "G": "idle"}
"""A word in the name of the row that the others of a work are held against."""

_SYSTEM = re.compile(r"[\d,]+ waiting$")


@dataclass
class Report:
    """A run.

    Attributes:
        machine: what it ran on.
        rounds: how often each row had its turn.
        divisor: of the work; 1 is the whole.
        results: a row each.
    """

    machine: dict[str, str]
    rounds: int
    divisor: int
    results: list[Result]

    @classmethod
    def load(cls, path: Path) -> "Report":
        raw = json.loads(path.read_text())
        return cls(**{**raw, "results": [Result(**one) for one in raw["results"]]})

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    def of(self, work: str) -> list[Result]:
        return [one for one in self.results if one.work == work]

    def failures(self) -> list[Result]:
        return [one for one in self.results if one.failed]


def markdown(report: Report) -> str:
    """The whole report."""
    parts = [_heading(report)]
    for work, title in WORKS.items():
        measured = [one for one in report.of(work) if one.rounds]
        if measured:
            parts.append(f"## {work}: {title}\n\n{_table(measured)}")
    parts.append(f"## Goals\n\n{_goals(report)}")
    if notes := _notes(report):
        parts.append(f"## Not measured\n\n{notes}")
    return "\n\n".join(parts) + "\n"


def _heading(report: Report) -> str:
    facts = "\n".join(f"- {name}: {value}" for name, value in report.machine.items())
    how = "1 round" if report.rounds == 1 else f"{report.rounds} rounds"
    share = "" if report.divisor == 1 else f", 1/{report.divisor} of the work"
    return (
        f"# Benchmark\n\n{facts}\n\nMedians of {how}{share}, lowest to highest in brackets; each "
        "measurement in a process of its own. Machines differ and drift, so the ratios, of rows "
        "that took turns, say more than the figures; they are medians of each round's ratio."
    )


def _table(results: list[Result]) -> str:
    figures = list(dict.fromkeys(name for one in results for name in one.figures()))
    units = [UNITS.get(name, name.replace("_", " ")) for name in figures]
    lines = [_line(["", *units, "a commit is", "ratio"]), _line(["---"] * (len(figures) + 3))]
    for one in results:
        cells = [_cell(one, name) for name in figures]
        label = f"**{one.label}**" if one.who == "ours" else one.label
        lines.append(_line([label, *cells, one.durability, _ratio(one, results)]))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(result: Result, figure: str) -> str:
    values = [one[figure] for one in result.rounds if figure in one]
    if not values:
        return ""
    middle = number(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({number(min(values))} to {number(max(values))})"


def number(value: float) -> str:
    """Three digits that mean something."""
    size = abs(value)
    if size >= 1_000:
        return f"{round(value, -2):,.0f}"
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.3f}" if 0 < size < 0.1 else f"{value:.2f}"


def _ratio(one: Result, results: list[Result]) -> str:
    base = _base(one, results)
    if base is None or base is one:
        return ""
    for figure in (*RATIO_OF, *base.figures()):
        if figure in base.figures() and figure in one.figures() and all(base.each(figure)):
            pairs = zip(one.each(figure), base.each(figure), strict=False)
            ratio = statistics.median(mine / its for mine, its in pairs)
            return f"{number(ratio)} of {base.name if base.who == 'ours' else base.label}"
    return ""


def _base(one: Result, results: list[Result]) -> Result | None:
    """What a row is held against."""
    floor = FLOORS.get(one.name if one.work == "KV" else one.work)
    if floor is not None:
        return _named(results, lambda other: other.who == "floor" and other.name == floor)
    if one.work == "D":
        return _shallow_or_plain(one, results)
    if one.work == "L":
        verb = one.name.partition(":")[0]
        return _named(results, lambda other: other.name == f"{verb}: plain")
    if one.work == "K":
        what = one.name.rpartition(": ")[0]
        return _named(results, lambda other: other.name == f"{what}: 1")
    plain = PLAIN.get(one.work)
    return _named(results, lambda other: plain in other.name) if plain else None


def _shallow_or_plain(one: Result, results: list[Result]) -> Result | None:
    """The same depth with nothing in the way; of that, the least depth of the same system."""
    depth, _, obstacle = one.name.partition(" waiting, ")
    results = [other for other in results if other.who == one.who]
    if obstacle:
        return _named(results, lambda other: other.name == f"{depth} waiting")
    return _named(results, lambda other: _SYSTEM.sub("", other.name) == _SYSTEM.sub("", one.name))


def _named(results: list[Result], is_it: Callable[[Result], bool]) -> Result | None:
    return next(filter(is_it, results), None)


def _notes(report: Report) -> str:
    """A line for each reason, with the works that it kept from being measured."""
    works: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for one in report.results:
        if one.note:
            what = one.label if one.who in OWN or one.failed else one.who
            works[what, one.note].append(one.work)
    return "\n".join(
        f"- {', '.join(dict.fromkeys(which))}: {what}: {note}"
        for (what, note), which in works.items()
    )


def _goals(report: Report) -> str:
    lines = [_line(["", "goal", "measured", ""]), _line(["---"] * 4)]
    for goal in GOALS:
        reached = goal.value(report.results)
        if not reached:
            lines.append(_line([goal.work, goal.text, "", "not measured"]))
            continue
        value = statistics.median(reached)
        verdict = "reached" if goal.holds(value) else "**missed**"
        if report.divisor > 1:
            verdict = "judged by the whole work only"
        lines.append(_line([goal.work, goal.text, number(value), verdict]))
    return "\n".join(lines)
