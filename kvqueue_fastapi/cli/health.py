"""`kvqueue health`: whether the queue is well, as an exit code."""

from typing import Annotated

import typer

from kvqueue_fastapi.cli.commands import add
from kvqueue_fastapi.cli.exits import FAILED, FINE, FailedError
from kvqueue_fastapi.cli.options import Json, Url
from kvqueue_fastapi.cli.output import Output
from kvqueue_fastapi.cli.stores import Place, completed
from kvqueue_fastapi.cli.texts import duration
from kvqueue_fastapi.errors import StoreError
from kvqueue_fastapi.keeper import Health


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "health", _health)


def _health(
    *,
    max_age: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="For how long a message may be due.",
        ),
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> int:
    """Tell by the exit code whether the store answers and nothing is due for too long."""
    return completed(_tell(Place(url), max_age, Output(as_json=as_json)))


async def _tell(place: Place, max_age_s: float | None, output: Output) -> int:
    health = await _look(place, max_age_s)
    if output.as_json:
        output.record(health)
    elif health.ok:
        age = health.oldest_age_s
        due = "nothing is due" if age is None else f"a message has been due for {duration(age)}"
        output.say(f"The store answers, {due}.")
    else:
        for problem in health.problems:
            output.note(problem)
    return FINE if health.ok else FAILED


async def _look(place: Place, max_age_s: float | None) -> Health:
    try:
        async with place.opened() as runtime:
            return await runtime.queue.health(max_age_s=max_age_s)
    except (StoreError, FailedError) as error:
        return Health(
            ok=False, store=False, listening=None, oldest_age_s=None, problems=(str(error),)
        )
