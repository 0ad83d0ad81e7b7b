"""`kvqueue migrate`: brings a store up to the schema of this version."""

from typing import Annotated

import typer

from kvqueue_fastapi.cli.commands import add
from kvqueue_fastapi.cli.options import Json, Url
from kvqueue_fastapi.cli.output import Output
from kvqueue_fastapi.cli.stores import Place, completed, require_store, surveyed


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "migrate", _migrate)


def _migrate(
    *,
    create: Annotated[
        bool, typer.Option("--create", help="Make the store where there is none.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Apply the schema files that the store has not seen.

    Apps do so when they start; this is for a role that may, where theirs may not, and for a
    moment of your choice. Apps of the version before run on beside it.
    """
    completed(_bring_up(Place(url), Output(as_json=as_json), create=create))


async def _bring_up(place: Place, output: Output, *, create: bool) -> None:
    runtime = place.runtime()
    before = await surveyed(runtime.settings)
    if not before.is_there:
        require_store(before, create=create)
    async with runtime.running():
        pass
    after = await surveyed(runtime.settings)
    if output.as_json:
        output.record({"store": after.where, "from": before.schema, "to": after.schema})
    elif before.schema == after.schema:
        output.say(f"{after.where} has schema {after.schema} already.")
    else:
        output.say(f"{after.where} is brought from schema {before.schema} to {after.schema}.")
