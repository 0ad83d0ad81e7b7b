"""`python -m tests.benchmarks`: the queue beside raw `sqlite3` and its peers, in one run."""

import argparse
import sys
from pathlib import Path

from tests.benchmarks import machine, plot, report, rounds
from tests.benchmarks.plan import ROWS, WORKS
from tests.benchmarks.rows import Row

QUICK_DIVISOR = 20
OUT = Path("build", "benchmarks")


def main() -> int:
    """Measure, or read what was measured; print it and write what is asked for."""
    options = _options()
    made = report.Report.load(options.report) if options.report else _measured(options)
    text = report.markdown(made)
    sys.stdout.write(text)
    _write(made, text, options)
    failures = made.failures()
    for one in failures:
        sys.stderr.write(f"failed: {one.work} {one.label}: {one.note}\n")
    return int(any(one.who in rounds.OWN for one in failures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small round, to see it run")
    parser.add_argument("--rounds", type=_count, help="how often each row has its turn (3)")
    parser.add_argument(
        "--only",
        type=_selection,
        default=frozenset(),
        help=f"letters of work ({','.join(WORKS)}) or who (ours,floor,huey), or both",
    )
    parser.add_argument("--report", type=_file, help="measure nothing, print this JSON file")
    parser.add_argument("--out", type=Path, help=f"directory for all three files ({OUT})")
    parser.add_argument("--json", type=Path, help="write everything raw to this file")
    parser.add_argument("--plot", type=Path, help="draw this PNG file")
    return parser.parse_args()


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _selection(text: str) -> frozenset[str]:
    words = frozenset(text.split(","))
    known = WORKS.keys() | {row.who for row in ROWS}
    if unknown := words - known:
        raise argparse.ArgumentTypeError(
            f"{', '.join(map(repr, sorted(unknown)))}: there is no such work and nobody of that "
            f"name; there are {', '.join(sorted(known))}"
        )
    if not any(_is_wanted(row, words) for row in ROWS):
        raise argparse.ArgumentTypeError(f"{text}: no row has both")
    return words


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def _measured(options: argparse.Namespace) -> report.Report:
    divisor = QUICK_DIVISOR if options.quick else 1
    turns = options.rounds or (1 if options.quick else 3)
    rows = [row for row in ROWS if _is_wanted(row, options.only)]
    facts = machine.describe()
    return report.Report(facts, turns, divisor, rounds.run(rows, turns, divisor))


def _is_wanted(row: Row, only: frozenset[str]) -> bool:
    works, who = only & WORKS.keys(), only - WORKS.keys()
    return (not works or row.work in works) and (not who or row.who in who)


def _write(made: report.Report, text: str, options: argparse.Namespace) -> None:
    out: Path | None = options.out
    if out is None and not (options.quick or options.report or options.json or options.plot):
        out = OUT
    json_file, plot_file = options.json, options.plot
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "benchmarks.md").write_text(text)
        json_file = json_file or out / "benchmarks.json"
        plot_file = plot_file or out / "benchmarks.png"
    if json_file:
        made.save(json_file)
    if plot_file and not plot.draw(made.results, plot_file):
        sys.stderr.write("No plot: matplotlib is missing, the extra `bench` has it.\n")


if __name__ == "__main__":
    sys.exit(main())
