"""Who listens on this database, and which of them are dead."""

import json
import os
import random
import socket
import sqlite3
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from kvqueue_fastapi.model import Report, Tally
from kvqueue_fastapi.store.base import MINUTE_MS, Clock
from kvqueue_fastapi.store.sqlite import statements as sql
from kvqueue_fastapi.store.sqlite.connection import Patience, WriteTransaction
from kvqueue_fastapi.store.sqlite.leases import Undertaker
from kvqueue_fastapi.store.sqlite.location import MEMORY, boot_id
from kvqueue_fastapi.store.sqlite.presence import Presence, forget, has_stopped, is_dead
from kvqueue_fastapi.version import __version__

R = TypeVar("R")
Call = Callable[[Callable[[sqlite3.Connection], R]], R]

_NO_LOCKS: Final = "no locks "
"""Before a boot's id: this listener could not show a lock, only its leases tell."""


class Listeners:
    """The listeners of one database, as this process sees them and takes part."""

    def __init__(self, path: str, clock: Clock, undertaker: Undertaker, patience: Patience) -> None:
        # By one name, because others may have opened the file through a link.
        self._path = path if path == MEMORY else str(Path(path).resolve())
        self._clock = clock
        self._undertaker = undertaker
        self._patience = patience
        self._boot = boot_id()
        self._present: dict[int, Presence | None] = {}

    def enter(self, connection: sqlite3.Connection, types: Sequence[str]) -> int:
        """Show a mark of life, then say that this process listens. Returns the listener's id."""
        listener_id = random.getrandbits(62) + 1
        presence = self._show(listener_id)
        names = {
            "id": listener_id,
            "host": socket.gethostname(),
            "boot": (_NO_LOCKS if presence is None else "") + self._boot,
            "pid": os.getpid(),
            "since_ms": self._clock.wall_ms(),
            "types": json.dumps(sorted(types)),
            "version": __version__,
        }
        try:
            with WriteTransaction(connection, self._patience):
                connection.execute(sql.INSERT_LISTENER, names)
        except BaseException:
            _end(presence)
            raise
        self._present[listener_id] = presence
        return listener_id

    def report(
        self,
        connection: sqlite3.Connection,
        listener_id: int,
        report: Report,
        tallies: Sequence[Tally],
    ) -> None:
        """Write down what a listener says of itself, and what has ended in this minute."""
        now_ms = self._clock.wall_ms()
        names = {"id": listener_id, "now_ms": now_ms, **report._asdict()}
        minute = {"minute_ms": now_ms - now_ms % MINUTE_MS, "tallies": json.dumps(tallies)}
        # Not for long: whoever waits here prolongs no lease meanwhile.
        brief = copy(self._patience)
        brief.hurry()
        with WriteTransaction(connection, brief):
            connection.execute(sql.REPORT_LISTENER, names)
            connection.execute(sql.ADD_TO_MINUTE, minute)

    def retire(self, connection: sqlite3.Connection, listener_id: int) -> None:
        """Keep the mark of life, but let its end be no crash."""
        with WriteTransaction(connection, self._patience):
            connection.execute(sql.RETIRE_LISTENER, {"id": listener_id})

    def leave(self, connection: sqlite3.Connection, listener_id: int) -> None:
        """Take the mark of life away, and give back what the listener still holds."""
        try:
            with WriteTransaction(connection, self._patience):
                connection.execute(sql.RELEASE_ALL_OF, {"holder": listener_id})
                connection.execute(sql.DELETE_LISTENER, {"id": listener_id})
        except BaseException:
            # Another program has the lock, say. Its peers do the same when they find this.
            if presence := self._present.get(listener_id):
                presence.stop()
            raise
        _end(self._present.pop(listener_id, None))

    def bury_the_dead(self, call: "Call[list[tuple[int, str, int]]]", free: "Call[int]") -> int:
        """Free what dead listeners held. Returns how many messages that were.

        Args:
            call: runs a function on the writing thread; the locks are tried in this one.
            free: the same.
        """
        if self._path == MEMORY:
            return 0
        rows = call(lambda connection: connection.execute(sql.OTHER_LISTENERS).fetchall())
        freed = 0
        for listener_id, boot, pid in rows:
            if self.has_died(listener_id, boot, pid):
                freed += free(partial(self._free, listener_id=listener_id))
                forget(self._path, listener_id)
        return freed

    def has_died(self, listener_id: int, boot: str, pid: int) -> bool:
        """Whether the process of a listener is dead for sure, from what it said of itself."""
        if self._path == MEMORY or listener_id in self._present:
            return False
        return has_died(self._path, listener_id, boot, pid, self._boot)

    def end_presence(self) -> None:
        """Let go of every lock, when the database is closed."""
        while self._present:
            _end(self._present.popitem()[1])

    def _show(self, listener_id: int) -> Presence | None:
        if self._path == MEMORY:
            return None
        try:
            return Presence(self._path, listener_id)
        except OSError:  # a file system without locks: the lease alone tells
            return None

    def _free(self, connection: sqlite3.Connection, listener_id: int) -> int:
        stopped = has_stopped(self._path, listener_id)
        with WriteTransaction(connection, self._patience):
            if stopped:
                connection.execute(sql.RETIRE_LISTENER, {"id": listener_id})
            return self._undertaker.end_of(connection, listener_id, self._clock.wall_ms())


def has_died(path: str, listener_id: int, boot: str, pid: int, this_boot: str) -> bool:
    """Whether a listener's process is dead for sure, from what it said of itself.

    Args:
        path: of the database, resolved.
        listener_id: whose lock to try.
        boot: the run of the machine on which it was.
        pid: the number of its process.
        this_boot: the run on which we are.
    """
    if boot.removeprefix(_NO_LOCKS) != this_boot:
        return True
    return not boot.startswith(_NO_LOCKS) and is_dead(path, listener_id, pid)


def _end(presence: Presence | None) -> None:
    if presence is not None:
        presence.end()
