"""The report as one picture that a README can show."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.report import number
from tests.benchmarks.rounds import Result

COLOURS = {"ours": "#0b6e4f", "floor": "#9aa0a6"}
PEER = "#e08e2b"
INK = "#202124"
SIZE_INCHES, DOTS_PER_INCH = (12, 9), 100
MOST_BARS = 12


def draw(results: list[Result], path: Path) -> bool:
    """Write a PNG file. Returns whether it could: not without matplotlib."""
    try:
        from matplotlib import rc_context  # because the extra `bench` brings it
        from matplotlib.figure import Figure
    except ImportError:
        return False
    style = {"font.size": 9, "text.color": INK, "axes.edgecolor": "#c4c7cc"}
    with rc_context(style):
        figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
        _draw(figure, [one for one in results if one.rounds])
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, facecolor="white")
    return True


def _draw(figure: Any, results: list[Result]) -> None:
    panels = figure.subplot_mosaic([["A", "B"], ["C", "D"], ["E", "legend"]], height_ratios=[5, 5, 4])
    _bars(panels["A"], "A  Send, 100 concurrent producers (a second)", _of(results, "A"))
    _bars(panels["B"], "B  Send one by one (a second)", _of(results, "B"))
    _bars(panels["C"], "C  Handle a backlog of 20,000 (a second)", _of(results, "C"))
    _depths(panels["D"], _of(results, "D"))
    _latencies(panels["E"], _of(results, "E"))
