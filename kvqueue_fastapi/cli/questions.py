"""What a command asks before it does what cannot be undone."""

import signal
import sys
from typing import IO

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
    given: IO[str] | None = sys.stdin
    if given is None or not given.isatty():
        msg = f"{question} Nobody is there to answer. Add --yes."
        raise WrongCommandError(msg)
    if not _is_yes(question):
        msg = "Nothing was changed."
        raise FailedError(msg)


def _is_yes(question: str) -> bool:
    console = error_console()
    # Those of asyncio only cancel the command, which does not see it while it waits here; and
    # one in Python is not called where its signal comes just before the terminal is read.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
    terminate = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        return Confirm.ask(Text(visible(question)), console=console, default=False)
    except EOFError:
        console.print()
        return False
    finally:
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, terminate)
