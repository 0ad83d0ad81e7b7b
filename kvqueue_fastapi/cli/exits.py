"""How a command ends: its exit codes, and the errors that lead to them."""

from typing import Final

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


class WrongCommandError(Exception):
    """The command cannot be carried out as it was given; the text says what to write."""


class FailedError(Exception):
    """What was asked for could not be done; the text says why, and what to do."""
