"""Tables for a terminal: which columns fit, and how wide they are."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from kvqueue_fastapi.cli.texts import one_line

Cell = str | Text

LEAST_ELASTIC: Final = 12
"""Characters of a column that is cut."""
_GAP: Final = 2
_BLANK: Final = frozenset({"", "0", "0.0"})


class Column(NamedTuple):
    """One column of a table.

    Attributes:
        title: in the head.
        is_number: so that it stands to the right.
        style: of rich.
        is_elastic: whether it is cut where the terminal is narrow.
        is_optional: whether it is left out where the terminal is narrower still; those with
            nothing in them go first.
        is_spare: likewise, after all that are optional.
    """

    title: str
    is_number: bool = False
    style: str = ""
    is_elastic: bool = False
    is_optional: bool = False
    is_spare: bool = False


def table_of(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int) -> Table:
    """A table for a terminal of so many characters."""
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold",
    )
    widths = _widths(columns, rows, width)
    for place, characters in widths.items():
        column = columns[place]
        table.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            style=column.style,
            no_wrap=True,
            overflow="ellipsis",
            width=characters,
        )
    for row in rows:
        table.add_row(*(_text(row[place]) for place in widths))
    return table


def plain(cell: Cell) -> str:
    """What a cell says, on one line."""
    return one_line(cell if isinstance(cell, str) else cell.plain)


def _widths(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int
) -> dict[int, int]:
    """How wide each column is that is shown, by its place."""
    wanted = {
        place: max([len(column.title), *(len(plain(row[place])) for row in rows)])
        for place, column in enumerate(columns)
    }
    places = _fitting(columns, rows, wanted, width)
    widths = {place: _least(columns[place], wanted[place]) for place in places}
    left = width - _needed(widths.values())
    # What is left goes to the shortest first, so that as few as can be are cut.
    elastic = [place for place in places if columns[place].is_elastic]
    elastic.sort(key=lambda place: wanted[place])
    for number, place in enumerate(elastic):
        more = min(wanted[place] - widths[place], left // (len(elastic) - number))
        widths[place] += max(more, 0)
        left -= max(more, 0)
    return widths


def _fitting(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    wanted: dict[int, int],
    width: int,
) -> list[int]:
    places = list(wanted)
    blank = {place for place in places if all(plain(row[place]) in _BLANK for row in rows)}
    leaving = [one for one in places if columns[one].is_optional or columns[one].is_spare]
    leaving.sort(key=lambda one: (columns[one].is_spare, one not in blank, -one))
    for place in leaving:
        if _needed(_least(columns[one], wanted[one]) for one in places) <= width:
            break
        places.remove(place)
    return places


def _least(column: Column, wanted: int) -> int:
    return min(wanted, LEAST_ELASTIC) if column.is_elastic else wanted


def _needed(widths: Iterable[int]) -> int:
    return sum(one + _GAP for one in widths)


def _text(cell: Cell) -> Text:
    return Text(one_line(cell)) if isinstance(cell, str) else cell
