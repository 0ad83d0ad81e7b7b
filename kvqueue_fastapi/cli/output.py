"""Where answers go: tables on a terminal, tab-separated text in a pipe, JSON if asked for."""

import dataclasses
import json
import re
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from kvqueue_fastapi.cli.exits import FailedError, silence
from kvqueue_fastapi.cli.tables import Cell, Column, plain, table_of
from kvqueue_fastapi.cli.texts import visible

_NO_NUMBER: Final = re.compile("NaN|Infinity")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # That of rich would end the process.
        raise BrokenPipeError


class Output:
    """What a command says.

    Args:
        as_json: machine-readable, one object a line.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json: Final = as_json
        self.console: Final = _Console(highlight=False, markup=False, emoji=False)
        self.errors: Final = error_console()

    @property
    def is_pretty(self) -> bool:
        """Whether a person reads it on a terminal."""
        return not self.as_json and self.console.is_terminal

    def record(self, record: Any) -> None:
        """Write one object as JSON, on a line of its own."""
        sys.stdout.write(f"{as_json(record)}\n")

    def records(self, records: Iterable[Any]) -> None:
        """Write objects as NDJSON."""
        for record in records:
            self.record(record)

    def say(self, text: Cell) -> None:
        """Write text as it is, whatever the width of the terminal."""
        shown = Text(visible(text)) if isinstance(text, str) else text
        self.console.print(shown, soft_wrap=True)

    def note(self, text: str) -> None:
        """Say something beside the answer, on stderr."""
        try:
            self.errors.print(Text(visible(text), style="dim"), soft_wrap=True)
        except OSError:
            silence(sys.stderr)

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], empty: str) -> None:
        """Write a table.

        Args:
            columns: what is in it.
            rows: a cell for each column.
            empty: what to say, and what to do, where there are no rows.
        """
        if not rows and self.console.is_terminal:
            self.say(empty)
        elif self.console.is_terminal:
            self.console.print(table_of(columns, rows, self.console.width))
        else:
            for line in ([column.title for column in columns], *rows):
                sys.stdout.write("\t".join(plain(cell) for cell in line) + "\n")


@contextmanager
def told(done: str, then: str = "") -> Generator[None]:
    """Around the answer to what is done, such as "Message 7 was sent", and what to do then.

    Where nobody reads the answer, it is not wanted; what was asked for is done all the same.

    Raises:
        FailedError: it cannot be written; the text says what was done.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)
    except OSError as error:
        msg = f"{done}, but the answer could not be written: {error.strerror}. {then}".rstrip()
        raise FailedError(msg) from error


def error_console() -> Console:
    """Where progress and remarks go."""
    return _Console(stderr=True, highlight=False, markup=False, emoji=False)


def as_json(record: Any) -> str:
    """An object as one line of JSON in ASCII, so that any terminal and any locale can take it."""
    try:
        text = json.dumps(record, default=_plain_object, separators=(",", ":"))
    except ValueError:  # a number of more than 4,300 digits, which another program wrote
        return json.dumps({"unshowable": type(record).__name__})
    if not _NO_NUMBER.search(text):  # a string may have the word, too
        return text
    return json.dumps(_finite(json.loads(text)), separators=(",", ":"))


def _finite(value: Any) -> Any:
    """With floats that JSON does not know as text: "NaN", "Infinity", "-Infinity"."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return json.dumps(value) if isinstance(value, float) and not isfinite(value) else value


def _plain_object(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return repr(value)
