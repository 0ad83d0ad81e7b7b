"""A payload as it is given on a command line."""

import io
import shutil
import sys
from json import JSONDecodeError
from typing import IO, Any, Final

from kvqueue_fastapi.cli.exits import WrongCommandError
from kvqueue_fastapi.errors import shown
from kvqueue_fastapi.losses import read_typed

STDIN: Final = "-"


def copy_stdin(target: IO[str]) -> None:
    """Copy all of stdin, which is UTF-8 whatever the locale says, with or without a mark before.

    Raises:
        WrongCommandError: it is closed, or no UTF-8.
    """
    given: IO[str] | None = sys.stdin
    if given is None:
        msg = "stdin is closed. Give what is sent by a pipe, or on the command line."
        raise WrongCommandError(msg)
    if not isinstance(given, io.TextIOWrapper):
        shutil.copyfileobj(given, target)
        return
    try:
        with open(given.fileno(), encoding="utf-8-sig", closefd=False) as text:
            shutil.copyfileobj(text, target)
    except UnicodeDecodeError as error:
        msg = f"stdin is no UTF-8: {error}. Convert it, such as by iconv -t utf-8."
        raise WrongCommandError(msg) from error


def payload_of(text: str) -> Any:
    """Read JSON from an argument, or from stdin where that is "-".

    Raises:
        WrongCommandError: it is no JSON, or part of it would be lost.
    """
    given = text
    if text == STDIN:
        copy_stdin(copy := io.StringIO())
        given = copy.getvalue()
    try:
        return read_typed(given)
    except (JSONDecodeError, RecursionError) as error:
        msg = (
            f"The payload {shown(given)} is no JSON: {error}. Quote it for the shell, such as "
            """'{"order_id": 7}' or '"text"', or give it on stdin with -."""
        )
        raise WrongCommandError(msg) from error
    except ValueError as error:
        msg = f"Part of the payload {shown(given)} would be lost: {error}."
        raise WrongCommandError(msg) from error
