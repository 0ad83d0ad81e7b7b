"""A file of messages, one JSON object a line."""

import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from typing import IO, Any, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from kvqueue_fastapi.cli.exits import FailedError, WrongCommandError
from kvqueue_fastapi.cli.payloads import STDIN, copy_stdin
from kvqueue_fastapi.errors import KvQueueError, shown
from kvqueue_fastapi.losses import read_typed
from kvqueue_fastapi.outgoing import OutgoingMessage, SendOptions, prepare
from kvqueue_fastapi.settings import KvQueueSettings

_IN_MEMORY_BYTES: Final = 16 * 1024 * 1024


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    type: str
    data: Any = None
    delay: float = 0
    backoff_schedule: list[float] | None = None
    keys_if_undelivered: list[list[str | int | float | bool]] = []
    idempotency_key: str | None = None
    ordering_key: str | None = None
    priority: int = 0
    headers: dict[str, str] | None = None


class Line(NamedTuple):
    """A message, and the number of its line, from 1."""

    number: int
    message: OutgoingMessage


class LineError(Exception):
    """What is wrong with a line, or with reading it; of what was sent it says nothing.

    Args:
        number: of the line.
        problem: a sentence.
    """

    def __init__(self, number: int, problem: str) -> None:
        super().__init__(f"Line {number}: {problem}")
        self.number = number


class Last(NamedTuple):
    """How many messages a file has, and the number of the line of the last; 0: none."""

    messages: int = 0
    line: int = 0


@contextmanager
def opened(path: str) -> Generator[IO[str]]:
    """Open a file of messages, or stdin where the path is "-", to be read more than once.

    Raises:
        WrongCommandError: it cannot be opened.
        FailedError: it is a pipe that gives no UTF-8.
    """
    if path == STDIN:
        with _kept(copy_stdin) as copy:
            yield copy
        return
    try:
        file = open(path, encoding="utf-8-sig")  # noqa: PTH123, SIM115 because it is closed below
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}. Name a file of messages, or - for stdin."
        raise WrongCommandError(msg) from error
    with file:
        if file.seekable():
            yield file
            return
        with _kept(lambda copy: _copy_pipe(file, copy)) as copy:
            yield copy


@contextmanager
def _kept(copy_to: Callable[[IO[str]], None]) -> Generator[IO[str]]:
    with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES, "w+", encoding="utf-8") as copy:
        copy_to(copy)
        copy.seek(0)
        yield copy


def _copy_pipe(pipe: IO[str], copy: IO[str]) -> None:
    try:
        shutil.copyfileobj(pipe, copy)
    except UnicodeDecodeError as error:
        msg = f"The file is no UTF-8: {error}. Nothing was sent."
        raise FailedError(msg) from error


def checked(lines: Iterable[str], settings: KvQueueSettings) -> Last:
    """Count the messages, each of which could be sent by itself.

    Raises:
        FailedError: one could not be; the text names its line.
    """
    last = Last()
    try:
        for number, message in messages(lines):
            _require_sound(message, number, settings)
            last = Last(last.messages + 1, number)
    except LineError as error:
        msg = f"{error} Nothing was sent."
        raise FailedError(msg) from error
    return last


def messages(lines: Iterable[str]) -> Iterator[Line]:
    """Read messages; empty lines are passed over.

    Raises:
        LineError: a line is none.
    """
    number = 0
    try:
        for number, text in enumerate(lines, 1):
            if text.strip():
                yield Line(number, _message(number, text))
    except UnicodeDecodeError as error:
        problem = f"here, or in the lines below, the file is no UTF-8: {error}."
        raise LineError(number + 1, problem) from error


def _require_sound(message: OutgoingMessage, number: int, settings: KvQueueSettings) -> None:
    try:
        prepare(message.type, message.data, message.options, settings, _anything)
    except KvQueueError as error:
        raise LineError(number, str(error)) from error


def _message(number: int, text: str) -> OutgoingMessage:
    try:
        line = _Line.model_validate(read_typed(text))
    except ValidationError as error:
        raise LineError(number, _problems(error)) from None
    except (JSONDecodeError, RecursionError) as error:
        problem = f"{shown(text.strip())} is no JSON object: {error}."
        raise LineError(number, problem) from error
    except ValueError as error:
        problem = f"part of it would be lost: {error}."
        raise LineError(number, problem) from error
    options = line.model_dump(exclude={"type", "data"}, exclude_unset=True)
    if "keys_if_undelivered" in options:
        options["keys_if_undelivered"] = [tuple(key) for key in line.keys_if_undelivered]
    return OutgoingMessage(line.type, line.data, SendOptions(**options))


def _problems(error: ValidationError) -> str:
    return " ".join(
        f"{'.'.join(map(str, one['loc']))}: {one['msg']}."
        if one["loc"]
        else 'it is no JSON object. Write one a line, such as {"type": "n", "data": 1}.'
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    )


def _anything(_message_type: str) -> None:
    return None
