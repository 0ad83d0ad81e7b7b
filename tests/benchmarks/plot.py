"""The report as one picture that a README can show."""

import io
import re
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.report import number
from tests.benchmarks.rounds import Result

COLOURS = {"ours": "#0b7a55", "floor": "#8f959e"}
PEER = "#e39a3b"
INK, FAINT = "#202124", "#dadce0"
SIZE_INCHES, DOTS_PER_INCH = (12, 9.4), 100
COLOUR_COUNT = 64
PLAIN_DEPTH = re.compile(r"(?:(?P<name>.*), )?(?P<depth>[\d,]+) waiting")


def draw(results: list[Result], path: Path) -> bool:
    """Write a PNG file. Returns whether it could: not without matplotlib."""
    try:
        from matplotlib import rc_context  # here because only the extra `bench` brings it
        from matplotlib.figure import Figure
        from PIL import Image
    except ImportError:
        return False
    style: Any = {
        "font.size": 8.5,
        "text.color": INK,
        "axes.titlesize": 10,
        "axes.edgecolor": FAINT,
    }
    with rc_context(style):
        figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
        _draw(figure, [one for one in results if one.rounds])
        drawn = io.BytesIO()
        figure.savefig(drawn, facecolor="white")
    path.parent.mkdir(parents=True, exist_ok=True)
    # a few dozen colours are all there are, and make the file a third
    Image.open(drawn).convert("RGB").quantize(COLOUR_COUNT).save(path, optimize=True)
    return True


def _draw(figure: Any, results: list[Result]) -> None:
    panels = figure.subplot_mosaic([["A", "B"], ["C", "D"], ["E", "E"]], height_ratios=[5, 5, 5])
    painters: dict[str, Callable[[Any, list[Result]], None]] = {
        "A": partial(_rates, title="Send, 100 concurrent producers: messages a second"),
        "B": partial(_rates, title="Send one by one: messages a second"),
        "C": partial(_rates, title="Handle and settle a backlog of 20,000: messages a second"),
        "D": _depths,
        "E": _latencies,
    }
    for work, paint in painters.items():
        of_work = [one for one in results if one.work == work]
        if of_work:
            paint(panels[work], of_work)
        else:
            panels[work].set_axis_off()
    _legend(figure)
    figure.supxlabel("All scales are logarithmic. Rates: more is better. Times: less is.", size=9)


def _legend(figure: Any) -> None:
    from matplotlib.patches import Patch

    kinds = (
        ("kvqueue_fastapi", COLOURS["ours"]),
        ("peers", PEER),
        ("the floor: raw sqlite3 in one thread", COLOURS["floor"]),
    )
    patches = [Patch(color=colour, label=name) for name, colour in kinds]
    patches.append(
        Patch(facecolor="white", edgecolor=INK, hatch="////", label="not synced to disk")
    )
    figure.legend(handles=patches, loc="outside upper center", ncols=4, frameon=False, fontsize=10)


def _rates(axes: Any, results: list[Result], title: str) -> None:
    """A bar a row, the quickest on top."""
    results = sorted(results, key=lambda one: one.median("per_s"))
    values = [one.median("per_s") for one in results]
    bars = axes.barh(range(len(results)), values, color=[_colour(one) for one in results])
    for bar, one in zip(bars, results, strict=True):
        if not _is_synced(one):
            bar.set(hatch="////", edgecolor="white", linewidth=0)
    axes.bar_label(bars, [number(value) for value in values], padding=3, color=INK)
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 2, max(values) * 2.5)
    _dress(axes, title)
    _name_lines(axes, results)


def _depths(axes: Any, results: list[Result]) -> None:
    """A line a system, over how many wait."""
    lines: defaultdict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for one in results:
        if found := PLAIN_DEPTH.fullmatch(one.name):
            depth = int(found["depth"].replace(",", ""))
            lines[one.who, found["name"] or one.who].append((depth, one.median("per_s")))
    if not lines:
        axes.set_axis_off()
        return
    for (who, name), points in lines.items():
        depths, rates = zip(*sorted(points), strict=True)
        colour, width = COLOURS.get(who, PEER), 2.2 if who == "ours" else 1.2
        axes.plot(depths, rates, marker="o", markersize=4, color=colour, linewidth=width)
        label = "kvqueue_fastapi" if who == "ours" else name
        axes.annotate(
            label, (depths[-1], rates[-1]), (5, 0), textcoords="offset points", va="center"
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    every = [depth for points in lines.values() for depth, _ in points]
    axes.set_xlim(min(every) / 2, max(every) * 12)  # the names stand on the right
    axes.set_xticks([10**power for power in range(3, 7)])
    heights = [rate for points in lines.values() for _, rate in points]
    axes.set_ylim(
        min(*heights, 10_000) / 2, max(*heights, 100_000) * 1.5
    )  # no drama for small changes
    _dress(axes, "Handle while so many wait: a second", grid="both")
    axes.set_xlabel("messages waiting", color=INK)


def _latencies(axes: Any, results: list[Result]) -> None:
    """From the median to the 99th percentile, the quickest on top."""
    results = sorted(results, key=lambda one: -one.median("p50_ms"))
    for line, one in enumerate(results):
        p50, p99 = one.median("p50_ms"), one.median("p99_ms")
        axes.plot([p50, p99], [line, line], color=_colour(one), linewidth=4, alpha=0.45)
        axes.plot([p50], [line], "o", [p99], [line], "D", color=_colour(one), markersize=6)
        label = f"{number(p50)} / {number(p99)}"
        axes.annotate(label, (p99, line), (8, 0), textcoords="offset points", va="center")
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.1)
    _dress(axes, "Idle, from the send to the start of the handler: p50 ● and p99 ◆ in ms")
    _name_lines(axes, results)


def _dress(axes: Any, title: str, grid: str = "x") -> None:
    axes.set_title(title, loc="left", fontweight="bold", color=INK)
    axes.grid(axis=grid, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelcolor=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis) if grid == "both" else (axes.xaxis,):
        axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axis.set_minor_formatter("")


def _name_lines(axes: Any, results: list[Result]) -> None:
    axes.set_yticks(range(len(results)), [_name(one) for one in results])
    for label, one in zip(axes.get_yticklabels(), results, strict=True):
        if one.who == "ours":
            label.set(fontweight="bold", color=COLOURS["ours"])


def _name(result: Result) -> str:
    if result.who == "ours":
        return "kvqueue_fastapi" + (f", {result.name}" if result.work == "E" else "")
    return f"floor, {result.name}" if result.who == "floor" else result.name


def _colour(result: Result) -> str:
    return COLOURS.get(result.who, PEER)


def _is_synced(result: Result) -> bool:
    return "synced" in result.durability and not result.durability.startswith("not")
