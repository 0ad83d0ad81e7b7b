"""The keeper's face: `KvQueueAdmin`."""

import base64
import binascii
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, Self

from pydantic_core import to_json

from kvqueue_fastapi.errors import InvalidOptionError, KvQueueError, shown
from kvqueue_fastapi.model import (
    ListenerRecord,
    MessageRecord,
    Query,
    State,
    TypeCounts,
    type_problem,
)
from kvqueue_fastapi.redaction import EVERYTHING, Redaction
from kvqueue_fastapi.store.handle import StoreHandle

MAX_LIMIT: Final = 1_000
SLICE: Final = 500
_LEAST_SEARCHED: Final = 100
_MAX_ID: Final = (1 << 63) - 1
_MIN_ID: Final = -(1 << 63)
"""Ours are above 0, but a foreign program may store any."""


class Page(tuple[MessageRecord, ...]):  # noqa: SLOT001 because tuples cannot have named slots
    """A sequence of records, and where the next ones begin.

    Attributes:
        next_cursor: to be given as `cursor`; None: these were the last.
    """

    next_cursor: str | None

    def __new__(cls, records: Iterable[MessageRecord], next_cursor: str | None) -> Self:
        """Make a page."""
        page = super().__new__(cls, records)
        page.next_cursor = next_cursor
        return page


class KvQueueAdmin:
    """Looks into the queue and puts it right.

    Ask the container for it, as for `KvQueue`. Guard the routes that use it: it shows payloads,
    as the `redact` of `KvQueueModule` lets them through, and can throw messages away.
    """

    def __init__(self, *, handle: StoreHandle, redaction: Redaction = EVERYTHING) -> None:
        self._handle = handle
        self._redaction = redaction

    async def counts(self) -> list[TypeCounts]:
        """How many messages of each type are where, with the age of the oldest, in type order.

        It reads the whole table: a second or so at a million messages, beside the queue's work.
        """
        return await self._handle.admin.counts()

    async def messages(
        self,
        *,
        type: str | None = None,  # noqa: A002 because it is what a message calls it
        state: State | str | None = None,
        ordering_key: str | None = None,
        search: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Messages that wait or run, the oldest first.

        Args:
            type: only this message type.
            state: only "ready", "delayed", "blocked", "running", "quarantined" or "isolated".
            ordering_key: only this ordering key.
            search: only where the payload, as JSON, or an error has this text, in any case of
                letters. What `redact` hides is not found.
            limit: 1 to 1,000 records.
            cursor: the `next_cursor` of the page before.

        Raises:
            InvalidOptionError: the state, limit or cursor is none.
        """
        _refuse_no_text(type=type, ordering_key=ordering_key, search=search)
        query = Query(type, _state(state), ordering_key, search, _after(cursor), _more(limit))
        return _page(await self._listed(self._handle.admin.list_messages, query), limit)

    async def dead_letters(
        self,
        *,
        type: str | None = None,  # noqa: A002 because it is what a message calls it
        ordering_key: str | None = None,
        search: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Messages that were given up, the oldest first; arguments as for `messages`."""
        _refuse_no_text(type=type, ordering_key=ordering_key, search=search)
        query = Query(type, None, ordering_key, search, _after(cursor), _more(limit))
        return _page(await self._listed(self._handle.admin.list_dead_letters, query), limit)

    async def message(self, message_id: int) -> MessageRecord | None:
        """One message or dead letter; None: there is none with this id, or it was handled."""
        record = await self._show(message_id)
        return None if record is None else self._redaction.of_record(record)

    async def requeue(self, ids: Sequence[int]) -> dict[int, int]:
        """Send dead letters again, with all attempts before them, at the tail of their keys.

        Returns:
            The new id of each; those that are no dead letters are left out.
        """
        return await self._handle.admin.requeue(tuple(filter(_is_id, ids)))

    async def requeue_all(self, type: str) -> int:  # noqa: A002 because it is what a message calls it
        """Send all dead letters of a type again, a slice at a time. Returns how many.

        Those that die again meanwhile are left.

        Raises:
            InvalidOptionError: the type is no text.
        """
        _refuse_no_text(type=type)
        requeued: dict[int, int] = {}
        async for ids in self._dead_slices(type):
            requeued |= await self.requeue([old for old in ids if old < _first_new(requeued)])
            if ids[-1] >= _first_new(requeued):
                break
        return len(requeued)

    async def discard(self, ids: Sequence[int]) -> list[int]:
        """Remove messages and dead letters for good; their idempotency keys are free again.

        Returns:
            The ids of those that went; a message that runs stays, and so does one that is none.
        """
        gone = await self._handle.admin.discard(tuple(filter(_is_id, ids)))
        return [message_id for message_id, went in gone.items() if went]

    async def cancel(self, message_id: int) -> None:
        """Remove a message that waits.

        Raises:
            KvQueueError: it runs already, is a dead letter, or there is none.
        """
        record = await self._show(message_id)
        if record is not None and record.state is State.DEAD:
            why = "it is a dead letter; see discard()"
        elif await self.discard([message_id]):
            return
        elif record is None:
            why = "there is none, or it was handled"
        else:
            why = "it runs already"
        msg = f"Message {shown(message_id)} cannot be cancelled: {why}."
        raise KvQueueError(msg)

    async def pause(self, type: str) -> None:  # noqa: A002 because it is what a message calls it
        """Stop claiming a type, in every process, until `resume`. Running handlers finish.

        Raises:
            InvalidOptionError: it cannot be a message type.
        """
        await self._handle.admin.set_paused(_type(type), paused=True)

    async def resume(self, type: str) -> None:  # noqa: A002 because it is what a message calls it
        """Claim a type again."""
        await self._handle.admin.set_paused(_type(type), paused=False)

    async def listeners(self) -> list[ListenerRecord]:
        """The processes that listen, the oldest first."""
        return await self._handle.admin.listeners()

    async def _show(self, message_id: int) -> MessageRecord | None:
        return await self._handle.admin.show(message_id) if _is_id(message_id) else None

    async def _listed(
        self, read: Callable[[Query], Awaitable[list[MessageRecord]]], query: Query
    ) -> list[MessageRecord]:
        search = query.search
        if search is None or not self._redaction.hides:
            return [self._redaction.of_record(record) for record in await read(query)]
        # A search that found what is hidden would tell it, letter by letter.
        found: list[MessageRecord] = []
        part = replace(query, limit=max(query.limit, _LEAST_SEARCHED))
        while len(found) < query.limit:
            records = await read(part)
            seen = [self._redaction.of_record(record) for record in records]
            found += [record for record in seen if _has(record, search)]
            if len(records) < part.limit:
                break
            part = replace(part, after=records[-1].id)
        return found[: query.limit]

    async def _dead_slices(self, message_type: str) -> AsyncIterator[list[int]]:
        after = _MIN_ID
        while ids := await self._handle.admin.dead_ids(message_type, after=after, limit=SLICE):
            after = ids[-1]
            yield ids


def _is_id(value: object) -> bool:
    # Ids come from outside, and what SQLite cannot hold is no message.
    return isinstance(value, int) and _MIN_ID <= value <= _MAX_ID


def _has(record: MessageRecord, search: str) -> bool:
    try:
        data = to_json(record.data, fallback=repr).decode()
    except ValueError:
        data = repr(record.data)
    errors = [text for error in record.errors for text in (error.text, error.trace)]
    return any(search.lower() in text.lower() for text in (data, *errors))


def _first_new(requeued: dict[int, int]) -> int:
    return min(requeued.values(), default=_MAX_ID + 1)


def _refuse_no_text(**filters: object) -> None:
    for name, value in filters.items():
        if value is None:
            continue
        if not isinstance(value, str) or value != value.encode("utf-8", "replace").decode():
            msg = (
                f"{name} is {shown(value)}, allowed is text without lone surrogates. "
                "Give a str, or None for all."
            )
            raise InvalidOptionError(msg)


def _type(value: str) -> str:
    if problem := type_problem(value):
        raise InvalidOptionError(problem)
    return value


def _page(records: Sequence[MessageRecord], limit: int) -> Page:
    shown = records[:limit]
    cursor = _cursor(shown[-1].id) if len(records) > limit else None
    return Page(shown, cursor)


def _cursor(message_id: int) -> str:
    return base64.urlsafe_b64encode(str(message_id).encode()).decode()


def _after(cursor: str | None) -> int:
    if cursor is None:
        return _MIN_ID
    try:
        after = int(base64.urlsafe_b64decode(cursor.encode("ascii")))
    except (ValueError, binascii.Error, AttributeError):
        after = _MAX_ID + 1
    if not _MIN_ID <= after <= _MAX_ID:
        msg = f"cursor {shown(cursor)} is none. Give the next_cursor of a page, or leave it out."
        raise InvalidOptionError(msg)
    return after


def _more(limit: Any) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_LIMIT:
        msg = f"limit is {shown(limit)}, allowed is 1 to {MAX_LIMIT}. Page with next_cursor."
        raise InvalidOptionError(msg)
    # One more than is shown tells whether there is a next page.
    return int(limit) + 1


def _state(state: State | str | None) -> State | None:
    allowed = [one for one in State if one is not State.DEAD]
    if state is None or state in allowed:
        return None if state is None else State(state)
    msg = f"state is {shown(state)}, allowed are {', '.join(allowed)}. Dead: see dead_letters()."
    raise InvalidOptionError(msg)
