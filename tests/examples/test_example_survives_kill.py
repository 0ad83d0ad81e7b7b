"""The demonstration shows what it says it shows, to a file and on a terminal."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "survives_kill.py"
PATIENCE_S = 60
WAYS = ["queue", "BackgroundTasks"]
LABELS = ["sent", "handled", "lost", "handled twice", "sent again", "killed"]


def last_table(lines: list[str]) -> list[dict[str, int]]:
    """What each way has under each label, in the table that was printed last."""
    first = max(number for number, line in enumerate(lines) if line.split() == WAYS)
    rows = [re.fullmatch(r"(\D+?) +(\d+) +(\d+)", line) for line in lines[first + 2 : first + 8]]
    figures = {row[1]: (int(row[2]), int(row[3])) for row in rows if row}
    assert list(figures) == LABELS
    return [{label: both[way] for label, both in figures.items()} for way in (0, 1)]


def test_queue_loses_no_order_where_background_tasks_do(
    run_example: Callable[[str], list[str]],
) -> None:
    lines = run_example("survives_kill")

    queue, tasks = last_table(lines)
    assert {label: queue[label] for label in ("sent", "handled", "lost", "killed")} == {
        "sent": 200,
        "handled": 200,
        "lost": 0,
        "killed": 2,
    }
    assert (tasks["sent"], tasks["killed"]) == (200, 2)
    assert tasks["lost"] > 0
    assert tasks["handled"] + tasks["lost"] == 200
    assert lines[-1] == (f"The queue lost nothing. BackgroundTasks lost {tasks['lost']} of 200.")
    # A file gets no escapes, and a line for each state of both rounds.
    assert "\x1b" not in "\n".join(lines)
    assert [line.split()[-1] for line in lines if "after kill" in line] == ["1", "2"] * 2
    assert len(lines) < 25


def test_it_fails_when_the_queue_loses_something(tmp_path: Path) -> None:
    source = EXAMPLE.read_text()
    for before, after in (
        ('"queue": shop_with_queue', '"queue": shop_with_background_tasks'),
        ("ORDERS: Final = 200", "ORDERS: Final = 40"),
        ("KILL_AT: Final = (70, 140)", "KILL_AT: Final = (30, 999)"),
    ):
        assert source.count(before) == 1
        source = source.replace(before, after)
    (tmp_path / "loses.py").write_text(source)

    ended = subprocess.run(
        [sys.executable, "loses.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    queue, _ = last_table(ended.stdout.splitlines())
    assert queue["lost"] > 0
    assert ended.returncode == 1
    assert f"The queue lost {queue['lost']}." in ended.stdout


class Terminal:
    """The example on a terminal of 80 columns."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        plain = {name: os.environ[name] for name in os.environ.keys() - {"NO_COLOR", "COLUMNS"}}
        self.process = subprocess.Popen(
            [sys.executable, str(EXAMPLE)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**plain, "TERM": "xterm", "TMPDIR": str(directory), **environment},
            # A shell makes what it runs in the background ignore it, and so would the example.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
        os.close(theirs)
        self._received = b""

    @property
    def received(self) -> str:
        return self._received.decode(errors="ignore")

    def read_until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self.received
            assert self._read(), self.received

    def close(self, number: signal.Signals = signal.SIGINT) -> None:
        """Press Ctrl+C. Returns when no process has the terminal open any more."""
        self.process.send_signal(number)
        while self._read():
            pass
        os.close(self._ours)
        self.process.wait()

    def lines(self) -> list[str]:
        """What is to be seen: the escapes that the example uses, obeyed."""
        lines, row = [""], 0
        for up, text in re.findall(r"(?:\x1b\[(\d+)F)?([^\n]*)\n", self.received):
            row -= int(up or 0)
            assert row >= 0, "it went up further than what it had written"
            lines[row:] = [re.sub(r"\x1b\[\d*[Km]", "", text).rstrip(), *lines[row + 1 :]]
            row += 1
            lines += [""] * (row == len(lines))
        return lines

    def _read(self) -> bytes:
        assert select.select([self._ours], [], [], PATIENCE_S)[0], (
            "a process keeps the terminal open"
        )
        try:
            piece = os.read(self._ours, 65_536)
        except OSError:  # Linux says so where others read nothing
            return b""
        self._received += piece
        return piece


def test_table_on_a_terminal_is_redrawn_in_place_until_ctrl_c_which_leaves_nothing(
    tmp_path: Path,
) -> None:
    terminal = Terminal(tmp_path)

    terminal.read_until(lambda: re.search(r"^killed +1 ", terminal.received, re.MULTILINE))
    terminal.close()

    lines = terminal.lines()
    labels = [line[:15].strip() for line in lines]
    assert terminal.received.count("handled twice") > 5
    assert [label for label in labels if label in LABELS] == LABELS
    (bars,) = [line for line in lines if "·" in line]
    assert re.fullmatch(r" {17}━+╌+·+  ·{25}", bars)
    assert max(map(len, lines)) < 80
    assert set(re.findall(r"\x1b\[([\d;]*)m", terminal.received)) == {"32", "0"}
    assert terminal.process.returncode == 130
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in terminal.received


def test_terminal_that_wants_no_colour_gets_none(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, NO_COLOR="1")

    terminal.read_until(lambda: re.search(r"^sent +[1-9]", terminal.received, re.MULTILINE))
    terminal.close()

    assert not re.search(r"\x1b\[[\d;]*m", terminal.received)


def test_server_ends_with_a_demonstration_that_is_killed(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)

    terminal.read_until(lambda: re.search(r"^sent +[1-9]", terminal.received, re.MULTILINE))
    terminal.close(signal.SIGKILL)

    assert terminal.process.returncode == -signal.SIGKILL
