"""Errors that make trouble when they are shown."""

import json
from collections.abc import Callable
from typing import Any, Final, NoReturn

DEEP: Final = 5_000


class UnprintableError(Exception):
    """Neither its text nor its form can be had."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def __str__(self) -> NoReturn:
        raise self.error

    __repr__ = __str__


class NumberError(Exception):
    def __str__(self) -> Any:
        return 7  # noqa: PLE0307 because that is its fault

    __repr__ = __str__


class NotesError(Exception):
    @property
    def __notes__(self) -> NoReturn:
        raise KeyError("notes")


def raises_an_error() -> BaseException:
    return UnprintableError(ValueError("no text"))


def raises_to_end_the_process() -> BaseException:
    return UnprintableError(SystemExit(9))


def raises_as_if_cancelled() -> BaseException:
    return UnprintableError(KeyboardInterrupt())


def no_text() -> BaseException:
    return NumberError()


def huge() -> BaseException:
    return ValueError("x" * 50_000_000)


def no_notes() -> BaseException:
    return NotesError()


def group_in_groups() -> BaseException:
    error: Exception = ValueError("innermost")
    for _ in range(DEEP):
        error = ExceptionGroup("outer", [error])
    return error


def ring_of_causes() -> BaseException:
    error, other = ValueError("first"), KeyError("second")
    error.__context__, other.__context__ = other, error
    error.__cause__, other.__cause__ = other, error
    return error


def deep_list_in_its_text() -> BaseException:
    deep: list[Any] = []
    for _ in range(DEEP * 20):
        deep = [deep]
    return ValueError(deep)


def recursion_in_c() -> BaseException:
    try:
        json.loads("[" * 100_000)
    except RecursionError as error:
        return error
    return AssertionError("it was not too deep")


BAD_ERRORS: Final[list[Callable[[], BaseException]]] = [
    raises_an_error,
    raises_to_end_the_process,
    raises_as_if_cancelled,
    no_text,
    huge,
    no_notes,
    group_in_groups,
    ring_of_causes,
    deep_list_in_its_text,
    recursion_in_c,
]
