"""How a function becomes a command."""

import inspect
from collections.abc import Callable
from typing import Any

import typer

from kvqueue_fastapi.cli.exits import EXITS


def add(app: typer.Typer, name: str, function: Callable[..., Any], **options: Any) -> None:
    """Make a function a command, with its docstring as the help and the exit codes below."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    # typer keeps the line breaks of all but the first.
    text = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)
    app.command(name, help=text, epilog=EXITS, **options)(function)
