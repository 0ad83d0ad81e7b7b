"""What clients, handlers and the killer did: an append-only file outside the store."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Line(NamedTuple):
    """One thing that happened.

    Attributes:
        event: of a client: "sending", "sent", "unsure"; of a handler: "begun", "committing",
            "ended", "failed", "cancelled", "dying"; of the killer: the name of its fault,
            such as "cut off" of a process that reaches no server, "outage" where none does.
        at: seconds since 1970.
        pid: whose doing it was; of a fault, its victim.
        id: the message.
        attempt: of the message.
        key: the client's own name of the message.
        kind: what the message asks of its handler.
        lane: its ordering key.
        due: before when it must not begin.
        until: when a fault was over, or when its signal had surely arrived.
    """

    event: str
    at: float
    pid: int
    id: int = 0
    attempt: int = 0
    key: str = ""
    kind: str = ""
    lane: str = ""
    due: float = 0
    until: float = 0


class Ledger:
    """Appends lines, each in one write that is on disk when `note` returns."""

    def __init__(self, path: Path | str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, event: str, **fields: Any) -> None:
        line = {"event": event, "at": time.time(), "pid": os.getpid(), **fields}
        os.write(self._file, (json.dumps(line) + "\n").encode())
        os.fdatasync(self._file)


def read(path: Path) -> Iterator[Line]:
    """All lines, in the order in which they were written."""
    with path.open("rb") as file:
        for line in file:
            yield Line(**json.loads(line))
