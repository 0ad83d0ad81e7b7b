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
from kvqueue_fastapi.keeper import Health, TypeCounts


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
    health, unhandled = await _look(place, max_age_s)
    if output.as_json:
        output.record(health)
    elif health.ok:
        age = health.oldest_age_s
        due = (
            f"a message has been due for {duration(age)}"
            if age is not None
            else ("nothing is due that anyone handles" if unhandled else "nothing is due")
        )
        output.say(f"The store answers, {due}.")
        if unhandled:
            output.say(f"{_waits(len(unhandled))} that nobody handles: {', '.join(unhandled)}.")
    else:
        for problem in health.problems:
            output.note(problem)
    return FINE if health.ok else FAILED


async def _look(place: Place, max_age_s: float | None) -> tuple[Health, list[str]]:
    """How the queue is, and which types wait that no process handles."""
    try:
        async with place.opened() as runtime:
            health = await runtime.queue.health(max_age_s=max_age_s)
            counts = await runtime.admin.counts()
    except (StoreError, FailedError) as error:
        health = Health(
            ok=False, store=False, listening=None, oldest_age_s=None, problems=(str(error),)
        )
        return health, []
    waiting = [one for one in counts if not one.handled and _waiting(one)]
    return health, [one.type for one in waiting]


def _waiting(one: TypeCounts) -> int:
    return one.ready + one.delayed + one.blocked + one.quarantined + one.isolated


def _waits(types: int) -> str:
    return "1 type waits" if types == 1 else f"{types:,} types wait"
