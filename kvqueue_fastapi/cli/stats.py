"""`kvqueue stats`: how much waits, runs and fails, of each type, now or live."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text
from typer.core import TyperCommand

from kvqueue_fastapi.admin import KvQueueAdmin
from kvqueue_fastapi.cli.commands import add
from kvqueue_fastapi.cli.options import Json, Url
from kvqueue_fastapi.cli.output import Output
from kvqueue_fastapi.cli.stores import Place, completed
from kvqueue_fastapi.cli.tables import Cell, Column, table_of
from kvqueue_fastapi.cli.texts import counted, duration, now_ms, stamp
from kvqueue_fastapi.errors import StoreError
from kvqueue_fastapi.keeper import Minute, TypeCounts
from kvqueue_fastapi.rates import by_minute, per_minute

TREND_MINUTES: Final = 15
DEFAULT_WATCH_S: Final = 2.0
_BARS: Final = " ▁▂▃▄▅▆▇█"
_EMPTY: Final = "There are no messages, and there never were. Send one: kvqueue send TYPE JSON"

COLUMNS: Final = (
    Column("TYPE", style="cyan", is_elastic=True),
    Column("READY", is_number=True),
    Column("DELAYED", is_number=True, is_optional=True),
    Column("BLOCKED", is_number=True, is_optional=True),
    Column("RUNNING", is_number=True),
    Column("DEAD", is_number=True),
    Column("OLDEST", is_number=True, is_optional=True),
    Column("DONE/MIN", is_number=True),
    Column("FAILED/MIN", is_number=True, is_optional=True),
    Column("TREND", is_optional=True),
    Column("NOTES", style="yellow", is_elastic=True),
)


@dataclass(frozen=True, slots=True)
class TypeStats:
    """One type as `stats --json` gives it.

    Attributes:
        oldest_age_s: seconds since the oldest message that is not dead was sent; None: none is.
        handled_per_minute: over the last 5 minutes and the one that runs, in all processes.
        failed_per_minute: attempts that failed, whether they are retried or gave up; likewise.
        handled: what was handled in each of the last `TREND_MINUTES`, the running one last.
    """

    type: str
    ready: int
    delayed: int
    blocked: int
    running: int
    quarantined: int
    isolated: int
    dead: int
    oldest_age_s: float | None
    paused: bool
    has_handler: bool
    handled_per_minute: float
    failed_per_minute: float
    handled: tuple[int, ...]


class Watching(TyperCommand):
    """A command whose `--watch` may stand alone, or with a number of seconds behind it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a bare `--watch` its number."""
        return super().parse_args(ctx, list(_with_seconds(args)))


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "stats", _stats, cls=Watching)


def _stats(
    *,
    watch: Annotated[
        float | None,
        typer.Option(
            metavar="[SECONDS]",
            min=0.05,
            help=f"Live, again every {DEFAULT_WATCH_S:g} s or as told, until Ctrl+C.",
        ),
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show how many messages of each type are where, and how fast they go.

    READY waits for a handler, DELAYED for its time, BLOCKED for its ordering key. Rates are of
    the last 5 minutes, over all processes; TREND is what was handled in each of the last 15.
    """
    output = Output(as_json=as_json)
    completed(_once(Place(url), output) if watch is None else _live(Place(url), output, watch))


async def _once(place: Place, output: Output) -> None:
    async with place.opened() as runtime:
        _show(await _read(runtime.admin), output)


async def _live(place: Place, output: Output, every_s: float) -> None:
    async with place.opened() as runtime:
        if not output.is_pretty:
            while True:
                _show(await _read(runtime.admin), output)
                output.console.file.flush()
                await asyncio.sleep(every_s)
        with Live(console=output.console, auto_refresh=False) as live:
            while True:
                live.update(await _screen(runtime.admin, output.console.width), refresh=True)
                await asyncio.sleep(every_s)


async def _screen(admin: KvQueueAdmin, width: int) -> RenderableType:
    try:
        found = await _read(admin)
    except StoreError as error:  # a server that comes back is shown again
        return Text(f"{error} It is tried again. Ctrl+C ends.", style="red")
    waiting = sum(one.ready + one.delayed + one.blocked for one in found)
    dead = sum(one.dead for one in found)
    foot = f"{stamp(now_ms())}  {counted(waiting, 'message')} waiting, {dead:,} dead. Ctrl+C ends."
    return Group(table_of(COLUMNS, [_row(one) for one in found], width), Text(foot, style="dim"))


async def _read(admin: KvQueueAdmin) -> list[TypeStats]:
    minutes: defaultdict[str, list[Minute]] = defaultdict(list)
    for minute in await admin.minutes():
        minutes[minute.type].append(minute)
    return [_stats_of(counts, minutes[counts.type]) for counts in await admin.counts()]


def _stats_of(counts: TypeCounts, minutes: Sequence[Minute]) -> TypeStats:
    now = now_ms()
    ended = by_minute(minutes, now, TREND_MINUTES)
    return TypeStats(
        type=counts.type,
        ready=counts.ready + counts.quarantined + counts.isolated,
        delayed=counts.delayed,
        blocked=counts.blocked,
        running=counts.running,
        quarantined=counts.quarantined,
        isolated=counts.isolated,
        dead=counts.dead,
        oldest_age_s=counts.oldest_age_s,
        paused=counts.paused,
        has_handler=counts.handled,
        handled_per_minute=per_minute(ended.handled, now),
        failed_per_minute=per_minute(ended.failed, now),
        handled=tuple(ended.handled),
    )


def _show(found: Sequence[TypeStats], output: Output) -> None:
    if output.as_json:
        output.records(found)
    else:
        output.table(COLUMNS, [_row(one) for one in found], _EMPTY)


def _row(one: TypeStats) -> list[Cell]:
    return [
        one.type,
        f"{one.ready:,}",
        f"{one.delayed:,}",
        f"{one.blocked:,}",
        f"{one.running:,}",
        Text(f"{one.dead:,}", style="red" if one.dead else ""),
        "" if one.oldest_age_s is None else duration(one.oldest_age_s),
        f"{one.handled_per_minute:.1f}",
        Text(f"{one.failed_per_minute:.1f}", style="red" if one.failed_per_minute else ""),
        _trend(one.handled),
        ", ".join(_notes(one)),
    ]


def _notes(one: TypeStats) -> list[str]:
    waits = one.ready + one.delayed + one.blocked
    suspects = one.quarantined + one.isolated
    return [
        *(["paused"] if one.paused else ()),
        *(["no handler"] if waits and not one.has_handler else ()),
        *([f"{suspects} after crashes"] if suspects else ()),
    ]


def _trend(handled: Sequence[int]) -> str:
    most = max(handled)
    # Upwards, because one that was handled is not none.
    return "".join(_BARS[-(-one * (len(_BARS) - 1) // most) if most else 0] for one in handled)


def _with_seconds(args: Sequence[str]) -> list[str]:
    given: list[str] = []
    for place, arg in enumerate(args):
        given.append(arg)
        if arg == "--watch" and not _is_number(args[place + 1 : place + 2]):
            given.append(str(DEFAULT_WATCH_S))
    return given


def _is_number(args: Sequence[str]) -> bool:
    try:
        float(args[0])
    except (IndexError, ValueError):
        return False
    return True
