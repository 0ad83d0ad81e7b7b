"""The keeper's face: `KvQueueAdmin`."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from kvqueue_fastapi.codec import decode_payload
from kvqueue_fastapi.errors import InvalidOptionError, KvQueueError, PayloadError, shown
from kvqueue_fastapi.keeper import (
    ListenerRecord,
    MessageRecord,
    Minute,
    Payload,
    Query,
    State,
    TypeCounts,
)
from kvqueue_fastapi.lookup import LEAST_READ, Lookup
from kvqueue_fastapi.model import AtomicWrite, type_problem
from kvqueue_fastapi.outgoing import PLAIN
from kvqueue_fastapi.pages import MAX_ID, MIN_ID, Page, after_of, one_more, page_of
from kvqueue_fastapi.redaction import EVERYTHING, Redaction
from kvqueue_fastapi.sender import Sender
from kvqueue_fastapi.store.handle import StoreHandle

SLICE: Final = 500

Progress = Callable[[int], None]
"""Told how many are done, after each slice."""


class KvQueueAdmin:
    """Looks into the queue and puts it right.

    Ask the container for it, as for `KvQueue`. Guard the routes that use it: it shows payloads,
    as the `redact` of `KvQueueModule` lets them through, and can throw messages away.
    """

    def __init__(
        self, *, handle: StoreHandle, sender: Sender, redaction: Redaction = EVERYTHING
    ) -> None:
        self._handle = handle
        self._sender = sender
        self._lookup = Lookup(redaction)

    async def counts(self) -> list[TypeCounts]:
        """How many messages of each type are where, with the age of the oldest, in type order.

        It reads the whole table: a second or so at a million messages, beside the queue's work.
        """
        return await self._handle.admin.counts()

    async def messages(
        self,
        *,
        type: str | None = None,  # noqa: A002 because it is what a message calls it
        type_pattern: str | None = None,
        state: State | str | None = None,
        ordering_key: str | None = None,
        search: str | None = None,
        error: str | None = None,
        reverse: bool = False,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Messages that wait or run, the oldest first.

        Args:
            type: only this message type.
            type_pattern: only types like this, where each `*` stands for any text: "order.*".
            state: only "ready", "delayed", "blocked", "running", "quarantined" or "isolated".
            ordering_key: only this ordering key.
            search: only where the payload, as JSON, or an error has this text, in any case of
                letters. What `redact` hides is not found.
            error: only where the text of an error, without its traceback, has this; likewise.
            reverse: the newest first.
            limit: 1 to 1,000 records.
            cursor: the `next_cursor` of the page before, with the same `reverse`.

        Raises:
            InvalidOptionError: the state, limit or cursor is none, or a filter is no text.
        """
        query = Query(
            type,
            type_pattern,
            _state(state),
            ordering_key,
            search,
            error,
            reverse,
            after_of(cursor, reverse=reverse),
            one_more(limit),
        )
        _refuse_no_text(query)
        return page_of(await self._lookup.find(self._handle.admin.list_messages, query), limit)

    async def dead_letters(
        self,
        *,
        type: str | None = None,  # noqa: A002 because it is what a message calls it
        type_pattern: str | None = None,
        ordering_key: str | None = None,
        search: str | None = None,
        error: str | None = None,
        reverse: bool = False,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Messages that were given up, the oldest first; arguments as for `messages`."""
        query = Query(
            type,
            type_pattern,
            None,
            ordering_key,
            search,
            error,
            reverse,
            after_of(cursor, reverse=reverse),
            one_more(limit),
        )
        _refuse_no_text(query)
        return page_of(await self._lookup.find(self._handle.admin.list_dead_letters, query), limit)

    async def message(self, message_id: int) -> MessageRecord | None:
        """One message or dead letter; None: there is none with this id, or it was handled."""
        record = await self._show(message_id)
        return None if record is None else (await self._lookup.as_shown([record]))[0]

    async def requeue(self, ids: Sequence[int]) -> dict[int, int]:
        """Send dead letters again, with all attempts before them, at the tail of their keys.

        Returns:
            The new id of each; those that are no dead letters are left out.
        """
        return await self._handle.admin.requeue(tuple(filter(_is_id, ids)))

    async def requeue_as(self, message_id: int, data: Any) -> int:
        """Send a dead letter again with another payload, as one that its handler can take.

        Args:
            message_id: of the dead letter.
            data: all of the new payload, as for `send_message`.

        Returns:
            Its new id.

        Raises:
            KvQueueError: there is no such dead letter.
            PayloadError: the payload cannot be stored, or its handler in this process would not
                take it.
        """
        record = await self._show(message_id)
        if record is not None and record.state is State.DEAD:
            send = self._sender.prepare(record.type, data, PLAIN)
            requeued = await self._handle.admin.requeue((message_id,), data=send.data)
            if requeued:
                return requeued[message_id]
        msg = (
            f"Message {shown(message_id)} cannot be requeued: it is no dead letter, or no longer. "
            "Look it up by dead_letters(), or `kvqueue dead ls`."
        )
        raise KvQueueError(msg)

    async def send_again(self, message_id: int) -> int:
        """Send what a message or dead letter carries once more, as a new message.

        It has the same type, payload, headers, ordering key, priority, retry schedule and keys
        to write if it is not delivered; it is due now. The old one stays as it is.

        Returns:
            The id of the new message.

        Raises:
            KvQueueError: there is no such message, or it was handled.
            QueueFullError: `max_pending` messages wait.
        """
        original = await self._handle.admin.original(message_id) if _is_id(message_id) else None
        if original is None:
            msg = (
                f"Message {shown(message_id)} cannot be sent again: there is none, or it was "
                "handled. Look it up among messages() and dead_letters()."
            )
            raise KvQueueError(msg)
        return (await self._sender.commit(AtomicWrite(sends=(original,)))).message_ids[0]

    async def requeue_all(
        self,
        type: str,  # noqa: A002 because it is what a message calls it
        *,
        died_by_ms: int | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Send all dead letters of a type again, a slice at a time. Returns how many.

        Those that die again meanwhile are left.

        Args:
            type: the message type.
            died_by_ms: only those that had died by then, such as `last_death_ms()` was when
                somebody was asked; None: all.
            progress: is told after each slice how many there are so far. What it raises ends
                the call there, and what is done stays done.

        Raises:
            InvalidOptionError: the type is no text, or the time no whole number.
        """
        _refuse_no_text(Query(type))
        requeued: dict[int, int] = {}
        async for ids in self._dead_slices(type, _bound(died_by_ms)):
            requeued |= await self.requeue([old for old in ids if old < _first_new(requeued)])
            if progress is not None:
                progress(len(requeued))
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

    async def discard_all(
        self,
        type: str,  # noqa: A002 because it is what a message calls it
        *,
        died_by_ms: int | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Remove all dead letters of a type for good, as `requeue_all` sends them again."""
        _refuse_no_text(Query(type))
        discarded = 0
        async for ids in self._dead_slices(type, _bound(died_by_ms)):
            discarded += len(await self.discard(ids))
            if progress is not None:
                progress(discarded)
        return discarded

    async def last_death_ms(self) -> int | None:
        """When the last of the dead letters died, in UTC milliseconds; None: there is none.

        By this time a question can name those that are there, whatever dies until the answer.
        One that died in the future, by a clock that was set back since, does not count.
        """
        return await self._handle.admin.last_death_ms()

    async def cancel(self, message_id: int) -> None:
        """Remove a message that waits.

        Raises:
            KvQueueError: it runs already, is a dead letter, or there is none.
        """
        record = await self._show(message_id)
        if record is not None and record.state is State.DEAD:
            why = "it is a dead letter; see discard(), or `kvqueue dead discard`"
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

    async def minutes(self) -> list[Minute]:
        """How many deliveries of each type ended in each minute of the last hour, and how.

        Rows: one for each type and minute in which some did, by type and time. Listeners write
        it down every 2 s and at their end; what one that was killed had not yet written is left
        out.
        """
        return await self._handle.admin.minutes()

    async def misfits(self, *, limit: int = 50) -> list[tuple[MessageRecord, str]]:
        """Messages in the store that their handler in this process would not take, and why.

        It reads every payload that waits: before a deploy, it tells what was sent to the models
        of yesterday.

        Args:
            limit: 1 to 1,000: after how many to stop looking.
        """
        after, found = MIN_ID, list[tuple[MessageRecord, str]]()
        most = one_more(limit) - 1
        while payloads := await self._handle.admin.payloads(after=after, limit=LEAST_READ):
            after = payloads[-1].id
            for payload in payloads:
                problem = self._problem(payload)
                if problem and (record := await self.message(payload.id)):
                    found.append((record, problem))
                    if len(found) == most:
                        return found
        return found

    def _problem(self, payload: Payload) -> str | None:
        adapter = self._handle.adapter_of(payload.type)
        try:
            if adapter is not None:
                decode_payload(payload.data, adapter)
        except PayloadError as error:
            return str(error)
        return None

    async def _show(self, message_id: int) -> MessageRecord | None:
        return await self._handle.admin.show(message_id) if _is_id(message_id) else None

    async def _dead_slices(self, message_type: str, died_by_ms: int) -> AsyncIterator[list[int]]:
        after, read = MIN_ID, self._handle.admin.dead_ids
        while ids := await read(message_type, died_by_ms=died_by_ms, after=after, limit=SLICE):
            after = ids[-1]
            yield ids


def _is_id(value: object) -> bool:
    # Ids come from outside, and what SQLite cannot hold is no message.
    return isinstance(value, int) and MIN_ID <= value <= MAX_ID


def _bound(died_by_ms: object) -> int:
    if died_by_ms is None:
        return MAX_ID
    if _is_id(died_by_ms) and isinstance(died_by_ms, int) and not isinstance(died_by_ms, bool):
        return died_by_ms
    msg = (
        f"died_by_ms is {shown(died_by_ms)}, allowed is a time in UTC milliseconds. Take "
        "last_death_ms(), or None for all."
    )
    raise InvalidOptionError(msg)


def _first_new(requeued: dict[int, int]) -> int:
    return min(requeued.values(), default=MAX_ID + 1)


def _refuse_no_text(query: Query) -> None:
    for name in ("type", "type_pattern", "ordering_key", "search", "error"):
        value = getattr(query, name)
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


def _state(state: State | str | None) -> State | None:
    allowed = [one for one in State if one is not State.DEAD]
    if state is None or state in allowed:
        return None if state is None else State(state)
    msg = (
        f"state is {shown(state)}, allowed are {', '.join(allowed)}. Dead: see dead_letters(), or "
        "`kvqueue dead ls`."
    )
    raise InvalidOptionError(msg)
