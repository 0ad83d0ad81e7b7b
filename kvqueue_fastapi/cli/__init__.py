"""The `kvqueue` command: an operator's view of a queue, over its public faces."""

import io
import sys
from collections.abc import Sequence
from typing import IO, Final

from kvqueue_fastapi.cli.exits import INTERRUPTED, WRONG, complain

_EXTRA: Final = ("typer", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line.

    Args:
        arguments: without the program's name; None: those of this process.

    Returns:
        The exit code: 0 where all is well, 1 where what was asked for could not be done or a
        problem was found, 2 where the command line is wrong or the extra `cli` is not
        installed, 130 after Ctrl+C. What is wrong is said on stderr.

    Raises:
        Exception: the app's own code failed, in a worker.
    """
    out: IO[str] | None = sys.stdout
    if out is None:
        complain(
            "kvqueue: stdout is closed. Nothing was done; send the answer to /dev/null instead."
        )
        return WRONG
    for stream in (sys.stdout, sys.stderr):
        # What is stored must not end the command where the locale cannot write it.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        from kvqueue_fastapi.cli.application import run  # noqa: PLC0415 because it needs the extra

        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:  # before a command begins, or when it has ended
        return INTERRUPTED
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        complain(
            f"kvqueue needs {missing}, which is not installed. Run "
            "pip install 'kvqueue_fastapi[cli]'."
        )
        return WRONG
