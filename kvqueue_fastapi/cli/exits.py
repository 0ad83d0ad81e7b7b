"""How a command ends: its exit codes, and the errors that lead to them."""

import os
import sys
from typing import IO, Final

FINE: Final = 0
FAILED: Final = 1
"""What was asked for could not be done, or a problem was found."""
WRONG: Final = 2
"""The command line is wrong."""
INTERRUPTED: Final = 130
"""Ctrl+C has ended it."""

EXITS: Final = (
    "Exit codes: 0 all is well; 1 what was asked for could not be done, or a problem was found; "
    "2 the command line is wrong; 130 Ctrl+C."
)


def complain(text: str) -> None:
    """Say on stderr why a command fails. Where nobody hears it, the exit code still tells."""
    err: IO[str] | None = sys.stderr
    if err is None:
        return
    try:
        err.write(f"{text}\n")
        err.flush()
    except OSError:
        silence(err)


def silence(stream: IO[str]) -> None:
    """Have nothing more reach it, not even at the exit, where it would change the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class WrongCommandError(Exception):
    """The command cannot be carried out as it was given; the text says what to write."""


class FailedError(Exception):
    """What was asked for could not be done; the text says why, and what to do."""
