"""Starts Python programs in processes that have imported everything when they begin.

The launcher is a process that has imported, and done nothing else: no thread, no event loop, no
database. What it forks is made a child of the process that asked, which stops it, kills it and
waits for it as for any other. Where the start of an interpreter or a fork is itself the matter,
take `subprocess.Popen`. So does this one where the system is not Linux.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
IMPORTED: Final = (
    "kvqueue_fastapi.worker",
    "kvqueue_fastapi.store.sqlite.engine",
    "kvqueue_fastapi.store.postgres.engine",
    "encodings.ascii",
)
"""With all that these import."""
OWN: Final[dict[str, Any]] = {"bufsize": 0, "start_new_session": True}
MOST_BYTES: Final = 2**20
PR_SET_CHILD_SUBREAPER: Final = 36


def started(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, by a new interpreter."""
    return subprocess.Popen([sys.executable, *command], **OWN, **options)


def launched(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, by the launcher where there is one.

    Args:
        command: what would follow `python`: a path or `-m` and a module, and arguments.
        options: the files, environment and directory, as `subprocess.Popen` takes them.
    """
    if sys.platform != "linux":
        return started(command, **options)
    return Launched(command, **OWN, **options)


class Launched(subprocess.Popen[bytes]):
    """A process that the launcher forked."""

    def _execute_child(self, args: list[str], *given: Any) -> None:
        directory, environment = given[4:6]
        ends = given[9:15]  # of three pipes: the child's and ours, then twice ours and the child's
        files = [file if file != -1 else own for own, file in enumerate((ends[0], *ends[3::2]))]
        request = {
            "command": args,
            "directory": str(directory or Path.cwd()),
            "environment": dict(os.environ if environment is None else environment),
        }
        self.pid = _launcher().launch(request, files)
        self._child_created = True
        self._close_pipe_fds(*ends)


class Launcher:
    """The process that forks, as seen by the one that asks it to."""

    def __init__(self) -> None:
        self._asking, asked = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with asked:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(asked.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[asked.fileno()],
                start_new_session=True,
            )

    def launch(self, request: dict[str, Any], files: list[int]) -> int:
        """Have a program run, with these as its standard files. Returns its process."""
        with _orphans_are_ours():
            socket.send_fds(self._asking, [json.dumps(request).encode()], files)
            answer = self._asking.recv(MOST_BYTES)
        return int(answer)

    def end(self) -> None:
        self._asking.close()
        self._process.wait()


@cache
def _launcher() -> Launcher:
    launcher = Launcher()
    atexit.register(launcher.end)
    return launcher


@contextmanager
def _orphans_are_ours() -> Iterator[None]:
    """Become the parent of whoever loses its own, where it descends from this process."""
    prctl = ctypes.CDLL(None).prctl
    assert prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def serve(asked: socket.socket) -> list[str]:
    """Fork for each request. Returns in what was forked, with the command that it is to run."""
    while True:
        request, files, _, _ = socket.recv_fds(asked, MOST_BYTES, 3)
        if not request:
            sys.exit()
        reading, writing = os.pipe()
        if (between := os.fork()) == 0:
            if os.fork():
                os._exit(0)
            command = _become(files, **json.loads(request))
            os.write(writing, str(os.getpid()).encode())
            for number in (asked.detach(), reading, writing):
                os.close(number)
            return command
        for number in (writing, *files):
            os.close(number)
        os.waitpid(between, 0)
        # by now its parent is another, and its session its own
        asked.send(os.read(reading, MOST_BYTES))
        os.close(reading)


def _become(
    files: list[int], command: list[str], directory: str, environment: dict[str, str]
) -> list[str]:
    os.setsid()
    for own, file in enumerate(files):
        os.dup2(file, own)
        os.close(file)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    return command


def run(program: str, *arguments: str) -> None:
    """Do what `python` does with these arguments."""
    if program == "-m":
        module, *arguments = arguments
        sys.argv = [module, *arguments]
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [program, *arguments]
        sys.path.insert(0, str(Path(program).parent))
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    for module in IMPORTED:
        importlib.import_module(module)
    gc.freeze()  # so that its pages stay shared
    run(*serve(socket.socket(fileno=int(sys.argv[1]))))
