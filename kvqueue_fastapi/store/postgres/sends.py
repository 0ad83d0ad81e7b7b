"""Messages on their way into the table."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from kvqueue_fastapi.model import Send
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import Session

_NOTHING_ASKED: Final = Send("", "")[2:]


async def insert(
    session: Session,
    sends: Sequence[Send],
    ids: Sequence[int],
    now_ms: int | None,
    requeued_from: Sequence[int | None] | None = None,
) -> None:
    """Store messages under their ids; whatever is there already stays as it is.

    Those with an ordering key wait until `promote_heads` finds them at its head.
    """
    types, data = [send.type for send in sends], [send.data for send in sends]
    if requeued_from is None and all(send[2:] == _NOTHING_ASKED for send in sends):
        await session.fetch(sql.INSERT_PLAIN, now_ms, ids, types, data)
        return
    await session.fetch(
        sql.INSERT,
        now_ms,
        ids,
        types,
        data,
        [send.priority for send in sends],
        [send.delay_ms for send in sends],
        [send.deliver_at_ms for send in sends],
        [send.ordering_key for send in sends],
        [send.options for send in sends],
        requeued_from or [None] * len(sends),
    )


async def promote_heads(
    session: Session, ordering_keys: Iterable[str | None], now_ms: int | None
) -> None:
    """Make the first message of each key claimable where none is; under the keys' locks."""
    keys = {key for key in ordering_keys if key is not None}
    if keys:
        await session.fetch(sql.PROMOTE_HEADS, now_ms, list(keys))


class KnownTypes:
    """Types whose first send is noted, as far as this process knows."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def has(self, types: set[str]) -> bool:
        """Whether all of them are noted."""
        return types <= self._known

    async def remember(self, session: Session, types: Iterable[str], now_ms: int | None) -> None:
        """Note when types were first sent; see `know`."""
        new = set(types) - self._known
        if new:
            await session.fetch(sql.REMEMBER_TYPES, now_ms, list(new))

    def know(self, types: Iterable[str]) -> None:
        """Note them no more: that they are noted has been committed."""
        self._known.update(types)


def columns(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """Rows as the arrays that a statement takes, also where there is none."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
