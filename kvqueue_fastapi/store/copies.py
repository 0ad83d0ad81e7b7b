"""What a copy carries from one engine to another: whole rows, and word of how far it came."""

import json
from typing import Any, Final, NamedTuple, Protocol

from kvqueue_fastapi.errors import StoreError, shown

Row = tuple[Any, ...]
"""The columns of a `Table`: int, str, bytes and None only, the same for every engine."""

SLICE_ROWS: Final = 2_000
"""Rows to a transaction, at the most."""
SLICE_BYTES: Final = 4 * 1024 * 1024
"""A slice ends with the row that goes beyond, so that large payloads pile up no memory."""


class Table(NamedTuple):
    """A table as a copy sees it.

    Attributes:
        name: the same in every engine.
        row: what one row of it is called.
        columns: of a `Row`; those of the primary key come first.
        least: the smallest primary key that there may be.
        large: the places of the columns that may be large.
    """

    name: str
    row: str
    columns: tuple[str, ...]
    least: Row
    large: tuple[int, ...] = ()

    def key_of(self, row: Row) -> Row:
        """Its primary key, by which a table is read in order."""
        return row[: len(self.least)]

    def named(self, key: Row) -> str:
        """A row by its primary key, as an error names it."""
        return f"{self.row} {shown(key[0] if len(key) == 1 else key, 300)}"


_LEAST_ID: Final = -(1 << 63)
_COMMON: Final = ("id", "type", "data")

MESSAGES: Final = Table(
    "kvqueue_messages",
    "message",
    (
        *_COMMON,
        "state",
        "lane",
        "priority",
        "due_at_ms",
        "sent_at_ms",
        "attempt",
        "crashes",
        "deferrals",
        "ordering_key",
        "options",
        "errors",
        "requeued_from",
    ),
    (_LEAST_ID,),
    (2, 13),
)
DEAD_LETTERS: Final = Table(
    "kvqueue_dead_letters",
    "dead letter",
    (
        *_COMMON,
        "priority",
        "sent_at_ms",
        "died_at_ms",
        "attempt",
        "crashes",
        "ordering_key",
        "options",
        "errors",
        "reason",
        "requeued_from",
    ),
    (_LEAST_ID,),
    (2, 10, 11),
)
KEYS: Final = Table(
    "kvqueue_kv", "key", ("key", "value", "encoding", "version", "expires_at_ms"), (b"",), (1,)
)
TYPES: Final = Table("kvqueue_types", "type", ("type", "paused", "first_seen_at_ms"), ("",))
IDEMPOTENCY: Final = Table(
    "kvqueue_idempotency",
    "idempotency key",
    ("type", "key", "message_id", "digest", "expires_at_ms"),
    ("", ""),
)
TABLES: Final = (TYPES, KEYS, IDEMPOTENCY, DEAD_LETTERS, MESSAGES)
"""In the order in which they are copied. Listeners stay: they belong to processes."""


class Inventory(NamedTuple):
    """What there is in a store.

    Attributes:
        database_id: what names it, whatever its URL.
        mark: a `Mark` as text, while it is the target of an unfinished copy.
        counts: of rows, by the name of the table.
        next_id: no message will get a smaller id.
        has_given_ids: whether any message ever had one.
        last_version: that of the last commit that had one.
    """

    database_id: str
    mark: str | None
    counts: dict[str, int]
    next_id: int
    has_given_ids: bool
    last_version: int


class Mark(NamedTuple):
    """How far a copy came, kept in its target while nobody else may use that.

    Attributes:
        source_id: the source's `database_id`.
        source: its URL, without a password.
        table: whose rows were copied last, behind all of those before it; None: none yet.
        key: of the last of them.
    """

    source_id: str
    source: str
    table: str | None = None
    key: Row | None = None

    def as_text(self) -> str:
        """As it is stored: JSON, bytes as {"hex": …}."""
        key = self.key and [
            one if not isinstance(one, bytes) else {"hex": one.hex()} for one in self.key
        ]
        return json.dumps({**self._asdict(), "key": key})

    @classmethod
    def from_text(cls, text: str) -> "Mark":
        """What `as_text` gave."""
        fields = json.loads(text)
        if fields["key"] is not None:
            fields["key"] = tuple(
                bytes.fromhex(one["hex"]) if isinstance(one, dict) else one for one in fields["key"]
            )
        return cls(**fields)


class CopySource(Protocol):
    """A store whose rows are read as they are; nothing in it changes.

    Attributes:
        url: as errors show it.
    """

    url: str

    async def inventory(self) -> Inventory:
        """Look what there is.

        Raises:
            StoreError: it is no store, or one of another schema than this code can copy.
        """
        ...

    async def live_listeners(self) -> list[str]:
        """The processes that listen now, in words."""
        ...

    async def read(self, table: Table, after: Row | None, limit: int) -> list[Row]:
        """The rows behind a primary key, in its order; fewer than `limit` if they are large.

        What a listener holds that is dead comes as claimed, with a lease that is over; what one
        holds that had stopped in good order as given back.

        Args:
            table: of which.
            after: None: from the beginning.
            limit: at most so many.

        Returns: [] behind the last one.
        """
        ...

    async def close(self) -> None:
        """Let go of what this opened."""
        ...


class CopyTarget(CopySource, Protocol):
    """A store that takes whole rows. Each write is one transaction."""

    emptying: str
    """What makes it empty, in words."""

    async def mark(self, before: Mark | None, after: Mark | None) -> None:
        """Set or take away the mark that keeps others out.

        Raises:
            StoreError: there is another mark than `before`.
        """
        ...

    async def raise_counters(self, next_id: int, last_version: int) -> None:
        """Let ids and versions that are given from now on be larger than those of the source."""
        ...

    async def write(self, table: Table, rows: list[Row], before: Mark, after: Mark) -> None:
        """Store rows, and move the mark. Rows that are there already stay as they are.

        Raises:
            StoreError: there is another mark than `before`, or a row that this engine cannot
                store, which the error names.
        """
        ...


def unfinished(url: str, mark: str, emptying: str) -> StoreError:
    """What opening a store raises that was copied in part."""
    source = Mark.from_text(mark).source
    return StoreError(
        f"{url} holds an unfinished copy of {source}, which nothing may use. Run copy_store, "
        "or `kvqueue copy SOURCE TARGET`, with the same source and target again, which goes on "
        f"where it ended; or empty it: {emptying}."
    )


def other_mark(url: str) -> StoreError:
    """What a copy raises that finds another one's mark."""
    return StoreError(
        f"Another copy into {url} runs at this moment. Wait for its end, or end it; then copy "
        "again."
    )


def described(host: str, pid: int, since: str, listener_id: int) -> str:
    """A listener in words."""
    return f"process {pid} on {host}, since {since} UTC (kvqueue_listeners.id {listener_id})"
