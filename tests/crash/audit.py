"""What happened to each row: written by triggers, in the very transactions that did it.

The store knows nothing of it. The rows are in the order of the commits.
"""

import contextlib
import sqlite3
from pathlib import Path
from typing import Final, NamedTuple, Protocol

_NOW: Final = "(julianday('now') - 2440587.5) * 86400.0"
_COLUMNS: Final = "event, at, id, attempt, holder, crashes, lane, due"
_TRIGGERS: Final = f"""
CREATE TABLE crash_audit (
    position INTEGER PRIMARY KEY, event TEXT, at REAL, id INTEGER, attempt INTEGER,
    holder INTEGER, crashes INTEGER, lane TEXT, due REAL);
CREATE TRIGGER crash_stored AFTER INSERT ON kvqueue_messages BEGIN
    INSERT INTO crash_audit ({_COLUMNS})
    VALUES ('stored', {_NOW}, NEW.id, 0, 0, 0, NEW.ordering_key, NEW.due_at_ms / 1000.0);
END;
CREATE TRIGGER crash_claimed AFTER UPDATE OF state ON kvqueue_messages WHEN NEW.state = 3 BEGIN
    INSERT INTO crash_audit ({_COLUMNS})
    VALUES ('claimed', {_NOW}, NEW.id, NEW.attempt, NEW.holder, NEW.crashes, NEW.ordering_key,
            OLD.due_at_ms / 1000.0);
END;
CREATE TRIGGER crash_freed AFTER UPDATE OF state ON kvqueue_messages
WHEN OLD.state = 3 AND NEW.state <> 3 BEGIN
    INSERT INTO crash_audit ({_COLUMNS})
    VALUES (iif(NEW.crashes > OLD.crashes, 'taken away', 'put back'), {_NOW}, OLD.id, OLD.attempt,
            OLD.holder, NEW.crashes, OLD.ordering_key, NEW.due_at_ms / 1000.0);
END;
CREATE TRIGGER crash_removed AFTER DELETE ON kvqueue_messages BEGIN
    INSERT INTO crash_audit ({_COLUMNS})
    VALUES ('removed', {_NOW}, OLD.id, OLD.attempt, OLD.holder, OLD.crashes, OLD.ordering_key, 0);
END;
CREATE TRIGGER crash_listening AFTER INSERT ON kvqueue_listeners BEGIN
    INSERT INTO crash_audit ({_COLUMNS})
    VALUES ('listening', {_NOW}, NEW.pid, 0, NEW.id, 0, NULL, 0);
END;
CREATE TRIGGER crash_left AFTER DELETE ON kvqueue_listeners BEGIN
    INSERT INTO crash_audit ({_COLUMNS}) VALUES ('left', {_NOW}, OLD.pid, 0, OLD.id, 0, NULL, 0);
END;
"""


class Entry(NamedTuple):
    """One change of one row.

    Attributes:
        event: of a message: "stored", "claimed", "put back", "taken away" (from a holder that
            was seen dead or silent), "removed"; of a listener: "listening", "left".
        at: seconds since 1970, in whole milliseconds.
        id: the message; of a listener, its process.
        holder: the listener that held the message until then, or that claims it.
        due: before when it must not be claimed.
    """

    event: str
    at: float
    id: int
    attempt: int
    holder: int
    crashes: int
    lane: str | None
    due: float


class DeadLetter(NamedTuple):
    """What the store keeps of a message that was given up."""

    id: int
    reason: str
    crashes: int
    key: str
    undelivered: bool


class Remains(NamedTuple):
    """What a database holds at the end.

    Attributes:
        entries: in the order of the commits.
        waiting: ids of messages that are neither handled nor dead letters.
        effects: what the counter says that handlers added to by `message.atomic()`.
        integrity: "ok", or what SQLite finds wrong.
    """

    entries: list[Entry]
    dead_letters: list[DeadLetter]
    waiting: list[int]
    effects: int
    integrity: str


class Database(Protocol):
    """What is under fire."""

    @property
    def url(self) -> str:
        """Of the database itself, whatever is between it and others."""
        ...

    def install(self) -> None:
        """Watch a database that has its schema."""
        ...

    def holding(self) -> list[int]:
        """The processes that have messages in hand."""
        ...

    def waiting(self) -> bool:
        """Whether there are messages that are no dead letters."""
        ...

    def happened(self) -> int:
        """How much has happened by now."""
        ...

    def is_locked_by(self, pid: int, for_s: float) -> bool:
        """Whether a process that stands still has held a lock for so long."""
        ...

    def read(self) -> Remains:
        """What is there when all processes have ended."""
        ...


class SqliteDatabase:
    """A file."""

    def __init__(self, path: Path) -> None:
        self.url = str(path)

    def install(self) -> None:
        with self._connected() as connection:
            connection.executescript(_TRIGGERS)

    def holding(self) -> list[int]:
        with self._connected() as connection:
            return [
                row[0]
                for row in connection.execute(
                    "SELECT pid FROM kvqueue_listeners AS listener WHERE EXISTS (SELECT 1"
                    " FROM kvqueue_messages WHERE state = 3 AND holder = listener.id)"
                )
            ]

    def waiting(self) -> bool:
        with self._connected() as connection:
            found = connection.execute("SELECT 1 FROM kvqueue_messages LIMIT 1").fetchone()
            return found is not None

    def happened(self) -> int:
        with self._connected() as connection:
            last = connection.execute("SELECT max(position) FROM crash_audit").fetchone()[0]
            return last or 0

    def is_locked_by(self, pid: int, for_s: float) -> bool:
        with self._connected(timeout_s=for_s) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
        return False

    def read(self) -> Remains:
        with self._connected() as connection:
            entries = connection.execute(f"SELECT {_COLUMNS} FROM crash_audit ORDER BY position")
            dead_letters = connection.execute(
                "SELECT id, reason, crashes, data ->> 'key', EXISTS (SELECT 1 FROM kvqueue_kv"
                " WHERE iif(encoding = 1, json(value) ->> '$.data.key', '') = dead.data ->> 'key') "
                "FROM kvqueue_dead_letters AS dead"
            )
            effects = connection.execute(
                "SELECT value FROM kvqueue_kv WHERE encoding = 2"
            ).fetchone()
            return Remains(
                [Entry(*row) for row in entries],
                [DeadLetter(*row) for row in dead_letters],
                [row[0] for row in connection.execute("SELECT id FROM kvqueue_messages")],
                int.from_bytes(effects[0], "little") if effects else 0,
                connection.execute("PRAGMA integrity_check").fetchone()[0],
            )

    def _connected(self, timeout_s: float = 10) -> contextlib.closing[sqlite3.Connection]:
        return contextlib.closing(sqlite3.connect(self.url, timeout=timeout_s))
