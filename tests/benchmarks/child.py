"""Run a function in a fresh Python process, and have its figures back.

`python -m tests.benchmarks.child MODULE FUNCTION ARGUMENTS`, the arguments as JSON.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.rows import Figures

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120
NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"


def call(function: Callable[..., Figures], *args: str | float) -> Figures:
    """What a function of a module returns in a process that has done nothing else."""
    with started(function, *args) as child:
        printed, _ = child.communicate(timeout=PATIENCE_S)
        if child.returncode:
            raise subprocess.CalledProcessError(child.returncode, child.args)
    figures: Figures = json.loads(printed)
    return figures


@contextmanager
def started(
    function: Callable[..., Figures], *args: str | float
) -> Iterator[subprocess.Popen[str]]:
    """The same in the background; it ends with the block at the latest."""
    command = [sys.executable, "-m", __name__, function.__module__, function.__name__]
    # An installed package has its bytecode; a checkout has it too, unless Python may not write it.
    environment = {key: value for key, value in os.environ.items() if key != NO_BYTECODE}
    child = subprocess.Popen(
        [*command, json.dumps(args)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


def main(module: str, function: str, args: str) -> None:
    print(json.dumps(getattr(importlib.import_module(module), function)(*json.loads(args))))


if __name__ == "__main__":
    main(*sys.argv[1:])
