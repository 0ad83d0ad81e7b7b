"""The key-value table of this engine."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from kvqueue_fastapi.errors import StoreError
from kvqueue_fastapi.model import AtomicWrite, Mutation
from kvqueue_fastapi.store.key_table import KeyTable, Row, looked_at
from kvqueue_fastapi.store.sqlite import statements as sql
from kvqueue_fastapi.store.sqlite.schema import the_row

_MAX_VERSION: Final = (1 << 63) - 1_000_000
"""So that those of a whole batch fit."""


class Keys(KeyTable):
    """The key-value table as the writes of one transaction see it.

    Args:
        connection: within a transaction.
        now_ms: what has expired by then is absent.
    """

    def __init__(self, connection: sqlite3.Connection, now_ms: int) -> None:
        super().__init__(now_ms)
        self._connection = connection

    def read_for(self, writes: Iterable[AtomicWrite]) -> None:
        """Read at once what these writes will look at."""
        wanted = {key for write in writes for key in looked_at(write)}
        if wanted:
            self._read(wanted - self._seen.keys())

    def flush(self) -> None:
        """Write down what was accepted, and forget what was seen."""
        if self._changed:
            self._write_changed()
        if self._accepted:
            self._connection.execute(sql.SET_LAST_VERSION, {"version": self._version})
        self._seen, self._changed = {}, {}
        self._version, self._accepted = None, False

    def _stored_version(self) -> int:
        row = the_row(self._connection.execute(sql.LAST_VERSION).fetchone())
        return _checked_version(int(row[0]))

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


def _checked_version(version: int) -> int:
    if 0 <= version < _MAX_VERSION:
        return version
    msg = (
        f"kv_version in kvqueue_schema is {version}, allowed is 0 to {_MAX_VERSION - 1}: another "
        "program wrote it. Set it to the largest version in kvqueue_kv."
    )
    raise StoreError(msg)
