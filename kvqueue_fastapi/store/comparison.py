"""Whether two stores hold the same rows, and where they begin to differ."""

import hashlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final, NamedTuple

from kvqueue_fastapi.store.copies import SLICE_ROWS, CopySource, Row, Table

_CHECKPOINT_ROWS: Final = 1_000
"""Between two notes of a digest: about so many are looked through where two differ."""


class Place(NamedTuple):
    """Somewhere in a table: behind the row of a primary key; None: at the beginning."""

    table: Table
    after: Row | None


class Digest:
    """All rows of a table, in the order of its primary key, as one number.

    Attributes:
        count: of rows.
        checkpoints: what it was on the way, and behind which row.
    """

    def __init__(self, table: Table) -> None:
        self.count = 0
        self.checkpoints: list[tuple[bytes, Row]] = []
        self._table = table
        self._hash = hashlib.sha256()

    @property
    def value(self) -> bytes:
        """The number, of 256 bits."""
        return self._hash.digest()

    def add(self, rows: list[Row]) -> None:
        """Take in the rows that follow."""
        for row in rows:
            self._hash.update(repr(row).encode())
            self.count += 1
            if self.count % _CHECKPOINT_ROWS == 0:
                self.checkpoints.append((self.value, self._table.key_of(row)))

    def last_same(self, other: "Digest") -> Place:
        """The place up to which both have the same rows, or a little before."""
        after = None
        for mine, theirs in zip(self.checkpoints, other.checkpoints, strict=False):
            if mine != theirs:
                break
            after = mine[1]
        return Place(self._table, after)


async def digest_of(
    store: CopySource, table: Table, tell: Callable[[int], None] | None = None
) -> Digest:
    """Read all of a table. `tell` is given the number of rows after each slice."""
    digest = Digest(table)
    async with aclosing(_slices(store, Place(table, None))) as slices:
        async for rows in slices:
            digest.add(rows)
            if tell is not None:
                tell(digest.count)
    return digest


async def first_difference(source: CopySource, target: CopySource, place: Place) -> str:
    """Which row behind a place is the first that differs, in words."""
    async with aclosing(_rows(source, place)) as left, aclosing(_rows(target, place)) as right:
        while True:
            mine, theirs = await anext(left, None), await anext(right, None)
            if mine != theirs:
                return _told(place.table, mine, theirs)
            if mine is None:
                return "they differed a moment ago, and are the same now"


async def _slices(store: CopySource, place: Place) -> AsyncGenerator[list[Row]]:
    table, after = place
    while rows := await store.read(table, after, SLICE_ROWS):
        yield rows
        after = table.key_of(rows[-1])


async def _rows(store: CopySource, place: Place) -> AsyncGenerator[Row]:
    async with aclosing(_slices(store, place)) as slices:
        async for rows in slices:
            for row in rows:
                yield row


def _told(table: Table, mine: Row | None, theirs: Row | None) -> str:
    left, right = table.key_of(mine or ()), table.key_of(theirs or ())
    if mine and theirs and left == right:
        pairs = zip(table.columns, mine, theirs, strict=True)
        names = ", ".join(name for name, one, other in pairs if one != other)
        return f"{table.named(left)} differs in {names}"
    if mine and (not theirs or left < right):
        return f"{table.named(left)} is missing in the target"
    return f"{table.named(right)} is in the target alone"
