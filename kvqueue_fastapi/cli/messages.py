"""`kvqueue ls`, `show` and `cancel`: messages that wait or run."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import typer

from kvqueue_fastapi.cli.commands import add
from kvqueue_fastapi.cli.exits import FAILED, FINE, FailedError, WrongCommandError
from kvqueue_fastapi.cli.options import App, Cursor, Json, Limit, Newest, Search, Url
from kvqueue_fastapi.cli.output import Output
from kvqueue_fastapi.cli.records import show_all, show_list
from kvqueue_fastapi.cli.stores import Place, completed
from kvqueue_fastapi.errors import KvQueueError, StoreError
from kvqueue_fastapi.keeper import MessageRecord, State
from kvqueue_fastapi.pages import MAX_LIMIT, Page
from kvqueue_fastapi.search import parse_search

_NONE_WAIT: Final = "No such message waits. Dead letters: kvqueue dead ls. Counts: kvqueue stats."
_STATES: Final = ", ".join(state for state in State if state is not State.DEAD)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add(app, "ls", _list)
    add(app, "show", _show)
    add(app, "cancel", _cancel)


def _list(
    search: Search = None,
    *,
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help=f"Only those that are {_STATES}.")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    newest: Newest = False,
    url: Url = None,
    app: App = None,
    as_json: Json = False,
) -> None:
    """List messages that wait or run, the oldest first."""
    output = Output(as_json=as_json)
    chosen = parse_search(" ".join(search or ()))
    if state is not None and chosen.state is not None:
        msg = f"--state {state} and state:{chosen.state} are both given. Give one of them."
        raise WrongCommandError(msg)
    given = chosen.arguments()
    given["state"] = state or chosen.state
    if given["state"] == State.DEAD:
        msg = "Dead letters have a list of their own: kvqueue dead ls."
        raise WrongCommandError(msg)

    async def work() -> None:
        async with Place(url, app).opened() as runtime:
            await list_pages(
                runtime.admin.messages, {**given, "reverse": newest}, limit, cursor, output
            )

    completed(work())


async def list_pages(
    read: Callable[..., Awaitable[Page]],
    given: dict[str, Any],
    limit: int,
    cursor: str | None,
    output: Output,
    empty: str = _NONE_WAIT,
) -> None:
    """List as many as were asked for, a page at a time, and say where to go on."""
    records: list[MessageRecord] = []
    while True:
        page = await read(**given, limit=min(limit - len(records), MAX_LIMIT), cursor=cursor)
        records += page
        cursor = page.next_cursor
        if cursor is None or len(records) >= limit:
            break
    show_list(records, output, empty)
    if cursor is not None:
        output.note(f"There are more: --cursor {cursor}")


def _show(
    message_id: Annotated[int, typer.Argument(metavar="ID")],
    *,
    url: Url = None,
    app: App = None,
    as_json: Json = False,
) -> None:
    """Show one message or dead letter: its attempts with their errors, its headers, its payload."""
    output = Output(as_json=as_json)
    completed(show_message(Place(url, app), message_id, output))


async def show_message(place: Place, message_id: int, output: Output) -> None:
    """Show one message.

    Raises:
        FailedError: there is none.
    """
    async with place.opened() as runtime:
        record = await runtime.admin.message(message_id)
    if record is None:
        msg = f"There is no message {message_id}: it was handled or discarded, or never sent."
        raise FailedError(msg)
    show_all(record, output)


def _cancel(
    message_ids: Annotated[list[int], typer.Argument(metavar="ID", show_default=False)],
    *,
    url: Url = None,
    as_json: Json = False,
) -> int:
    """Remove messages that wait. One that runs already stays, and so does a dead letter."""
    return completed(_cancel_all(Place(url), message_ids, Output(as_json=as_json)))


async def _cancel_all(place: Place, message_ids: list[int], output: Output) -> int:
    code = FINE
    async with place.opened() as runtime:
        for message_id in dict.fromkeys(message_ids):
            problem = None
            try:
                await runtime.admin.cancel(message_id)
            except StoreError:
                raise
            except KvQueueError as error:
                code, problem = FAILED, str(error)
            _tell_cancelled(message_id, problem, output)
    return code


def _tell_cancelled(message_id: int, problem: str | None, output: Output) -> None:
    if output.as_json:
        output.record({"id": message_id, "cancelled": problem is None, "problem": problem})
    elif problem is None:
        output.say(f"Message {message_id} is cancelled.")
    if problem is not None:
        output.note(problem)
