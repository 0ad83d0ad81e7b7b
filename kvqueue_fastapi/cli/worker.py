"""`kvqueue worker module:app`: a process that only listens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import ValidationError

from kvqueue_fastapi.cli.apps import app_of, not_ending, traced
from kvqueue_fastapi.cli.commands import add
from kvqueue_fastapi.cli.exits import WrongCommandError
from kvqueue_fastapi.errors import KvQueueError
from kvqueue_fastapi.lifespan import Choice
from kvqueue_fastapi.settings import KvQueueSettings, overruled
from kvqueue_fastapi.worker import Worker

_STOPS: Final = "Raise an error where it cannot go on; SIGTERM stops a worker."


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "worker", _work)


def _concurrency(text: str) -> int:
    try:
        return overruled(KvQueueSettings.model_construct(), {"concurrency": text}).concurrency
    except ValidationError as error:
        msg = f"{text!r} is not allowed: {error.errors()[0]['msg']}"
        raise typer.BadParameter(msg) from error


def _work(
    target: Annotated[
        str,
        typer.Argument(
            metavar="module:app",
            help="A FastAPI app that a KvQueueModule is installed on, or a KvQueueModule.",
        ),
    ],
    *,
    factory: Annotated[
        bool, typer.Option("--factory", help="module:app is a function that makes the app.")
    ] = False,
    app_dir: Annotated[
        Path,
        typer.Option(metavar="DIRECTORY", help="Where the module is looked for first."),
    ] = Path(),
    concurrency: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=_concurrency,
            help="Messages handled at once in this process. [dim]\\[default: as the app says][/]",
        ),
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE[,TYPE]...",
            help="Handle only these message types in this process; may be given several times. A "
            "value with commas is one type where the app handles it, else several.",
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Another store than that of the app.")
    ] = None,
) -> None:
    """Handle the messages of an app's queue in a process of its own, without HTTP.

    It runs until SIGTERM or SIGINT: then it gives its handlers the time that the app gives
    them. A second signal ends it at once.
    """
    found = app_of(target, app_dir, is_factory=factory)
    try:
        worker = Worker(found, concurrency=concurrency, types=_choice(types), url=url)
    except KvQueueError as error:
        msg = f"{target}: {error}"
        raise WrongCommandError(msg) from error
    with traced(target), not_ending(target, "in the worker", _STOPS, may_succeed=True):
        worker.run()


def _choice(given: Sequence[str] | None) -> Choice | None:
    if not given:
        return None
    if not any(_split(text) for text in given):
        msg = "--types names no message type. Write --types order.created, or leave it out for all."
        raise WrongCommandError(msg)

    def choose(handled: Sequence[str]) -> list[str]:
        return [one for text in given for one in ([text] if text in handled else _split(text))]

    return choose


def _split(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]
