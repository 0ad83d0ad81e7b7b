"""The command line: what is asked for, and what is wrong with it."""

import importlib
import inspect
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from fastapi import FastAPI
from pydantic import ValidationError

from kvqueue_fastapi.errors import KvQueueError
from kvqueue_fastapi.module import KvQueueModule
from kvqueue_fastapi.settings import KvQueueSettings, overruled
from kvqueue_fastapi.worker import Worker

INTERRUPTED: Final = 130
"""The exit code of a process that Ctrl+C has ended."""


class WrongCommandError(Exception):
    """The command cannot be carried out as it was given; the text says what to write."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line.

    Args:
        arguments: without the program's name; None: those of this process.

    Returns:
        The exit code: 0, or 130 where Ctrl+C came before there was anything to stop.

    Raises:
        SystemExit: with 2, after a message, where the command is wrong; with 0 after `--help`.
        Exception: the app's own code failed.
    """
    parser = ArgumentParser(prog="python -m kvqueue_fastapi")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    worker = commands.add_parser(
        "worker",
        help="handle the messages of an app, without HTTP",
        description="Handle the messages of an app's queue in a process of its own, without HTTP, "
        "until SIGTERM or SIGINT.",
    )
    _add_arguments(worker)
    chosen = parser.parse_args(arguments)
    try:
        return _work(chosen)
    except WrongCommandError as error:
        worker.error(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED


def _add_arguments(worker: ArgumentParser) -> None:
    worker.add_argument(
        "target",
        metavar="module:app",
        help="a FastAPI app that a KvQueueModule is installed on, or a KvQueueModule",
    )
    worker.add_argument(
        "--factory", action="store_true", help="module:app is a function that makes the app"
    )
    worker.add_argument(
        "--app-dir",
        default=".",
        metavar="DIRECTORY",
        help="where the module is looked for first (default: the current directory)",
    )
    worker.add_argument(
        "--concurrency",
        type=_concurrency,
        metavar="N",
        help="messages handled at once in this process (default: the setting of the app)",
    )


def _concurrency(text: str) -> int:
    try:
        return overruled(KvQueueSettings.model_construct(), {"concurrency": text}).concurrency
    except ValidationError as error:
        msg = f"{text!r} is not allowed: {error.errors()[0]['msg']}"
        raise ArgumentTypeError(msg) from error


def _work(chosen: Namespace) -> int:
    target = _found(chosen.target, Path(chosen.app_dir), is_factory=chosen.factory)
    try:
        worker = Worker(target, concurrency=chosen.concurrency)
    except KvQueueError as error:
        msg = f"{chosen.target}: {error}"
        raise WrongCommandError(msg) from error
    worker.run()
    return 0


def _found(target: str, directory: Path, *, is_factory: bool) -> FastAPI | KvQueueModule:
    name, _, path = target.partition(":")
    if "/" in name or name.endswith(".py"):
        msg = f"{name!r} is a file. Name the module as an import does, such as shop:app."
        raise WrongCommandError(msg)
    if not name or not path or name.startswith("."):
        msg = f"{target!r} is no module:app. Name a module and the app in it, such as shop:app."
        raise WrongCommandError(msg)
    module = _imported(name, directory)
    found = _attribute(module, path)
    if is_factory:
        found = _made(found, target)
    if not isinstance(found, FastAPI | KvQueueModule):
        raise _no_app(found, target, is_factory=is_factory)
    return found


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
            "or name its directory by --app-dir."
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
