"""The keeper's verbs on SQLite."""

import re
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

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
from kvqueue_fastapi.store.base import MAX_STEPS, MINUTE_MS, MINUTES_KEPT, Clock
from kvqueue_fastapi.store.records import STATES, record_of, send_of, state_of, types_of
from kvqueue_fastapi.store.sqlite import sends
from kvqueue_fastapi.store.sqlite import statements as sql
from kvqueue_fastapi.store.sqlite.reader import Reader

R = TypeVar("R")

_RUNNING: Final = 3
_NO_WILDCARD: Final = re.compile(r"[?[]")
"""What GLOB would take for one, beside the *."""


class Transact(Protocol):
    """Runs a function in one durable transaction on the writing thread."""

    async def __call__(self, work: Callable[[sqlite3.Connection], R]) -> R:
        """Run it and return what it returns."""
        ...


class SqliteAdmin:
    """Looks into the store and puts it right."""

    def __init__(
        self,
        reader: Reader,
        transact: Transact,
        clock: Clock,
        has_died: Callable[[int, str, int], bool],
    ) -> None:
        self._reader = reader
        self._has_died = has_died
        self._transact = transact
        self._clock = clock

    async def counts(self) -> list[TypeCounts]:
        """One for each type that was ever sent or paused, or that a listener handles."""
        states: defaultdict[str, dict[State, int]] = defaultdict(dict)
        oldest: dict[str, int] = {}
        for kind, state, count, sent_at_ms in await self._reader.fetch_all(sql.COUNT_MESSAGES, {}):
            states[kind][state_of(state)] = states[kind].get(state_of(state), 0) + count
            oldest[kind] = min(sent_at_ms, oldest.get(kind, sent_at_ms))
        for kind, count in await self._reader.fetch_all(sql.COUNT_DEAD_LETTERS, {}):
            states[kind][State.DEAD] = count
        known = {row[0] for row in await self._reader.fetch_all(sql.KNOWN_TYPES, {})}
        paused = {row[0] for row in await self._reader.fetch_all(sql.PAUSED_TYPES, {})}
        alive = [one for one in await self.listeners() if one.is_alive]
        handled = {kind for listener in alive for kind in listener.types}
        now_ms = self._clock.wall_ms()
        return [
            TypeCounts(
                type=kind,
                **{state.value: states[kind].get(state, 0) for state in STATES},
                oldest_age_s=(now_ms - oldest[kind]) / 1000 if kind in oldest else None,
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
        return await self._list(statement, query, None)

    async def payloads(self, *, after: int, limit: int) -> list[Payload]:
        """The payloads of messages that wait or run, behind an id, by id."""
        names = {"after": after, "limit": limit}
        return [Payload(*row) for row in await self._reader.fetch_all(sql.READ_PAYLOADS, names)]

    async def show(self, message_id: int) -> MessageRecord | None:
        """A message or dead letter."""
        for statement in (sql.SHOW_MESSAGE, sql.SHOW_DEAD_LETTER):
            for row in await self._reader.fetch_all(statement, {"id": message_id}):
                return record_of(row)
        return None

    async def dead_ids(
        self, message_type: str, *, died_by_ms: int, after: int, limit: int
    ) -> list[int]:
        """The ids of a type's dead letters behind `after` that had died by then, in order."""
        names = {"type": message_type, "died_by_ms": died_by_ms, "after": after, "limit": limit}
        return [row[0] for row in await self._reader.fetch_all(sql.DEAD_IDS_OF_TYPE, names)]

    async def last_death_ms(self) -> int | None:
        """When the last of the dead letters died, up to now; None: there is none."""
        now = {"now_ms": self._clock.wall_ms()}
        ((last,),) = await self._reader.fetch_all(sql.LAST_DEATH, now)
        return None if last is None else int(last)

    async def original(self, message_id: int) -> Send | None:
        """What sends a message or dead letter once more."""
        for statement in (sql.READ_MESSAGE, sql.READ_DEAD_LETTER):
            for row in await self._reader.fetch_all(statement, {"id": message_id}):
                return send_of(row)
        return None

    async def requeue(
        self, message_ids: Sequence[int], *, data: str | None = None
    ) -> dict[int, int]:
        """Send dead letters again, at the tail of their keys. Returns their new ids."""
        now_ms = self._clock.wall_ms()
        return await self._transact(
            lambda connection: _requeue(connection, message_ids, data, now_ms)
        )

    async def discard(self, message_ids: Sequence[int]) -> dict[int, bool]:
        """Remove messages and dead letters for good. Running ones stay."""
        now_ms = self._clock.wall_ms()
        return await self._transact(lambda connection: _discard(connection, message_ids, now_ms))

    async def set_paused(self, message_type: str, *, paused: bool) -> None:
        """Stop or resume claiming of a type, in every process."""
        names = {"type": message_type, "paused": int(paused), "now_ms": self._clock.wall_ms()}
        await self._transact(lambda connection: connection.execute(sql.SET_PAUSED, names))

    async def listeners(self) -> list[ListenerRecord]:
        """The processes that listen."""
        rows = await self._reader.fetch_all(sql.LISTENERS, {})
        return [
            ListenerRecord(
                id=row[0],
                host=row[1],
                pid=row[2],
                since_ms=row[3],
                types=types_of(row[4]),
                leases=row[5],
                running=row[6],
                seen_ms=row[7],
                loop_lag_ms=row[8],
                version=row[9],
                is_alive=not self._has_died(row[0], row[10], row[2]),
            )
            for row in rows
        ]

    async def oldest_ready_age_ms(self) -> int | None:
        """For how long the oldest message has been due that somebody may handle."""
        ((due_at_ms,),) = await self._reader.fetch_all(sql.OLDEST_READY, {"most": MAX_STEPS})
        return None if due_at_ms is None else max(0, self._clock.wall_ms() - due_at_ms)

    async def minutes(self) -> list[Minute]:
        """Those of the last hour in which something ended, by type and time."""
        names = {"after_ms": self._clock.wall_ms() - MINUTES_KEPT * MINUTE_MS}
        return [Minute(*row) for row in await self._reader.fetch_all(sql.MINUTES, names)]

    async def _list(self, statement: str, query: Query, state: int | None) -> list[MessageRecord]:
        names = {
            "type": query.type,
            "type_glob": query.type_pattern and _NO_WILDCARD.sub(r"[\g<0>]", query.type_pattern),
            "state": state,
            "ordering_key": query.ordering_key,
            "search": query.search,
            "error": query.error,
            "after": query.after,
            "limit": query.limit,
        }
        return [record_of(row) for row in await self._reader.fetch_all(statement, names)]


def _requeue(
    connection: sqlite3.Connection, message_ids: Sequence[int], data: str | None, now_ms: int
) -> dict[int, int]:
    requeued: dict[int, int] = {}
    for old in dict.fromkeys(message_ids):
        row = connection.execute(sql.READ_DEAD_LETTER, {"id": old}).fetchone()
        if row is None:
            continue
        send = send_of(row, data)
        requeued[old] = sends.insert(connection, (send,), now_ms, requeued_from=old)[0]
        names = {"id": requeued[old], "requeued_from": old}
        connection.execute(sql.MOVE_IDEMPOTENT, names)
        connection.execute(sql.DELETE_DEAD_LETTER, {"id": old})
    return requeued


def _discard(
    connection: sqlite3.Connection, message_ids: Sequence[int], now_ms: int
) -> dict[int, bool]:
    gone: dict[int, bool] = {}
    ordering_keys: list[str | None] = []
    for message_id in message_ids:
        names = {"id": message_id}
        row = connection.execute(sql.READ_STATE, names).fetchone()
        if row is not None and row[0] == _RUNNING:
            gone[message_id] = False
            continue
        statement = sql.DELETE_DEAD_LETTER if row is None else sql.DELETE_MESSAGE
        if connection.execute(statement, names).rowcount:
            gone[message_id] = True
            ordering_keys.append(None if row is None else row[1])
            connection.execute(sql.FORGET_IDEMPOTENT, names)
    sends.promote_heads(connection, ordering_keys, now_ms)
    return gone
