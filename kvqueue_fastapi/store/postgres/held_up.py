"""Requests whose locks others hold: they wait in a line of their own, and hold up nobody.

Whoever sends within a transaction of his own has the lock of an ordering key until it ends.
"""

import time
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from kvqueue_fastapi.store.base import ClaimRequest, Request
from kvqueue_fastapi.store.postgres import locks
from kvqueue_fastapi.store.postgres.batch import needs_of
from kvqueue_fastapi.store.writer import WriteBatch, Writer


@dataclass(eq=False, slots=True)
class HeldPart:
    """What was left of a batch.

    Attributes:
        writer: whose batch it was.
        batch: what is still to be written.
        numbers: of the locks that it waits for.
        since: when it began to wait, on `time.monotonic`.
    """

    writer: Writer[Request]
    batch: WriteBatch[Request]
    numbers: frozenset[int]
    since: float = field(default_factory=time.monotonic)


class HeldUp:
    """The line of those that wait, in the order in which they came."""

    def __init__(self) -> None:
        self._parts: list[HeldPart] = []

    def add(self, part: HeldPart) -> None:
        """Take in what is held up."""
        self._parts.append(part)

    def remove(self, part: HeldPart) -> None:
        """Forget what was written or given up."""
        self._parts.remove(part)

    def numbers(self, before: HeldPart | None = None) -> frozenset[int]:
        """The locks that those in the line wait for, or those before one of them.

        Who came later waits behind them, also where the lock is free by now.
        """
        found: set[int] = set()
        for part in self._parts:
            if part is before:
                break
            found |= part.numbers
        return frozenset(found)

    def __iter__(self) -> Iterator[HeldPart]:
        return iter(tuple(self._parts))

    def __bool__(self) -> bool:
        return bool(self._parts)


def needed_by(requests: Iterable[Request]) -> set[int]:
    """The locks that these requests need, but for that of all who write keys."""
    changes = [one for one in requests if not isinstance(one, ClaimRequest)]
    return needs_of(changes).locks - {locks.VERSIONS}


def needs_any(request: Request, numbers: AbstractSet[int]) -> bool:
    """Whether a request needs one of these locks."""
    return bool(numbers) and not numbers.isdisjoint(needed_by([request]))
