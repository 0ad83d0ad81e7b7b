import importlib.util
import json
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.benchmarks import plot, report, rounds
from tests.benchmarks.goals import GOALS, Goal, of, ratio
from tests.benchmarks.peers.servers import POSTGRES_URL
from tests.benchmarks.plan import ROWS, WORKS
from tests.benchmarks.rounds import Result
from tests.benchmarks.rows import Figures, Row

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=420, check=False
    )


def sample(**rounds_of: list[float]) -> report.Report:
    floor = Result("B", "1 row a commit", "floor", "each commit synced", [{"per_s": 6_000.0}] * 3)
    ours = Result("B", "one by one", "ours", "each commit synced")
    ours.rounds = [{"per_s": rate} for rate in rounds_of.get("ours", [2_900.0, 3_000.0, 4_000.0])]
    peer = Result("B", "huey", "huey", "each commit synced", note="huey is not installed")
    return report.Report({"machine": "2 cores"}, 3, 1, [floor, ours, peer])


@pytest.mark.long
def test_quick_run_prints_a_row_for_every_measure_and_writes_its_outputs(
    tmp_path: Path, shared_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a server that is there, because starting one for each row takes longer than the rows
    monkeypatch.setenv(POSTGRES_URL, shared_postgres_url)

    ran = run("--quick", "--out", str(tmp_path))

    assert ran.returncode == 0, ran.stderr
    for row in ROWS:
        # What is missing is told of in a line for all that it can do.
        assert (row.who if row.missing() else row.name) in ran.stdout
    assert "## Goals" in ran.stdout
    assert (tmp_path / "benchmarks.md").read_text() == ran.stdout
    made = report.Report.load(tmp_path / "benchmarks.json")
    assert [one.name for one in made.results] == [row.name for row in ROWS]
    assert all(one.rounds or one.note for one in made.results)


def test_only_restricts_to_works_and_to_who(tmp_path: Path) -> None:
    ran = run("--quick", "--only", "B,floor", "--json", str(tmp_path / "run.json"))

    assert ran.returncode == 0, ran.stderr
    raw = json.loads((tmp_path / "run.json").read_text())
    assert [(one["work"], one["who"]) for one in raw["results"]] == [("B", "floor")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only", "A,nobody"), "'nobody': there is no such work and nobody of that name"),
        (("--only", "G,huey"), "G,huey: no row has both"),
        (("--rounds", "0"), "'0' is no number from 1 on"),
        (("--report", "absent.json"), "there is no file absent.json"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: tuple[str, ...], said: str) -> None:
    ran = run("--quick", *arguments)

    assert ran.returncode != 0
    assert said in ran.stderr


def test_report_prints_a_file_again_without_measuring(tmp_path: Path) -> None:
    saved = sample()
    saved.save(tmp_path / "run.json")

    ran = run("--report", str(tmp_path / "run.json"))

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == report.markdown(saved)
    assert ran.stderr == ""


def test_report_holds_a_row_against_its_floor_and_gives_the_span() -> None:
    printed = report.markdown(sample())

    assert "**ours: one by one** | 3,000 (2,900 to 4,000) | each commit synced | 0.50 of" in printed
    assert re.search(r"0\.45 of the floor at 1 row a commit \| 0\.50 \| reached", printed)
    assert "- B: huey: huey is not installed" in printed


def test_a_goal_that_was_missed_is_called_missed() -> None:
    printed = report.markdown(sample(ours=[600.0] * 3))

    assert re.search(r"0\.45 of the floor at 1 row a commit \| 0\.10 \| \*\*missed\*\*", printed)


def test_a_goal_is_at_least_or_at_most() -> None:
    value = ratio(of("B"), of("B", who="floor"))

    assert value(sample().results)[1] == 0.5
    assert Goal("B", "", value, 0.5).holds(0.6)
    assert not Goal("B", "", value, 0.5, most=True).holds(0.6)
    assert {goal.work for goal in GOALS} <= WORKS.keys()


def test_rows_are_unique_in_their_work() -> None:
    names = [(row.work, row.who, row.name) for row in ROWS]

    assert len(names) == len(set(names))


def test_plot_is_drawn_or_left_out(tmp_path: Path) -> None:
    can_draw = importlib.util.find_spec("matplotlib") is not None

    assert plot.draw(sample().results, tmp_path / "plot.png") is can_draw
    assert (tmp_path / "plot.png").exists() is can_draw


def counting(directory: Path, divisor: int) -> Figures:
    (directory / "left").write_text("behind")
    return {"per_s": 100.0 / divisor, "files": float(len(list(directory.iterdir())))}


def failing(directory: Path, divisor: int) -> Figures:
    raise RuntimeError("no such luck")


def hanging(directory: Path, divisor: int, *, marker: Path) -> Figures:
    child = subprocess.Popen(["sleep", "60"])
    marker.write_text(str(child.pid))
    child.wait()
    return {}


def row(measure: rounds.Measure, missing: str | None = None) -> Row:
    return Row("A", "a row", "huey", "in memory", measure, lambda: missing)


def test_each_measurement_has_an_empty_directory() -> None:
    (result,) = rounds.run([row(counting)], 2, 20)

    assert result.rounds == [{"per_s": 5.0, "files": 1.0}] * 2


def test_an_error_becomes_a_note_and_the_others_go_on() -> None:
    failed, missing, fine = rounds.run(
        [row(failing), row(counting, "huey is not installed"), row(counting)], 2, 1
    )

    assert (failed.note, failed.failed) == ("RuntimeError: no such luck", True)
    assert (missing.note, missing.failed) == ("huey is not installed", False)
    assert len(fine.rounds) == 2


def test_what_takes_too_long_is_ended_with_what_it_has_started(tmp_path: Path) -> None:
    marker = tmp_path / "pid"

    (result,) = rounds.run([row(partial(hanging, marker=marker))], 1, 1, time_limit_s=4)

    assert result.note == "not done after 4 s"
    deadline = time.monotonic() + 10
    while _runs(marker.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().split()[2] != "Z"
    except OSError:  # it is gone
        return False


@pytest.mark.parametrize("code", [1, 7])
def test_a_measurement_that_ends_without_an_answer_is_told_of(code: int) -> None:
    (result,) = rounds.run([row(partial(leaving, code=code))], 1, 1)

    assert result.note == f"ended without an answer, exit code {code}"


def leaving(directory: Path, divisor: int, *, code: int) -> Figures:
    sys.exit(code)
