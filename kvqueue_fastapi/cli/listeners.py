"""`kvqueue listeners`: the processes that handle messages."""

from typing import Final

import typer

from kvqueue_fastapi.cli.commands import add
from kvqueue_fastapi.cli.options import Json, Url
from kvqueue_fastapi.cli.output import Output
from kvqueue_fastapi.cli.stores import Place, completed
from kvqueue_fastapi.cli.tables import Cell, Column
from kvqueue_fastapi.cli.texts import relative
from kvqueue_fastapi.keeper import ListenerRecord

COLUMNS: Final = (
    Column("HOST", style="cyan"),
    Column("PID", is_number=True),
    Column("SINCE"),
    Column("SEEN"),
    Column("RUNNING", is_number=True),
    Column("LEASES", is_number=True),
    Column("LAG MS", is_number=True),
    Column("VERSION"),
    Column("TYPES", is_elastic=True),
)
_EMPTY: Final = "Nobody listens. Start the app, or a worker: kvqueue worker module:app"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "listeners", _listeners)


def _listeners(*, url: Url = None, as_json: Json = False) -> None:
    """List the processes that listen, the oldest first, and those that died at it.

    RUNNING are handlers at work when it was SEEN last, LEASES the messages that it holds, LAG
    how late its event loop has answered within a minute.
    """
    completed(_list(Place(url), Output(as_json=as_json)))


async def _list(place: Place, output: Output) -> None:
    async with place.opened() as runtime:
        found = await runtime.admin.listeners()
    if output.as_json:
        output.records(found)
    else:
        output.table(COLUMNS, [_row(one) for one in found], _EMPTY)


def _row(one: ListenerRecord) -> list[Cell]:
    return [
        one.host,
        str(one.pid),
        relative(one.since_ms),
        relative(one.seen_ms) if one.is_alive else "dead",
        str(one.running),
        str(one.leases),
        str(one.loop_lag_ms),
        one.version,
        ", ".join(one.types),
    ]
