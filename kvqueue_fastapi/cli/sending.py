"""`kvqueue send`: one message, or a file of them."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from kvqueue_fastapi.cli.batches import send_file
from kvqueue_fastapi.cli.commands import add
from kvqueue_fastapi.cli.exits import WrongCommandError
from kvqueue_fastapi.cli.options import App, Json, Url
from kvqueue_fastapi.cli.output import Output, told
from kvqueue_fastapi.cli.payloads import payload_of
from kvqueue_fastapi.cli.stores import Place, completed
from kvqueue_fastapi.endings import to_the_end


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "send", _send)


def _send(  # noqa: PLR0913 because they are the options of the command
    message_type: Annotated[str | None, typer.Argument(metavar="TYPE")] = None,
    payload: Annotated[
        str | None, typer.Argument(metavar="JSON|-", help="The payload, or - for stdin.")
    ] = None,
    *,
    file: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|-",
            help="Many, one JSON object a line: type, data, and delay, ordering_key, "
            "idempotency_key, priority, headers, backoff_schedule, keys_if_undelivered.",
        ),
    ] = None,
    from_line: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Leave out the lines of --file before this."),
    ] = None,
    delay: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="When it is due. [dim]\\[default: at once][/]"),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Ordering key.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="A second message with the same is not stored.")
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(help="Higher goes first within its type. [dim]\\[default: 0][/]"),
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="May be given several times.")
    ] = None,
    create: Annotated[
        bool, typer.Option("--create", help="Make the store where there is none.")
    ] = False,
    url: Url = None,
    app: App = None,
    as_json: Json = False,
) -> None:
    """Send a message; its id is the answer.

    With --app its payload is checked by the model of its handler before.
    """
    output, place = Output(as_json=as_json), Place(url, app)
    given = {
        "delay": delay,
        "ordering_key": key,
        "idempotency_key": idempotency_key,
        "priority": priority,
        "headers": _headers(header) if header else None,
    }
    options = {name: value for name, value in given.items() if value is not None}
    if file is not None:
        if message_type is not None or options:
            msg = "With --file, type, payload and options stand in its lines. Leave them out here."
            raise WrongCommandError(msg)
        send_file(place, file, from_line or 1, output, create=create)
        return
    if from_line is not None:
        msg = "--from-line is the number of a line of --file. Give both, or neither."
        raise WrongCommandError(msg)
    if message_type is None:
        msg = "Name the TYPE of the message, or a --file of messages."
        raise WrongCommandError(msg)
    data = None if payload is None else payload_of(payload)
    completed(_send_one(place, message_type, data, options, output, create=create))


async def _send_one(
    place: Place,
    message_type: str,
    data: Any,
    options: dict[str, Any],
    output: Output,
    *,
    create: bool,
) -> None:
    async with place.opened(create=create) as runtime:
        sending = asyncio.create_task(runtime.queue.send_message(message_type, data, **options))
        try:
            # To its end, and told at once, because else nobody knew whether it went out.
            await to_the_end(sending)
        finally:
            _tell(sending.result(), output)


def _tell(message_id: int, output: Output) -> None:
    with told(f"Message {message_id} was sent", "Do not send it again."):
        if output.as_json:
            output.record({"id": message_id})
        else:
            output.say(str(message_id))


def _headers(given: Sequence[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not name or not separator:
            msg = f"--header {text!r} is no header. Write NAME=VALUE."
            raise WrongCommandError(msg)
        headers[name] = value
    return headers
