"""Runs the rows: in turns, each in a process and a directory of its own.

Rows take turns because machines drift: what is compared was measured side by side.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.benchmarks.rows import Figures, Measure, Row

TIME_LIMIT_S = 300.0
FAREWELL_S = 5.0
OWN = ("ours", "ours on PostgreSQL", "floor")


@dataclass
class Result:
    """What became of a row.

    Attributes:
        rounds: the figures of each round.
        note: why there are no more of them, if so.
        failed: whether the note tells of an error, and not only of something that is missing.
    """

    work: str
    name: str
    who: str
    durability: str
    rounds: list[Figures] = field(default_factory=list)
    note: str | None = None
    failed: bool = False

    @property
    def label(self) -> str:
        return self.name if self.who in self.name else f"{self.who}: {self.name}"

    def each(self, figure: str) -> list[float]:
        return [one[figure] for one in self.rounds]

    def median(self, figure: str) -> float:
        return statistics.median(self.each(figure))

    def figures(self) -> list[str]:
        return list(self.rounds[0]) if self.rounds else []


class MeasureError(Exception):
    """A measurement that gave no figures."""


def run(
    rows: Sequence[Row], rounds: int, divisor: int, *, time_limit_s: float = TIME_LIMIT_S
) -> list[Result]:
    """Measure each row once a round. A row that failed is not tried again."""
    results = {row: Result(*row[:4]) for row in rows}
    for row, result in results.items():
        result.note = row.missing()
    # Forked from a process that has only imported, no row inherits anything of another.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.benchmarks.plan"])
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as directory:
        # PostgreSQL refuses to run as root, so as another user it has to get through.
        Path(directory).chmod(0o755)
        for turn in range(rounds):
            for row, result in results.items():
                if result.note is None:
                    began = time.perf_counter()
                    place = Path(directory, "measured")
                    _measure_into(result, row, context, place, divisor, time_limit_s)
                    took = time.perf_counter() - began
                    _tell(f"{turn + 1}/{rounds} {_line(result)} ({took:.1f} s)")
    return list(results.values())


def _measure_into(
    result: Result,
    row: Row,
    context: multiprocessing.context.ForkServerContext,
    place: Path,
    divisor: int,
    time_limit_s: float,
) -> None:
    place.mkdir()
    try:
        result.rounds.append(_measure(context, row.measure, place, divisor, time_limit_s))
    except MeasureError as error:
        result.note, result.failed = str(error), True
        _tell(place.with_suffix(".log").read_text(errors="replace")[-4_000:])
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _measure(
    context: multiprocessing.context.ForkServerContext,
    measure: Measure,
    directory: Path,
    divisor: int,
    time_limit_s: float,
) -> Figures:
    ours, theirs = context.Pipe(duplex=False)
    arguments = (theirs, measure, directory, divisor)
    process = context.Process(target=_answer, args=arguments)
    process.start()
    theirs.close()
    try:
        if not ours.poll(time_limit_s):
            msg = f"not done after {time_limit_s:g} s"
            raise MeasureError(msg)
        answer: Figures | str = ours.recv()
        process.join(FAREWELL_S)
    except EOFError:
        process.join()
        msg = f"ended without an answer, exit code {process.exitcode}"
        raise MeasureError(msg) from None
    finally:
        _end(process)
        ours.close()
    if isinstance(answer, str):
        raise MeasureError(answer)
    return answer


def _answer(pipe: Connection, measure: Measure, directory: Path, divisor: int) -> None:
    """In the process of a measurement: send its figures, or the last line of its error."""
    os.setsid()
    log = os.open(directory.with_suffix(".log"), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        pipe.send(measure(directory, divisor))
    except Exception as error:  # noqa: BLE001 because whatever it is, it becomes a note
        traceback.print_exc()
        pipe.send(traceback.format_exception_only(error)[-1].strip())


def _end(process: BaseProcess) -> None:
    """End the process and whatever it has started."""
    if process.pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _line(result: Result) -> str:
    last = result.note or ", ".join(
        f"{name} {value:,.2f}" if value < 100 else f"{name} {value:,.0f}"
        for name, value in result.rounds[-1].items()
    )
    return f"{result.work} {result.label}: {last}"


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
