"""`kvqueue send`: one message, or a file of them."""

import asyncio
import signal
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Annotated, Any, Final, NamedTuple

import typer

from kvqueue_fastapi.cli.commands import add
from kvqueue_fastapi.cli.exits import FailedError, WrongCommandError
from kvqueue_fastapi.cli.lines import Line, at_line, checked, messages, opened
from kvqueue_fastapi.cli.options import App, Json, Url
from kvqueue_fastapi.cli.output import Output
from kvqueue_fastapi.cli.payloads import payload_of
from kvqueue_fastapi.cli.progress import bar
from kvqueue_fastapi.cli.stores import Place, completed
from kvqueue_fastapi.cli.texts import counted
from kvqueue_fastapi.endings import to_the_end
from kvqueue_fastapi.errors import KvQueueError, QueueFullError, StoreError
from kvqueue_fastapi.lifespan import Runtime
from kvqueue_fastapi.queue import KvQueue

SLICE: Final = 1_000
"""Messages in one commit."""


class Range(NamedTuple):
    """The ids of what was sent, from the first to the last; None: nothing was."""

    sent: int = 0
    first_id: int | None = None
    last_id: int | None = None

    def joined(self, ids: Sequence[int]) -> "Range":
        """With more ids behind."""
        first = ids[0] if self.first_id is None else self.first_id
        return Range(self.sent + len(ids), first, ids[-1])


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
        completed(_send_file(place, file, from_line or 1, output, create=create))
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
        message_id = await runtime.queue.send_message(message_type, data, **options)
    try:
        if output.as_json:
            output.record({"id": message_id})
        else:
            output.say(str(message_id))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        msg = (
            f"Message {message_id} was sent, but the answer could not be written: "
            f"{error.strerror}. Do not send it again."
        )
        raise FailedError(msg) from error


async def _send_file(
    place: Place, path: str, from_line: int, output: Output, *, create: bool
) -> None:
    with opened(path) as file:
        # All of them first, so that a mistake in the last one is told before any is sent.
        last = checked(file, place.runtime().settings)
        if from_line > max(last.line, 1):
            msg = (
                f"--from-line is {from_line}, the last message stands in line {last.line}. Give "
                "the number that the command said when it ended; if it was this, all is sent."
            )
            raise WrongCommandError(msg)
        file.seek(0)
        async with place.opened(create=create) as runtime:
            lines = _from(messages(file), from_line)
            sent = await _send_lines(runtime, lines, last.messages, output)
    if output.as_json:
        output.record(sent._asdict())
    else:
        ids = f", ids {sent.first_id} to {sent.last_id}" if sent.sent else ""
        output.say(f"{counted(sent.sent, 'message')} sent{ids}.")


async def _send_lines(runtime: Runtime, lines: Iterable[Line], total: int, output: Output) -> Range:
    left, sent = iter(lines), Range()
    with bar("Send", total) as advance, _on_terminate() as terminated:
        while part := list(islice(left, SLICE)):
            sending = asyncio.create_task(_send_part(runtime.queue, part, sent))
            try:
                # To its end, because else nobody knew whether this part went out.
                sent = await to_the_end(sending)
            except asyncio.CancelledError:
                problem = _broken_off(part[-1], sending.result().sent)
                if terminated.is_set():
                    raise FailedError(problem) from None
                output.note(problem)
                raise
            advance(sent.sent)
    return sent


@contextmanager
def _on_terminate() -> Generator[asyncio.Event]:
    """Cancel this task at a SIGTERM, which is told by an event."""
    loop, task, terminated = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()

    def terminate() -> None:
        terminated.set()
        if task is not None:
            task.cancel()

    try:
        loop.add_signal_handler(signal.SIGTERM, terminate)
    except NotImplementedError:  # Windows has no SIGTERM to wait for
        yield terminated
        return
    try:
        yield terminated
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def _broken_off(last: Line, sent: int) -> str:
    went = f"{counted(sent, 'message')} went out"
    return f"It was broken off: {went}. Go on with --from-line {last.number + 1}."


async def _send_part(queue: KvQueue, part: Sequence[Line], sent: Range) -> Range:
    try:
        return sent.joined(await queue.send_messages([line.message for line in part]))
    except (StoreError, QueueFullError) as error:
        raise _ended(part[0], str(error), sent) from error
    except KvQueueError:
        # One of them is refused, and only one by one it is seen which.
        return await _send_singly(queue, part, sent)


async def _send_singly(queue: KvQueue, part: Sequence[Line], sent: Range) -> Range:
    for line in part:
        try:
            sent = sent.joined(await queue.send_messages([line.message]))
        except KvQueueError as error:
            raise _ended(line, str(error), sent) from error
    return sent


def _ended(line: Line, problem: str, sent: Range) -> FailedError:
    before = f"Before it, {counted(sent.sent, 'message')} went out." if sent.sent else ""
    then = f"{before} Go on with --from-line {line.number}.".strip()
    return at_line(line.number, problem, then)


def _from(lines: Iterable[Line], number: int) -> Iterable[Line]:
    return (line for line in lines if line.number >= number)


def _headers(given: Sequence[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not name or not separator:
            msg = f"--header {text!r} is no header. Write NAME=VALUE."
            raise WrongCommandError(msg)
        headers[name] = value
    return headers
