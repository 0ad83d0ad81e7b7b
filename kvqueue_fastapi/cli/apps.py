"""The app that a command line names as module:app."""

import importlib
import inspect
import logging
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import typer
from fastapi import FastAPI

from kvqueue_fastapi.cli.exits import FAILED, FailedError, WrongCommandError
from kvqueue_fastapi.errors import KvQueueError
from kvqueue_fastapi.module import KvQueueModule

log = logging.getLogger("kvqueue_fastapi")

_SCRIPT: Final = 'Put what belongs to a script below `if __name__ == "__main__":`.'


def app_of(target: str, directory: Path, *, is_factory: bool = False) -> FastAPI | KvQueueModule:
    """Import what is named.

    Args:
        target: "module:app"; the app may be an attribute of an attribute.
        directory: where the module is looked for first.
        is_factory: whether it is a function that makes the app.

    Raises:
        WrongCommandError: it is not there, or neither an app nor a module.
        FailedError: its code ends the process.
        Exception: the module's own code failed.
    """
    name, _, path = target.partition(":")
    if "/" in name or name.endswith(".py"):
        msg = f"{name!r} is a file. Name the module as an import does, such as shop:app."
        raise WrongCommandError(msg)
    if not name or not path or name.startswith("."):
        msg = f"{target!r} is no module:app. Name a module and the app in it, such as shop:app."
        raise WrongCommandError(msg)
    with traced(target), not_ending(target, "while it was imported or made", _SCRIPT):
        module = _imported(name, directory)
        found = _attribute(module, path)
        if is_factory:
            found = _made(found, target)
    if not isinstance(found, FastAPI | KvQueueModule):
        raise _no_app(found, target, is_factory=is_factory)
    return found


@contextmanager
def not_ending(
    target: str, when: str, remedy: str, *, may_succeed: bool = False
) -> Generator[None]:
    """Around the app's own code, which might end the process.

    Args:
        target: "module:app".
        when: it runs.
        remedy: a sentence.
        may_succeed: whether a process that ends so with 0 has done what it should.

    Raises:
        FailedError: it would have.
    """
    try:
        yield
    except SystemExit as error:
        msg = f"{target} has called sys.exit({error.code!r}) {when}. {remedy}"
        if not may_succeed or error.code:
            raise FailedError(msg) from error
        log.warning("%s", msg)


@contextmanager
def traced(target: str) -> Generator[None]:
    """Tell of an error of ours that came through the app's own code with its traceback.

    That says where to look; what our own code found by itself is told in one line.

    Raises:
        typer.Exit: with 1, after it was told.
    """
    try:
        yield
    except KvQueueError as error:
        package = target.partition(":")[0].partition(".")[0]
        frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
        names = (str(frame.f_globals.get("__name__")) for frame in frames)
        if not any(name.partition(".")[0] == package for name in names):
            raise
        traceback.print_exception(error)
        raise typer.Exit(FAILED) from error


def _imported(name: str, directory: Path) -> ModuleType:
    directory = directory.absolute()
    if not directory.is_dir():
        msg = f"There is no directory {directory}. Name the one that has the module by --app-dir."
        raise WrongCommandError(msg)
    sys.path.insert(0, str(directory))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Another one is missing inside the app's own code, whose traceback tells where.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        msg = (
            f"There is no module {name!r} in {directory}, nor is it installed. Start where it is, "
            "or name its directory by --app-dir (worker) or PYTHONPATH."
        )
        raise WrongCommandError(msg) from error


def _attribute(module: ModuleType, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            there = _apps_in(module)
            remedy = f"It has {', '.join(there)}." if there else "Name the app in it."
            msg = f"The module {module.__name__!r} has no {path!r}. {remedy}"
            raise WrongCommandError(msg) from error
    return found


def _apps_in(module: ModuleType) -> list[str]:
    return [
        f"{module.__name__}:{name}"
        for name, value in vars(module).items()
        if isinstance(value, FastAPI | KvQueueModule)
    ]


def _made(factory: Any, target: str) -> Any:
    if isinstance(factory, FastAPI | KvQueueModule) or not callable(factory):
        msg = f"{target} is of type {type(factory).__name__}, no factory. Leave --factory out."
        raise WrongCommandError(msg)
    try:
        inspect.signature(factory).bind()
    except (TypeError, ValueError) as error:
        msg = f"{target} cannot be called without arguments: {error}. Name a function that can."
        raise WrongCommandError(msg) from error
    return factory()


def _no_app(found: Any, target: str, *, is_factory: bool) -> WrongCommandError:
    what = f"What {target} made" if is_factory else target
    if inspect.iscoroutine(found):
        found.close()
        remedy = "Write the factory with `def`."
    elif inspect.isroutine(found):
        remedy = "If it makes the app, add --factory."
    else:
        remedy = "If it wraps the app, name the app itself."
    kind = type(found).__name__
    msg = f"{what} is of type {kind}, allowed is a FastAPI app or a KvQueueModule. {remedy}"
    return WrongCommandError(msg)
