"""`kvqueue dead`: dead letters listed, read, mended, sent again, thrown away."""

import asyncio
from typing import Annotated, Any, Final, TypeAlias

import typer

from kvqueue_fastapi.cli.bulk import DISCARD, REQUEUE, Chosen, do, tell
from kvqueue_fastapi.cli.commands import add
from kvqueue_fastapi.cli.exits import FINE, WrongCommandError
from kvqueue_fastapi.cli.messages import list_pages, show_message
from kvqueue_fastapi.cli.options import App, Cursor, Json, Limit, Newest, Search, Url, Yes
from kvqueue_fastapi.cli.output import Output
from kvqueue_fastapi.cli.payloads import payload_of
from kvqueue_fastapi.cli.stores import Place, completed
from kvqueue_fastapi.endings import to_the_end
from kvqueue_fastapi.keeper import State
from kvqueue_fastapi.search import parse_search

_NONE: Final = "There is no such dead letter."

Ids: TypeAlias = Annotated[list[int] | None, typer.Argument(metavar="ID", show_default=False)]
Type: TypeAlias = Annotated[
    str | None, typer.Option("--type", metavar="TYPE", help="All of this message type.")
]
All: TypeAlias = Annotated[bool, typer.Option("--all", help="All of every type.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    dead = typer.Typer(no_args_is_help=True, help="Dead letters: messages that were given up.")
    add(dead, "ls", _list)
    add(dead, "show", _show)
    add(dead, "requeue", _requeue)
    add(dead, "discard", _discard)
    app.add_typer(dead, name="dead")


def _list(
    search: Search = None,
    *,
    limit: Limit = 50,
    cursor: Cursor = None,
    newest: Newest = False,
    url: Url = None,
    app: App = None,
    as_json: Json = False,
) -> None:
    """List dead letters, the oldest first, with their last errors."""
    output = Output(as_json=as_json)
    chosen = parse_search(" ".join(search or ()))
    if chosen.state not in {None, State.DEAD}:
        msg = f"Dead letters are dead. Leave state:{chosen.state} out, or use kvqueue ls."
        raise WrongCommandError(msg)
    given = chosen.arguments(with_state=False)

    async def work() -> None:
        async with Place(url, app).opened() as runtime:
            await list_pages(
                runtime.admin.dead_letters,
                {**given, "reverse": newest},
                limit,
                cursor,
                output,
                _NONE,
            )

    completed(work())


def _show(
    message_id: Annotated[int, typer.Argument(metavar="ID")],
    *,
    url: Url = None,
    app: App = None,
    as_json: Json = False,
) -> None:
    """Show one dead letter: why it died, all its attempts, its payload."""
    completed(show_message(Place(url, app), message_id, Output(as_json=as_json)))


def _requeue(
    ids: Ids = None,
    *,
    message_type: Type = None,
    every: All = False,
    data: Annotated[
        str | None,
        typer.Option(metavar="JSON|-", help="The one that is named, with this payload instead."),
    ] = None,
    yes: Yes = False,
    url: Url = None,
    app: App = None,
    as_json: Json = False,
) -> int:
    """Send dead letters again, each as a new message with all its attempts before it.

    With --data, what is wrong in a payload can be mended. With --app it is checked by the model
    of its handler before.
    """
    chosen, output = Chosen(ids or (), message_type, every), Output(as_json=as_json)
    chosen.require_one()
    if data is None:
        return completed(do(REQUEUE, Place(url, app), chosen, output, yes=yes))
    if len(chosen.ids) != 1:
        msg = "--data is the payload of one dead letter. Name its id, and no other."
        raise WrongCommandError(msg)
    payload = payload_of(data)
    return completed(_requeue_as(Place(url, app), chosen.ids[0], payload, output))


def _discard(
    ids: Ids = None,
    *,
    message_type: Type = None,
    every: All = False,
    yes: Yes = False,
    url: Url = None,
    as_json: Json = False,
) -> int:
    """Throw dead letters away, for good."""
    chosen = Chosen(ids or (), message_type, every)
    chosen.require_one()
    return completed(do(DISCARD, Place(url), chosen, Output(as_json=as_json), yes=yes))


async def _requeue_as(place: Place, message_id: int, payload: Any, output: Output) -> int:
    async with place.opened() as runtime:
        doing = asyncio.create_task(runtime.admin.requeue_as(message_id, payload))
        try:
            await to_the_end(doing)
        finally:
            tell(REQUEUE, {message_id: doing.result()}, output)
    return FINE
