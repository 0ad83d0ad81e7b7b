"""The command line as a whole: its commands, and what becomes of their errors."""

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError
from typer.main import get_command

from kvqueue_fastapi.cli import (
    backups,
    copies,
    dead_letters,
    doctor,
    health,
    listeners,
    messages,
    migrations,
    pauses,
    sending,
    stats,
    worker,
)
from kvqueue_fastapi.cli.exits import (
    EXITS,
    FAILED,
    FINE,
    WRONG,
    FailedError,
    WrongCommandError,
    complain,
    silence,
)
from kvqueue_fastapi.cli.texts import visible
from kvqueue_fastapi.errors import InvalidOptionError, KvQueueError
from kvqueue_fastapi.version import __version__

NAME: Final = "kvqueue"
_WRONG: Final = (typer.TyperException, WrongCommandError, InvalidOptionError, ValidationError)
_UNWRITABLE: Final = (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG)
_FAILED: Final = (FailedError, KvQueueError)


def application() -> typer.Typer:
    """Make the command with all that it can do."""
    app = typer.Typer(
        name=NAME,
        help="Look into a queue of kvqueue_fastapi and put it right, or work for one.\n\n"
        "The store is --url, or KVQUEUE_URL, or kvqueue.db. Tables are for people; --json is for "
        "programs, one object a line.",
        epilog=EXITS,
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_whole)
    for family in (
        stats,
        messages,
        sending,
        dead_letters,
        pauses,
        listeners,
        worker,
        health,
        doctor,
        migrations,
        copies,
        backups,
    ):
        family.add_to(app)
    return app


def _tell_version(is_asked: bool) -> None:  # noqa: FBT001 because typer gives it so
    if is_asked:
        sys.stdout.write(f"{NAME} {__version__}\n")
        raise typer.Exit


def _whole(
    *,
    version: Annotated[  # noqa: ARG001 because its callback ends the command
        bool,
        typer.Option(
            "--version", callback=_tell_version, is_eager=True, help="Show the version and end."
        ),
    ] = False,
) -> None:
    return


def run(arguments: Sequence[str]) -> int:
    """Carry out a command line; see `kvqueue_fastapi.cli.main`."""
    for name in ("COLUMNS", "LINES"):
        # Nothing fits into 0 of them: some shells say so where there is no terminal.
        if not os.environ.get(name, "").strip("0"):
            os.environ.pop(name, None)
    # Not by calling the app, because that changes how this process shows any traceback.
    command = get_command(application())
    try:
        ended: Any = command.main(list(arguments), prog_name=NAME, standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read it has seen enough. Nothing more may be written at the exit, either.
        silence(sys.stdout)
        return FAILED
    except OSError as error:
        return _system_failed(error)
    except (*_WRONG, *_FAILED) as error:
        if not _can_answer():
            silence(sys.stdout)
        if problem := _problem(error):
            complain(f"{NAME}: {visible(problem)}")
        return WRONG if isinstance(error, _WRONG) else FAILED
    return ended if isinstance(ended, int) else FINE


def _system_failed(error: OSError) -> int:
    if error.filename is None and error.errno == errno.ENOENT and not _is_somewhere():
        complain(f"{NAME}: The working directory is gone. Change to one that is there.")
        return WRONG
    # Not by another write, because an unbuffered stream has nothing left to fail with.
    if error.errno not in _UNWRITABLE or error.filename is not None:
        raise error
    silence(sys.stdout)
    complain(f"{NAME}: The answer could not be written: {error.strerror}.")
    return FAILED


def _is_somewhere() -> bool:
    try:
        return bool(Path.cwd())
    except FileNotFoundError:
        return False


def _can_answer() -> bool:
    try:
        sys.stdout.flush()
    except OSError:
        return False
    return True


def _problem(error: Exception) -> str:
    if isinstance(error, typer.TyperException):
        if not error.format_message():  # the help was shown instead
            return ""
        context = getattr(error, "ctx", None)
        where = NAME if context is None else context.command_path
        return f"{error.format_message().rstrip('.')}. See `{where} --help`."
    return _settings_problem(error) if isinstance(error, ValidationError) else str(error)


def _settings_problem(error: ValidationError) -> str:
    # Without the values, because a URL has a password.
    problems = (
        f"KVQUEUE_{'_'.join(map(str, one['loc'])).upper()}: {one['msg']}"
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    )
    return f"{'; '.join(problems)}. Put it right in the environment or on the command line."
