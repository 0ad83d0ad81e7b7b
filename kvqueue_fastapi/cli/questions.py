"""What a command asks before it does what cannot be undone."""

import sys

from rich.prompt import Confirm
from rich.text import Text

from kvqueue_fastapi.cli.exits import FailedError, WrongCommandError
from kvqueue_fastapi.cli.output import error_console
from kvqueue_fastapi.cli.texts import visible


def require_yes(question: str, *, yes: bool) -> None:
    """Ask, unless the answer was given before.

    Raises:
        WrongCommandError: nobody is there to answer.
        FailedError: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        msg = f"{question} Nobody is there to answer. Add --yes."
        raise WrongCommandError(msg)
    if not Confirm.ask(Text(visible(question)), console=error_console(), default=False):
        msg = "Nothing was changed."
        raise FailedError(msg)
