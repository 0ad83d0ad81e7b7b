"""What shows that a long command goes on, on stderr, where that is a terminal."""

import asyncio
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, TypeAlias

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from kvqueue_fastapi.cli.output import error_console
from kvqueue_fastapi.cli.texts import visible

Advance: TypeAlias = Callable[[int], None]
"""Told how many are done by now."""

SLOW_S: Final = 1.0
"""How long nobody wonders what is going on."""


@contextmanager
def bars() -> Generator[Progress]:
    """Bars to add to."""
    console = error_console()
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        # Answers that are told meanwhile stay above the bars, unless they go elsewhere.
        redirect_stdout=sys.stdout.isatty(),
    ) as progress:
        yield progress


@contextmanager
def bar(what: str, total: int) -> Generator[Advance]:
    """One bar."""
    with bars() as progress:
        bar_id = progress.add_task(visible(what), total=total)
        yield lambda done: progress.update(bar_id, completed=done)


@contextmanager
def waiting_for(what: str) -> Generator[None]:
    """Name what is waited for, if it takes long; on an event loop."""
    console = error_console()
    if not console.is_terminal:
        yield
        return
    status = console.status(Text(visible(f"Waiting for {what}")))
    timer = asyncio.get_running_loop().call_later(SLOW_S, status.start)
    try:
        yield
    finally:
        timer.cancel()
        status.stop()
