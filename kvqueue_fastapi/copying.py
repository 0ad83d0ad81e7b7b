"""Copies a whole store into another one, of whatever engine."""

import hashlib
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal

from kvqueue_fastapi.errors import InvalidOptionError, StoreError, shown
from kvqueue_fastapi.kv import Kv
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import open_copy_source, open_copy_target
from kvqueue_fastapi.store.comparison import Digest, digest_of, first_difference
from kvqueue_fastapi.store.copies import (
    DEAD_LETTERS,
    IDEMPOTENCY,
    KEYS,
    MESSAGES,
    SLICE_ROWS,
    TABLES,
    TYPES,
    CopySource,
    CopyTarget,
    Inventory,
    Mark,
    Table,
)

_MEMORY: Final = (":memory:", "sqlite:///:memory:")


@dataclass(frozen=True, slots=True)
class StoreCopy:
    """What a finished copy has in its target, as it was read there.

    Attributes:
        messages: waiting ones; those in the hands of dead processes among them.
        dead_letters: what was given up.
        keys: of the key-value store, expired ones that nobody has removed yet among them.
        idempotency_keys: that are remembered.
        types: that were ever sent or paused.
        digest: SHA-256 of all their rows, the same of the source and of the target.
    """

    messages: int
    dead_letters: int
    keys: int
    idempotency_keys: int
    types: int
    digest: str


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """How far a copy is.

    Attributes:
        step: "copy", then "check".
        table: of the database.
        rows: of it that are done.
        total: that there were when the copy began.
    """

    step: Literal["copy", "check"]
    table: str
    rows: int
    total: int


Progress = Callable[[CopyProgress], None]


async def copy_store(
    source: str | Kv,
    target: str,
    *,
    settings: KvQueueSettings | None = None,
    source_settings: KvQueueSettings | None = None,
    progress: Progress | None = None,
) -> StoreCopy:
    """Copy all that a store holds into another one, and check that it is there.

    That is messages, with their ids, attempts, errors, order and due times; dead letters; keys
    with their versionstamps and expiry; idempotency keys; paused types. In the target ids and
    versionstamps go on behind the last of the source. Listeners are left out. A message that a
    dead process had in hand counts a crash in the target, as it would have in the source.

    Stop whatever uses the source or the target before. Nothing changes in the source. The target
    must be new, or hold an unfinished copy of the same source: a copy that was killed, or that
    failed, goes on where it ended when it is run again. Until it is whole and checked, nothing
    else can open the target.

    Args:
        source: a URL as of `KvQueueModule`, or an open `Kv`: a store in memory has no URL.
        target: a URL; not ":memory:", which would end with the copy.
        settings: of the target, such as `postgres_schema`; None: `KvQueueSettings()`, which reads
            `KVQUEUE_…` from the environment. No URL is taken from them.
        source_settings: of the source; None: `settings`.
        progress: is told how far it is after each 2,000 rows or 4 MiB. What it raises ends the
            copy, which can be run again.

    Raises:
        InvalidOptionError: a URL names no engine, or ":memory:".
        StoreError: a process listens on one of them; the source is no store, or an unfinished
            copy itself; the target holds something else; a row that another program has written
            cannot be stored there; the source was changed meanwhile; or a database failed. The
            error says what to do.
    """
    chosen = settings or KvQueueSettings()
    _require_url(target, "target", "Give a path, or a postgresql:// URL.")
    async with _reading(source, source_settings or chosen) as origin:
        held = await _held(origin)
        destination = await open_copy_target(target, chosen)
        try:
            return await _Copy(origin, held, destination, progress).run()
        finally:
            await destination.close()


@asynccontextmanager
async def _reading(source: str | Kv, settings: KvQueueSettings) -> AsyncGenerator[CopySource]:
    if isinstance(source, Kv):
        yield source.to_copy()
        return
    _require_url(
        source,
        "source",
        "A store in memory is known to its own process alone: give copy_store the open Kv instead.",
    )
    origin = await open_copy_source(source, settings)
    try:
        yield origin
    finally:
        await origin.close()


def _require_url(url: object, name: str, remedy: str) -> None:
    if not isinstance(url, str) or url in _MEMORY:
        msg = f"The {name} is {shown(url)}, allowed is the URL of a store that lasts. {remedy}"
        raise InvalidOptionError(msg)


async def _held(origin: CopySource) -> Inventory:
    """What there is in the source, if it can be copied now."""
    held = await origin.inventory()
    if held.mark is not None:
        first = Mark.from_text(held.mark).source
        msg = (
            f"The source {origin.url} holds an unfinished copy of {first}. Finish that one, or "
            "copy from there."
        )
        raise StoreError(msg)
    await _require_idle(origin)
    return held


async def _require_idle(side: CopySource) -> None:
    live = await side.live_listeners()
    if live:
        msg = (
            f"{side.url} is in use by {'; '.join(live)}. Stop every app and worker on it, then "
            "copy. If no such process runs any more, remove its row from kvqueue_listeners."
        )
        raise StoreError(msg)


class _Copy:
    """One copy, from its mark to its check.

    Args:
        source: to read.
        held: what it holds.
        target: to write.
        progress: whom to tell.
    """

    def __init__(
        self, source: CopySource, held: Inventory, target: CopyTarget, progress: Progress | None
    ) -> None:
        self._source = source
        self._held = held
        self._target = target
        self._progress = progress
        self._there: Mapping[str, int] = {}

    async def run(self) -> StoreCopy:
        """Copy, check, and hand the target out."""
        mark = await self._begin()
        # Again each time, because a counter of PostgreSQL moves without its transaction.
        await self._target.raise_counters(self._held.next_id, self._held.last_version)
        for table in _from_table(mark.table):
            mark = await self._copy(table, mark)
        digests = {table: await self._check(table) for table in TABLES}
        await self._require_unchanged()
        await self._target.mark(mark, None)
        return StoreCopy(
            messages=digests[MESSAGES].count,
            dead_letters=digests[DEAD_LETTERS].count,
            keys=digests[KEYS].count,
            idempotency_keys=digests[IDEMPOTENCY].count,
            types=digests[TYPES].count,
            digest=hashlib.sha256(b"".join(one.value for one in digests.values())).hexdigest(),
        )

    async def _begin(self) -> Mark:
        """Mark the target as that of this copy, or find the mark of an earlier run."""
        await _require_idle(self._target)
        found = await self._target.inventory()
        self._there = found.counts
        if found.database_id == self._held.database_id:
            msg = (
                f"{self._target.url} is the source itself, or a copy of its file. Give another "
                "target."
            )
            raise StoreError(msg)
        if found.mark is None:
            self._require_new(found)
            mark = Mark(self._held.database_id, self._source.url)
            await self._target.mark(None, mark)
            return mark
        mark = Mark.from_text(found.mark)
        if mark.source_id != self._held.database_id:
            msg = (
                f"{self._target.url} holds an unfinished copy of another store, {mark.source}. "
                f"Give another target, or empty it: {self._target.emptying}."
            )
            raise StoreError(msg)
        return mark

    def _require_new(self, found: Inventory) -> None:
        there = [f"{count} rows in {name}" for name, count in found.counts.items() if count]
        if not there and found.has_given_ids:
            there.append(f"ids of messages that are gone, up to {found.next_id - 1}")
        if not there and found.last_version:
            there.append(f"versions of keys that are gone, up to {found.last_version}")
        if there:
            msg = (
                f"{self._target.url} is not new: it holds {', '.join(there)}. Copied is only into "
                "a store that nobody has used. Give another target, or empty it: "
                f"{self._target.emptying}."
            )
            raise StoreError(msg)

    async def _copy(self, table: Table, mark: Mark) -> Mark:
        """Copy what is missing of a table. Returns the mark at its end."""
        after = mark.key if mark.table == table.name else None
        done = self._there[table.name]
        while rows := await self._source.read(table, after, SLICE_ROWS):
            after = table.key_of(rows[-1])
            moved = mark._replace(table=table.name, key=after)
            await self._target.write(table, rows, mark, moved)
            mark = moved
            done += len(rows)
            self._tell("copy", table, done)
        return mark

    async def _check(self, table: Table) -> Digest:
        """Read a table again on both sides, and compare. Returns what it is on both."""

        def tell(rows: int) -> None:
            self._tell("check", table, rows)

        mine = await digest_of(self._source, table)
        theirs = await digest_of(self._target, table, tell)
        if mine.value == theirs.value and mine.count == theirs.count:
            return mine
        difference = await first_difference(self._source, self._target, mine.last_same(theirs))
        msg = (
            f"{table.name} of {self._target.url} is not that of {self._source.url}: {difference}. "
            f"There are {mine.count} rows in the source, {theirs.count} in the target. Something "
            "has changed one of them since this copy began. Stop all that uses either, empty the "
            f"target ({self._target.emptying}), and copy again."
        )
        raise StoreError(msg)

    async def _require_unchanged(self) -> None:
        """Look once more, because senders need not say that they are there."""
        await _require_idle(self._source)
        now = await self._source.inventory()
        if now != self._held:
            msg = (
                f"{self._source.url} was used while it was copied: it had {_summed(self._held)}, "
                f"and has {_summed(now)}. Stop all that sends or writes there, empty the target "
                f"({self._target.emptying}), and copy again."
            )
            raise StoreError(msg)
        found = await self._target.inventory()
        if found.last_version != self._held.last_version or found.next_id < self._held.next_id:
            msg = (
                f"{self._target.url} has {_summed(found)}, its source {_summed(self._held)}: "
                "something has changed its counters since this copy began. Stop all that uses it, "
                f"empty it ({self._target.emptying}), and copy again."
            )
            raise StoreError(msg)

    def _tell(self, step: Literal["copy", "check"], table: Table, rows: int) -> None:
        if self._progress is not None:
            total = self._held.counts[table.name]
            self._progress(CopyProgress(step, table.name, rows, total))


def _from_table(name: str | None) -> tuple[Table, ...]:
    """The tables that are not copied yet, beginning with the one that was copied last."""
    names = [table.name for table in TABLES]
    return TABLES if name is None else TABLES[names.index(name) :]


def _summed(held: Inventory) -> str:
    counts = ", ".join(f"{count} rows in {name}" for name, count in held.counts.items())
    return f"{counts}, the next id {held.next_id} and the last version {held.last_version}"
