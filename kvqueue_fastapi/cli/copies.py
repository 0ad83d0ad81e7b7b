"""`kvqueue copy`: a whole store into another one."""

import asyncio
from dataclasses import asdict
from typing import Annotated, Final

import typer
from rich.progress import Progress, TaskID

from kvqueue_fastapi.cli.commands import add
from kvqueue_fastapi.cli.options import Json
from kvqueue_fastapi.cli.output import Output
from kvqueue_fastapi.cli.progress import bars
from kvqueue_fastapi.cli.stores import completed
from kvqueue_fastapi.cli.tables import Column
from kvqueue_fastapi.copying import CopyProgress, StoreCopy, copy_store
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import survey_store
from kvqueue_fastapi.urls import shown_url

COLUMNS: Final = (Column("WHAT"), Column("COPIED", is_number=True))


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "copy", _copy)


class Bars:
    """A bar for each table that is copied, and then for each that is checked."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[tuple[str, str], TaskID] = {}

    def advance(self, told: CopyProgress) -> None:
        """Show how far it is."""
        which = told.step, told.table
        if which not in self._bars:
            name = told.table.removeprefix("kvqueue_")
            self._bars[which] = self._progress.add_task(f"{told.step} {name}")
        # What was written to the source before its apps were stopped may be more than was counted.
        total = max(told.rows, told.total)
        self._progress.update(self._bars[which], completed=told.rows, total=total)


def _copy(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A path or a URL.")],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="Another one, new or of an unfinished copy.")
    ],
    *,
    as_json: Json = False,
) -> None:
    """Copy all messages, dead letters and keys of a store into another, of whatever engine.

    Stop whatever uses them before. A copy that was broken off goes on where it ended when it is
    run again; until it is whole and checked, nothing else can open the target.
    """
    output = Output(as_json=as_json)
    copied = completed(_with_bars(source, target, output))
    if output.as_json:
        output.record({"target": shown_url(target), **asdict(copied)})
        return
    rows = [(name.replace("_", " "), f"{count:,}") for name, count in _counts(copied).items()]
    output.table(COLUMNS, rows, "")
    output.say(f"Checked, row by row: {shown_url(target)} has all of it. SHA-256 {copied.digest}")


async def _with_bars(source: str, target: str, output: Output) -> StoreCopy:
    # A server that is away is told before the patience of a copy ends.
    for url in (source, target):
        await survey_store(url, KvQueueSettings())
    try:
        with bars() as progress:
            return await copy_store(source, target, progress=Bars(progress).advance)
    except asyncio.CancelledError:
        output.note("It was broken off. The same command goes on where it ended.")
        raise


def _counts(copied: StoreCopy) -> dict[str, int]:
    return {name: value for name, value in asdict(copied).items() if name != "digest"}
