"""A payload as it is given on a command line."""

import json
import sys
from typing import Any, Final

from kvqueue_fastapi.cli.exits import WrongCommandError
from kvqueue_fastapi.errors import shown

STDIN: Final = "-"


def payload_of(text: str) -> Any:
    """Read JSON from an argument, or from stdin where that is "-".

    Raises:
        WrongCommandError: it is no JSON.
    """
    given = sys.stdin.read() if text == STDIN else text
    try:
        return json.loads(given)
    except (ValueError, RecursionError) as error:
        msg = (
            f"The payload {shown(given)} is no JSON: {error}. Quote it for the shell, such as "
            """'{"order_id": 7}' or '"text"', or give it on stdin with -."""
        )
        raise WrongCommandError(msg) from error
