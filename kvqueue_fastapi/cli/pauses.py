"""`kvqueue pause` and `resume`: whether a type is claimed."""

import shlex
from typing import Annotated, TypeAlias

import typer

from kvqueue_fastapi.admin import KvQueueAdmin
from kvqueue_fastapi.cli.commands import add
from kvqueue_fastapi.cli.exits import FailedError
from kvqueue_fastapi.cli.options import Json, Url
from kvqueue_fastapi.cli.output import Output
from kvqueue_fastapi.cli.stores import Place, completed
from kvqueue_fastapi.model import type_problem

Type: TypeAlias = Annotated[str, typer.Argument(metavar="TYPE")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add(app, "pause", _pause)
    add(app, "resume", _resume)


def _pause(message_type: Type, *, url: Url = None, as_json: Json = False) -> None:
    """Stop handling a type, in every process, until it is resumed. Running handlers finish."""
    completed(_set(Place(url), message_type, Output(as_json=as_json), paused=True))


def _resume(message_type: Type, *, url: Url = None, as_json: Json = False) -> None:
    """Handle a type again."""
    completed(_set(Place(url), message_type, Output(as_json=as_json), paused=False))


async def _require_known(admin: KvQueueAdmin, message_type: str, done: str) -> None:
    is_known = any(one.type == message_type for one in await admin.counts()) or any(
        message_type in one.types for one in await admin.listeners()
    )
    if not is_known:
        msg = (
            f"There is no message type {message_type}, so nothing was {done}. Types: kvqueue stats."
        )
        raise FailedError(msg)


async def _set(place: Place, message_type: str, output: Output, *, paused: bool) -> None:
    async with place.opened() as runtime:
        if type_problem(message_type) is None:
            await _require_known(runtime.admin, message_type, "paused" if paused else "resumed")
        change = runtime.admin.pause if paused else runtime.admin.resume
        await change(message_type)
    if output.as_json:
        output.record({"type": message_type, "paused": paused})
    elif paused:
        # As a shell takes it, and not for an option.
        given = ["--", message_type] if message_type.startswith("-") else [message_type]
        resume = shlex.join(["kvqueue", "resume", *given])
        output.say(f"{message_type} is paused in every process, until: {resume}")
    else:
        output.say(f"{message_type} is handled again.")
