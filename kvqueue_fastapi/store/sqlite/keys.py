"""The key-value table within one transaction: read together, changed in memory, written together.

A batch of a hundred writes costs as few steps of SQLite as one write, and a write that fails
has changed nothing that would have to be taken back.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from kvqueue_fastapi.errors import StoreError
from kvqueue_fastapi.keys import with_versionstamp
from kvqueue_fastapi.model import (
    AtomicWrite,
    Check,
    KvArithmetic,
    KvDelete,
    KvSet,
    Mutation,
    Stored,
)
from kvqueue_fastapi.store.arithmetic import combined
from kvqueue_fastapi.store.sqlite import statements as sql
from kvqueue_fastapi.store.sqlite.schema import the_row

_MAX_VERSION: Final = (1 << 63) - 1_000_000
"""So that those of a whole batch fit."""


class Row(NamedTuple):
    """What is stored under a key."""

    value: bytes
    encoding: int
    version: int
    expires_at_ms: int | None


Rows = dict[bytes, Row | None]
"""By key; None: it is absent."""


class Changes(NamedTuple):
    """What a write will do to the table.

    Attributes:
        rows: what its keys become.
        version: of the write; None: it has none.
    """

    rows: Rows
    version: int | None


class Keys:
    """The key-value table as the writes of one transaction see it.

    Args:
        connection: within a transaction.
        now_ms: what has expired by then is absent.
    """

    def __init__(self, connection: sqlite3.Connection, now_ms: int) -> None:
        self._connection = connection
        self._now_ms = now_ms
        self._seen: Rows = {}
        self._changed: dict[bytes, None] = {}
        self._version: int | None = None
        self._accepted = False

    def read_for(self, writes: Iterable[AtomicWrite]) -> None:
        """Read at once what these writes will look at."""
        looked_at = {key for write in writes for key in _looked_at(write)}
        if looked_at:
            self._read(looked_at - self._seen.keys())

    def plan(self, write: AtomicWrite) -> Changes | None:
        """Find what a write will do, without doing it. None: a check failed.

        Raises:
            KvQueueError: its arithmetic cannot be done.
        """
        if not all(map(self._holds, write.checks)):
            return None
        if not write.mutations and not write.versioned:
            return Changes({}, None)
        version = self._last_version() + 1
        rows: Rows = {}
        for mutation in write.mutations:
            self._mutate(rows, mutation, version)
        return Changes(rows, version)

    def accept(self, changes: Changes) -> None:
        """Let the writes that follow see what this one does."""
        if changes.version is None:
            return
        self._version = changes.version
        self._seen.update(changes.rows)
        self._changed.update(dict.fromkeys(changes.rows))
        self._accepted = True

    def flush(self) -> None:
        """Write down what was accepted, and forget what was seen."""
        if self._changed:
            self._write_changed()
        if self._accepted:
            self._connection.execute(sql.SET_LAST_VERSION, {"version": self._version})
        self._seen, self._changed = {}, {}
        self._version, self._accepted = None, False

    def _mutate(self, rows: Rows, mutation: Mutation, version: int) -> None:
        if isinstance(mutation, KvDelete):
            rows[mutation.key] = None
        elif isinstance(mutation, KvSet):
            key, expires_at_ms = mutation.key, None
            if mutation.versionstamped:
                key = with_versionstamp(key, version)
            if mutation.expire_in_ms is not None:
                expires_at_ms = self._now_ms + mutation.expire_in_ms
            rows[key] = Row(mutation.value, mutation.encoding, version, expires_at_ms)
        else:
            key = mutation.key
            before = rows[key] if key in rows else self._row(key)
            number = before[:2] if before is not None and self._is_live(before) else None
            value, encoding = combined(number, mutation)
            rows[key] = Row(value, encoding, version, None)

    def _holds(self, check: Check) -> bool:
        row = self._row(check.key)
        return (None if row is None else row.version) == check.version

    def _row(self, key: bytes) -> Row | None:
        if key not in self._seen:
            self._read([key])
        row = self._seen[key]
        return row if row is not None and self._is_live(row) else None

    def _is_live(self, row: Row) -> bool:
        return row.expires_at_ms is None or row.expires_at_ms > self._now_ms

    def _last_version(self) -> int:
        if self._version is None:
            row = the_row(self._connection.execute(sql.LAST_VERSION).fetchone())
            self._version = _checked_version(int(row[0]))
        return self._version

    def _read(self, keys: Iterable[bytes]) -> None:
        wanted = list(keys)
        self._seen.update(dict.fromkeys(wanted))
        for part, statement in in_parts(wanted, sql.READ_KEYS):
            for key, *fields in self._connection.execute(statement, part):
                self._seen[key] = Row(*fields)

    def _write_changed(self) -> None:
        gone = [key for key in self._changed if self._seen[key] is None]
        for part, statement in in_parts(gone, sql.DELETE_KEYS):
            self._connection.execute(statement, part)
        there = [(key, row) for key in self._changed if (row := self._seen[key]) is not None]
        done = 0
        for size in sql.INSERT_SIZES:
            while len(there) - done >= size:
                values = [value for key, row in there[done : done + size] for value in (key, *row)]
                self._connection.execute(sql.SET_KEYS[size], values)
                done += size
        # More than came, so that what has expired never piles up.
        expiring = sum(row.expires_at_ms is not None for _, row in there)
        names = {"now_ms": self._now_ms, "slice": 2 * expiring + 2}
        self._connection.execute(sql.SWEEP_KEYS, names)


def write_keys(connection: sqlite3.Connection, mutations: Sequence[Mutation], now_ms: int) -> None:
    """Apply mutations that cannot fail, as one write of its own."""
    if not mutations:
        return
    keys = Keys(connection, now_ms)
    changes = keys.plan(AtomicWrite(mutations=mutations))
    if changes is not None:
        keys.accept(changes)
    keys.flush()


def in_parts(
    keys: Sequence[bytes], statements: dict[int, str]
) -> Iterator[tuple[list[bytes], str]]:
    """Divide keys among prepared statements, the last of them filled up with its last key."""
    largest = max(statements)
    for start in range(0, len(keys), largest):
        part = list(keys[start : start + largest])
        size = next(size for size in sorted(statements) if size >= len(part))
        yield part + part[-1:] * (size - len(part)), statements[size]


def stored(row: Sequence[Any], now_ms: int) -> Stored:
    """A key as a reader finds it."""
    key, value, encoding, version, expires_at_ms = row
    expires_in_ms = None if expires_at_ms is None else expires_at_ms - now_ms
    return Stored(key, value, encoding, version, expires_in_ms)


def _checked_version(version: int) -> int:
    if 0 <= version < _MAX_VERSION:
        return version
    msg = (
        f"kv_version in kvqueue_schema is {version}, allowed is 0 to {_MAX_VERSION - 1}: another "
        "program wrote it. Set it to the largest version in kvqueue_kv."
    )
    raise StoreError(msg)


def _looked_at(write: AtomicWrite) -> Iterator[bytes]:
    for check in write.checks:
        yield check.key
    for mutation in write.mutations:
        if isinstance(mutation, KvArithmetic):
            yield mutation.key
