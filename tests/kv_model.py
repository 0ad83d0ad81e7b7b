"""The rules of `Kv` in plain Python: what it promises, and nothing of how it does it.

A store is a sequence of states. A commit that succeeds makes a new one of the last, and so does
time that passes. A read shows one state as a whole, and a commit is judged by one.

`True`, `1` and `1.0` are one value to Python and three to `Kv`, hence all is compared as text.
"""

import json
import math
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple, Protocol

from pydantic import TypeAdapter

from kvqueue_fastapi import KvEntry, KvListEntry, KvU64
from kvqueue_fastapi.errors import PayloadError
from kvqueue_fastapi.keys import Key, KeyPart, encode_key

Duration = float | timedelta

LARGEST_BATCH = 1_000


class Row(NamedTuple):
    """What was written under a key; here it stays when it has expired."""

    key: tuple[KeyPart, ...]
    value: Any
    versionstamp: str
    expires_at_ms: int | None


class Waiting(NamedTuple):
    """A message that nobody took yet."""

    id: int
    type: str
    data: str
    due_at_ms: int


class Remembered(NamedTuple):
    """The message of an idempotency key, until the window ends."""

    message_id: int
    body: str
    until_ms: int


class Range(NamedTuple):
    """A selector of keys: behind a prefix, from a start on, before an end."""

    prefix: Key | None = None
    start: Key | None = None
    end: Key | None = None

    def holds(self, key: Key) -> bool:
        at = encode_key(key)
        return (
            (self.prefix is None or begins_with(key, self.prefix))
            and (self.start is None or at >= encode_key(self.start))
            and (self.end is None or at < encode_key(self.end))
        )


EVERYTHING = Range(prefix=())


class ListOptions(NamedTuple):
    """How a range is listed.

    Attributes:
        behind: the encoded key that came last, where a list is resumed.
    """

    range: Range
    reverse: bool = False
    limit: int | None = None
    batch_size: int | None = LARGEST_BATCH
    behind: bytes | None = None


@dataclass
class State:
    """All that a store holds at one moment.

    Attributes:
        window_ms: for how long an idempotency key is remembered.
        rows: by encoded key, which is how keys are ordered.
        messages: by id.
        once: by type and idempotency key.
        versionstamp: of the last commit.
        sent: the ids that this one gave its messages, in their order.
    """

    now_ms: int
    window_ms: int
    rows: dict[bytes, Row] = field(default_factory=dict)
    messages: dict[int, Waiting] = field(default_factory=dict)
    once: dict[tuple[str, str], Remembered] = field(default_factory=dict)
    versionstamp: str = "0" * 20
    sent: list[int] = field(default_factory=list)

    # --- reads -------------------------------------------------------------------------------

    def row(self, key: Key) -> Row | None:
        """What is there: what has expired is as absent as what never was."""
        row = self.rows.get(encode_key(key))
        return row if row is not None and self._is_live(row) else None

    def entry(self, key: Key, kind: Any = None) -> KvEntry[Any]:
        row = self.row(key)
        if row is None:
            return KvEntry(tuple(key), None, None)
        return KvEntry(tuple(key), read_as(row.value, kind), row.versionstamp)

    def told(self, keys: Iterable[Key], kind: Any = None) -> list[str]:
        return told(self.entry(key, kind) for key in keys)

    def listed(self, how: ListOptions) -> list[Row]:
        """What a range holds, in the order of the list."""
        found = [
            at for at, row in self.rows.items() if self._is_live(row) and how.range.holds(row.key)
        ]
        if how.behind is not None:
            found = [at for at in found if (at < how.behind if how.reverse else at > how.behind)]
        return [self.rows[at] for at in sorted(found, reverse=how.reverse)][: how.limit]

    @property
    def next_expiry_s(self) -> float:
        """How long until something expires; 0: nothing will."""
        live = [row.expires_at_ms for row in self.rows.values() if self._is_live(row)]
        ends_ms = [at_ms for at_ms in live if at_ms is not None]
        return (min(ends_ms, default=self.now_ms) - self.now_ms) / 1000

    # --- changes, while a commit is made -----------------------------------------------------

    def begun(self, versionstamp: str) -> "State":
        """One to be changed by the commit that has this versionstamp."""
        rows, messages, once = dict(self.rows), dict(self.messages), dict(self.once)
        return State(self.now_ms, self.window_ms, rows, messages, once, versionstamp)

    def put(self, key: Key, value: Any, expire_in: Duration | None = None) -> None:
        """Write a row. Its expiry is its own: nothing is left of the one before it."""
        at_ms = None if expire_in is None else self.now_ms + milliseconds(expire_in)
        self.rows[encode_key(key)] = Row(tuple(key), value, self.versionstamp, at_ms)

    def send(self, message_id: int, kind: str, data: Any, delay: Duration | None) -> None:
        due_at_ms = self.now_ms + milliseconds(delay or 0)
        self.messages[message_id] = Waiting(message_id, kind, repr(kept(data)), due_at_ms)
        self.sent.append(message_id)

    def _is_live(self, row: Row) -> bool:
        return row.expires_at_ms is None or row.expires_at_ms > self.now_ms


class Change(Protocol):
    """What can be committed."""

    def after(self, state: State, versionstamp: str, new_ids: Iterator[int]) -> State: ...


class KvModel:
    """The states of a store, from its making on."""

    def __init__(self, now_ms: int, window_ms: int) -> None:
        self.states = [State(now_ms, window_ms)]

    @property
    def now(self) -> State:
        return self.states[-1]

    def since(self, versionstamp: str) -> list[State]:
        """What somebody may see who was told of this commit."""
        return [state for state in self.states if state.versionstamp >= versionstamp]

    def commit(self, change: Change, versionstamp: str, message_ids: Iterable[int]) -> None:
        """Take in a commit that succeeded, the next after the last."""
        new_ids = dict.fromkeys(one for one in message_ids if one not in self.now.messages)
        self.states.append(change.after(self.now, versionstamp, iter(new_ids)))

    def pass_time(self, now_ms: int) -> None:
        self.states.append(replace(self.now, now_ms=now_ms))

    def list(self, how: ListOptions) -> Generator[Row]:
        """A list: each batch is of the moment at which its first entry is asked for.

        A batch that is not full is the last one.
        """
        size, left, behind = how.batch_size or min(how.limit or 100, 500), how.limit, how.behind
        while left is None or left > 0:
            room = size if left is None else min(size, left)
            batch = self.now.listed(how._replace(limit=room, behind=behind))
            yield from batch
            if len(batch) < room:
                return
            behind = encode_key(batch[-1].key)
            left = None if left is None else left - room


# --- what becomes of values --------------------------------------------------------------------


def kept(value: Any) -> Any:
    """What is read back of a value: itself, or what JSON makes of it."""
    if isinstance(value, bytes | KvU64):
        return value
    return json.loads(json.dumps(value, default=asdict))


def read_as(value: Any, kind: Any) -> Any:
    """What is read back as a type: pydantic is the judge; a counter is also an int."""
    if kind is None or (kind is KvU64 and isinstance(value, KvU64)):
        return value
    try:
        match value:
            case KvU64(number):
                return adapter(kind).validate_python(number)
            case bytes():
                return adapter(kind).validate_python(value)
            case _:
                return adapter(kind).validate_json(json.dumps(value))
    except ValueError as error:
        raise PayloadError from error


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def milliseconds(duration: Duration) -> int:
    """Whole ones, rounded up: nothing comes or expires early."""
    if not isinstance(duration, timedelta):
        duration = timedelta(seconds=duration)
    return math.ceil(duration / timedelta(milliseconds=1))


# --- what is compared --------------------------------------------------------------------------


def begins_with(key: Key, prefix: Key) -> bool:
    """Whether it has these parts, and more."""
    size = len(prefix)
    return len(key) > size and encode_key(key[:size]) == encode_key(prefix)


def list_entry(row: Row) -> KvListEntry[Any]:
    return KvListEntry(row.key, row.value, row.versionstamp)


def told(entries: Iterable[KvEntry[Any]]) -> list[str]:
    return [repr(entry) for entry in entries]
