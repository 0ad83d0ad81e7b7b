"""A bar that shows how far a long command is, on stderr, where that is a terminal."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeAlias

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from kvqueue_fastapi.cli.output import error_console
from kvqueue_fastapi.cli.texts import visible

Advance: TypeAlias = Callable[[int], None]
"""Told how many are done by now."""


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
