"""The keeper's verbs on PostgreSQL."""

import asyncio
import json
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol, TypeVar

from kvqueue_fastapi.keeper import (
    ListenerRecord,
    MessageRecord,
    Minute,
    Payload,
    Query,
    State,
    TypeCounts,
)
from kvqueue_fastapi.model import Send
from kvqueue_fastapi.store.base import MAX_STEPS, MINUTE_MS, MINUTES_KEPT
from kvqueue_fastapi.store.postgres import locks
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import Row
from kvqueue_fastapi.store.postgres.holds import Held
from kvqueue_fastapi.store.postgres.ids import Ids
from kvqueue_fastapi.store.postgres.listeners import MISSING_MS
from kvqueue_fastapi.store.postgres.locks import StillHeldError
from kvqueue_fastapi.store.postgres.sends import insert, promote_heads
from kvqueue_fastapi.store.postgres.sessions import Sessions, Transaction
from kvqueue_fastapi.store.records import STATES, record_of, send_of, state_of

R = TypeVar("R")

_RUNNING: Final = 3
_NO_WILDCARD: Final = re.compile(r"[%_\\]")
"""What LIKE would take for one, and how it is told not to."""


class Run(Protocol):
    """Runs what talks to the server in the database's event loop."""

    async def __call__(self, work: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """Run it and return what it returns."""
        ...


class PostgresAdmin:
    """Looks into the store and puts it right.

    Args:
        sessions: where to ask.
        run: how to get there.
        changed: called when something may have become claimable.
        ids: where requeued messages get their numbers.
        now_ms: when; None: the server knows.
    """

    def __init__(
        self,
        sessions: Sessions,
        run: Run,
        changed: Callable[[], None],
        ids: Ids,
        now_ms: Callable[[], int | None],
    ) -> None:
        self._sessions = sessions
        self._run = run
        self._changed = changed
        self._ids = ids
        self._now_ms = now_ms

    async def counts(self) -> list[TypeCounts]:
        """One for each type that was ever sent or paused, or that a listener handles."""
        states: defaultdict[str, dict[State, int]] = defaultdict(dict)
        ages: dict[str, int] = {}
        for kind, state, count, age_ms in await self._look(sql.COUNT_MESSAGES, self._now_ms()):
            states[kind][state_of(state)] = states[kind].get(state_of(state), 0) + count
            ages[kind] = max(age_ms, ages.get(kind, age_ms))
        for kind, count in await self._look(sql.COUNT_DEAD_LETTERS):
            states[kind][State.DEAD] = count
        known = {row[0] for row in await self._look(sql.KNOWN_TYPES)}
        paused = {row[0] for row in await self._look(sql.PAUSED_TYPES)}
        alive = [one for one in await self.listeners() if one.is_alive]
        handled = {kind for listener in alive for kind in listener.types}
        return [
            TypeCounts(
                type=kind,
                **{state.value: states[kind].get(state, 0) for state in STATES},
                oldest_age_s=ages[kind] / 1000 if kind in ages else None,
                paused=kind in paused,
                handled=kind in handled,
            )
            for kind in sorted({*states, *known, *handled})
        ]

    async def list_messages(self, query: Query) -> list[MessageRecord]:
        """Those that wait or run, by id."""
        state = None if query.state is None else STATES.index(query.state)
        statement = sql.LIST_MESSAGES_BACKWARDS if query.reverse else sql.LIST_MESSAGES
        return await self._list(statement, query, state)

    async def list_dead_letters(self, query: Query) -> list[MessageRecord]:
        """Dead letters, by id."""
        statement = sql.LIST_DEAD_LETTERS_BACKWARDS if query.reverse else sql.LIST_DEAD_LETTERS
        return await self._list(statement, query)

    async def payloads(self, *, after: int, limit: int) -> list[Payload]:
        """The payloads of messages that wait or run, behind an id, by id."""
        return [Payload(*row) for row in await self._look(sql.READ_PAYLOADS, after, limit)]

    async def show(self, message_id: int) -> MessageRecord | None:
        """A message or dead letter."""
        for statement in (sql.SHOW_MESSAGE, sql.SHOW_DEAD_LETTER):
            for row in await self._look(statement, message_id):
                return record_of(row)
        return None

    async def dead_ids(
        self, message_type: str, *, died_by_ms: int, after: int, limit: int
    ) -> list[int]:
        """The ids of a type's dead letters behind `after` that had died by then, in order."""
        if "\0" in message_type:
            return []  # nothing that is stored can hold it
        rows = await self._look(sql.DEAD_IDS_OF_TYPE, message_type, after, limit, died_by_ms)
        return [row[0] for row in rows]

    async def last_death_ms(self) -> int | None:
        """When the last of the dead letters died, up to now; None: there is none."""
        ((last,),) = await self._look(sql.LAST_DEATH, self._now_ms())
        return None if last is None else int(last)

    async def original(self, message_id: int) -> Send | None:
        """What sends a message or dead letter once more."""
        for statement in (sql.READ_MESSAGE, sql.READ_DEAD_LETTER):
            for row in await self._look(statement, message_id):
                return send_of(row)
        return None

    async def requeue(
        self, message_ids: Sequence[int], *, data: str | None = None
    ) -> dict[int, int]:
        """Send dead letters again, at the tail of their keys. Returns their new ids."""
        wanted = list(dict.fromkeys(message_ids))
        # Before the transaction: within it they would be waited for with its locks in hand.
        ids = await self._run(lambda: self._ids.take(len(wanted), self._fetch))
        return await self._transact(
            lambda transaction: self._requeue(transaction, wanted, data, ids)
        )

    async def discard(self, message_ids: Sequence[int]) -> dict[int, bool]:
        """Remove messages and dead letters for good. Running ones stay."""
        return await self._transact(
            lambda transaction: self._discard(transaction, list(dict.fromkeys(message_ids)))
        )

    async def set_paused(self, message_type: str, *, paused: bool) -> None:
        """Stop or resume claiming of a type, in every process."""
        now_ms = self._now_ms()
        await self._run(
            lambda: self._sessions.attempt(
                lambda session: session.fetch(sql.SET_PAUSED, now_ms, message_type, paused)
            )
        )
        self._changed()

    async def listeners(self) -> list[ListenerRecord]:
        """The processes that listen."""
        rows = await self._look(sql.LISTENERS)
        free = {row[0] for row in rows if not row[10]}
        if free:
            # One that lives and has only lost its connection has another one by then.
            await asyncio.sleep(MISSING_MS / 1000)
            rows = await self._look(sql.LISTENERS)
        return [
            ListenerRecord(
                id=row[0],
                host=row[1],
                pid=row[2],
                since_ms=row[3],
                types=tuple(row[4]),
                leases=row[5],
                running=row[6],
                seen_ms=row[7],
                loop_lag_ms=row[8],
                version=row[9],
                is_alive=row[10] or row[0] not in free,
            )
            for row in rows
        ]

    async def oldest_ready_age_ms(self) -> int | None:
        """For how long the oldest message has been due that somebody may handle."""
        ((age_ms,),) = await self._look(sql.OLDEST_READY, self._now_ms(), MAX_STEPS)
        return None if age_ms is None else max(0, age_ms)

    async def minutes(self) -> list[Minute]:
        """Those of the last hour in which something ended, by type and time."""
        rows = await self._look(sql.MINUTES, self._now_ms(), MINUTES_KEPT * MINUTE_MS)
        return [Minute(*row) for row in rows]

    async def _look(self, statement: str, *values: Any) -> Sequence[Row]:
        return await self._run(
            lambda: self._sessions.look(lambda session: session.fetch(statement, *values))
        )

    async def _fetch(self, statement: str, *values: Any) -> Sequence[Row]:
        return await self._sessions.attempt(lambda session: session.fetch(statement, *values))

    async def _transact(self, work: Callable[[Transaction], Awaitable[R]]) -> R:
        result = await self._run(lambda: self._in_turn(work))
        self._changed()
        return result

    async def _in_turn(self, work: Callable[[Transaction], Awaitable[R]]) -> R:
        """Run `work`, and wait for callers' transactions that have a key of its."""
        patience = self._sessions.patience
        until = time.monotonic() + patience.seconds
        awaited: list[int] = []

        async def within(transaction: Transaction) -> R:
            # One lock in hand at the most, so that it holds up nobody else meanwhile.
            schema = self._sessions.schema
            await locks.wait_for(transaction, schema, awaited, patience.lock_ms)
            return await work(transaction)

        while True:
            try:
                if not awaited:
                    return await self._sessions.transact(work)
                return await self._sessions.transact(within, waits=True)
            except StillHeldError as error:
                if time.monotonic() > until:
                    raise
                awaited = [error.lock]

    async def _list(self, statement: str, query: Query, *state: Any) -> list[MessageRecord]:
        found: list[MessageRecord] = []
        asked = (query.type, query.type_pattern, query.ordering_key, query.search, query.error)
        if any("\0" in (text or "") for text in asked):
            return found  # nothing that is stored can hold it
        after = query.after
        while len(found) < query.limit:
            limit = query.limit - len(found)
            rows = await self._look(
                statement,
                after,
                query.type,
                query.ordering_key,
                query.search,
                _as_json(query.search),
                limit,
                _like(query.type_pattern),
                _as_json(query.error),
                *state,
            )
            found += [record for row in rows if _matches(row[2], record := record_of(row), query)]
            if len(rows) < limit:
                break
            after = rows[-1][0]
        return found

    async def _requeue(
        self,
        transaction: Transaction,
        wanted: Sequence[int],
        data: str | None,
        ids: Sequence[int],
    ) -> dict[int, int]:
        # Those that die while the locks are waited for are none of them.
        keys = {row[0]: row[1] for row in await transaction.fetch(sql.DEAD_LETTER_KEYS, wanted)}
        now_ms = await self._lock(transaction, list(keys.values()))
        rows = {row[0]: row for row in await transaction.fetch(sql.TAKE_DEAD_LETTERS, list(keys))}
        old = [message_id for message_id in wanted if message_id in rows]
        if not old:
            return {}
        sends = [send_of(rows[message_id][1:], data) for message_id in old]
        new = ids[: len(old)]
        await insert(transaction, sends, new, now_ms, requeued_from=old)
        await transaction.fetch(sql.MOVE_IDEMPOTENT, new, old)
        await promote_heads(transaction, [send.ordering_key for send in sends], now_ms)
        return dict(zip(old, new, strict=True))

    async def _discard(self, transaction: Transaction, wanted: Sequence[int]) -> dict[int, bool]:
        keys = [row[0] for row in await transaction.fetch(sql.MESSAGE_KEYS, wanted)]
        now_ms = await self._lock(transaction, keys)
        held = [Held(*row) for row in await transaction.fetch(sql.HOLD, wanted)]
        gone = {one.id: one.state != _RUNNING for one in held}
        waiting = [one for one in held if gone[one.id]]
        await transaction.fetch(sql.DELETE_MESSAGES, [one.id for one in waiting])
        others = [message_id for message_id in wanted if message_id not in gone]
        dead = await transaction.fetch(sql.DELETE_DEAD_LETTERS, others)
        gone.update({row[0]: True for row in dead})
        forgotten = [message_id for message_id, is_gone in gone.items() if is_gone]
        await transaction.fetch(sql.FORGET_IDEMPOTENT, forgotten)
        await promote_heads(transaction, [one.ordering_key for one in waiting], now_ms)
        return {message_id: gone[message_id] for message_id in wanted if message_id in gone}

    async def _lock(self, transaction: Transaction, keys: Sequence[str | None]) -> int:
        wanted = [locks.ordering(key) for key in keys if key is not None]
        schema = self._sessions.schema
        locked = await locks.lock_briefly(transaction, schema, wanted, self._now_ms())
        transaction.xid = locked.xid
        if locked.missing:
            raise StillHeldError(min(locked.missing))
        return locked.now_ms


def _as_json(text: str | None) -> str | None:
    return None if text is None else json.dumps(text, ensure_ascii=False)[1:-1]


def _like(pattern: str | None) -> str | None:
    return pattern and _NO_WILDCARD.sub(r"\\\g<0>", pattern).replace("*", "%")


def _matches(data: str, record: MessageRecord, query: Query) -> bool:
    # What is sought may be in the names of the errors' parts, too: that is not meant.
    texts = [error.text for error in record.errors]
    traces = [error.trace for error in record.errors]
    return _is_in(query.search, [data, *texts, *traces]) and _is_in(query.error, texts)


def _is_in(sought: str | None, texts: Sequence[str]) -> bool:
    return sought is None or any(sought.lower() in text.lower() for text in texts)
