"""Forks, with a bound to how long a child may take, and word of what it did."""

import os
import signal
from collections.abc import Callable
from typing import Any

CHILD_S = 10


def told_by_child(work: Callable[[], Any]) -> str:
    """Fork, let the child do something, and tell what came of it: its result or its error."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(CHILD_S)  # a child that hangs is ended by it, and has told nothing
        try:
            said = f"{work()}"
        except BaseException as error:  # noqa: BLE001 because the child must end here
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said or "it hung"


def by_hand(awaitable: Any) -> Any:
    """Run a coroutine as far as it goes without an event loop."""
    coroutine = awaitable.__await__()
    try:
        next(coroutine)
    except StopIteration as end:
        return end.value
    return "it waits for ever"
