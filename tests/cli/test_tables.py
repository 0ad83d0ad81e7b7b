"""How tables fit a terminal, and how values are written for people."""

import io

import pytest
from rich.console import Console

from kvqueue_fastapi.cli import records
from kvqueue_fastapi.cli.stats import COLUMNS, Watching
from kvqueue_fastapi.cli.tables import LEAST_ELASTIC, Column, table_of
from kvqueue_fastapi.cli.texts import duration, one_line, stamp, visible

TABLE = (
    Column("ID", is_number=True),
    Column("TYPE", is_elastic=True),
    Column("BLANK", is_optional=True),
    Column("KEY", is_optional=True),
    Column("PAYLOAD", is_elastic=True),
)
ROWS = [["7", "order.created", "0", "42", "x" * 300], ["12345", "mail", "", "", "y"]]


def lines(columns: int) -> list[str]:
    console = Console(file=io.StringIO(), width=columns)
    console.print(table_of(TABLE, ROWS, columns))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_no_line_is_wider_than_its_terminal(columns: int) -> None:
    found = lines(columns)

    assert len(found) == 2 + len(ROWS)
    assert max(len(line.rstrip()) for line in found) <= columns
    # a number is never cut
    assert found[3].startswith("12345 ")


def test_where_it_is_narrow_what_is_blank_goes_first() -> None:
    heads = [lines(columns)[0].split() for columns in (60, 46, 40)]

    assert heads == [
        ["ID", "TYPE", "BLANK", "KEY", "PAYLOAD"],
        ["ID", "TYPE", "KEY", "PAYLOAD"],
        ["ID", "TYPE", "KEY", "PAYLOAD"],
    ]
    assert lines(35)[0].split() == ["ID", "TYPE", "PAYLOAD"]


@pytest.mark.parametrize(
    ("width", "error", "head"),
    [
        (40, "", "ID TYPE STATE SENT"),
        (40, "ValueError", "ID TYPE STATE SENT"),
        (30, "", "ID TYPE STATE"),
        (56, "", "ID TYPE STATE SENT PAYLOAD"),
        (66, "ValueError", "ID TYPE STATE SENT PAYLOAD LAST ERROR"),
        (80, "ValueError", "ID TYPE STATE ATTEMPT SENT KEY PAYLOAD LAST ERROR"),
    ],
)
def test_a_type_has_its_room_before_what_can_be_left_out(width: int, error: str, head: str) -> None:
    row = ["7", "order.created", "ready", "0", "10 min ago", "", "x" * 300, error]
    console = Console(file=io.StringIO(), width=width)
    console.print(table_of(records.COLUMNS, [row], width))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue().splitlines()

    assert " ".join(shown[0].split()) == head
    assert "7  order.creat" in shown[2]


def test_what_is_short_is_not_cut_for_what_is_long() -> None:
    assert "order.created" in lines(60)[2]
    assert lines(60)[2].rstrip().endswith("…")
    assert len("order.created") > LEAST_ELASTIC


def test_empty_table_has_its_head() -> None:
    assert table_of(COLUMNS, [], 80).row_count == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (60, "60 s"), (600, "10 min"), (7_300, "2 h"), (2e5, "2 d")],
)
def test_duration_is_told_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_time_is_told_in_utc_and_any_number_can_be() -> None:
    assert stamp(1_795_397_380_000) == "2026-11-23 01:29:40Z"
    assert stamp(10**30) == f"{10**30} ms"


def test_text_cannot_steer_a_terminal() -> None:
    assert visible("a\x1b[2J\x9b\u202e\ud800\r\n\tb") == "a\\x1b[2J\\x9b\\u202e\\ud800\\r\n\tb"
    assert one_line("a\n\tb") == "a\\n\\tb"


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        (["--watch"], 2.0),
        (["--watch", "5"], 5.0),
        (["--watch=0.5"], 0.5),
        (["--watch", "--json"], 2.0),
        ([], None),
    ],
)
def test_watch_may_stand_alone(given: list[str], parsed: float | None) -> None:
    import typer
    from typer.main import get_command

    from kvqueue_fastapi.cli import stats

    app = typer.Typer()
    stats.add_to(app)
    command = get_command(app)

    assert isinstance(command, Watching)
    assert command.make_context("stats", given).params["watch"] == parsed
