"""The key-value table within one transaction, the same for every engine.

What writes look at is read together, changed in memory, and written together: a batch of a
hundred costs as few statements as one, and a write that fails has changed nothing that would
have to be taken back.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

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
from kvqueue_fastapi.store.base import MAX_READ_KEYS


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


class KeyTable(ABC):
    """The key-value table as the writes of one transaction see it.

    Args:
        now_ms: what has expired by then is absent.
    """

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self._seen: Rows = {}
        self._changed: dict[bytes, None] = {}
        self._version: int | None = None
        self._accepted = False

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

    @abstractmethod
    def _read(self, keys: Iterable[bytes]) -> None:
        """Note in `_seen` what is stored under these keys."""

    @abstractmethod
    def _stored_version(self) -> int:
        """That of the last commit that had one."""

    def _last_version(self) -> int:
        if self._version is None:
            self._version = self._stored_version()
        return self._version


def stored(row: Sequence[Any], now_ms: int) -> Stored:
    """A key as a reader finds it."""
    key, value, encoding, version, expires_at_ms = row
    expires_in_ms = None if expires_at_ms is None else expires_at_ms - now_ms
    return Stored(key, value, encoding, version, expires_in_ms)


def looked_at(write: AtomicWrite) -> Iterator[bytes]:
    """The keys on which it depends what a write does."""
    for check in write.checks:
        yield check.key
    for mutation in write.mutations:
        if isinstance(mutation, KvArithmetic):
            yield mutation.key


def grouped(requests: Sequence[Sequence[bytes]]) -> Iterator[list[Sequence[bytes]]]:
    """Reads that were gathered, in groups of which each is done by one statement."""
    group: list[Sequence[bytes]] = []
    size = 0
    for keys in requests:
        if size + len(keys) > MAX_READ_KEYS:
            yield group
            group, size = [], 0
        group.append(keys)
        size += len(keys)
    yield group
