"""Connections are their process's own: a child that is forked meanwhile must not keep them open.

It inherits copies of their sockets. With one of them open, the server would keep the locks by
which others see that the parent lives, long after the parent's death; and whoever cleaned up in
the child would speak for the parent, or make it deaf.
"""

import os
from collections.abc import Iterator
from functools import cache
from typing import Any, Final
from weakref import WeakSet

_open: Final[WeakSet[Any]] = WeakSet()


def kept_from_children(connection: Any) -> Any:
    """The same connection of asyncpg, of which children that are forked will have nothing."""
    _heed_forks()
    _open.add(connection)
    return connection


@cache
def _heed_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in _sockets():
        # Put into its place, because what is closed there later must be nobody else's.
        os.dup2(nothing, number, inheritable=False)
    os.close(nothing)
    _open.clear()


def _sockets() -> Iterator[int]:
    for connection in _open:
        transport = connection._transport  # noqa: SLF001 because it shows its socket nowhere else
        socket = transport and transport.get_extra_info("socket")
        if socket is not None and socket.fileno() >= 0:
            yield socket.fileno()
