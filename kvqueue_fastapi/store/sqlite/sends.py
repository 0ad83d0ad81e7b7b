"""Messages on their way into the table."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain, groupby
from typing import Any, Final

from pydantic_core import to_json

from kvqueue_fastapi.errors import IdempotencyConflictError
from kvqueue_fastapi.model import Send
from kvqueue_fastapi.store.sqlite import statements as sql

Row = tuple[str, str, int, int, int, int, str | None, str | None, int | None]

READY, DELAYED, BLOCKED = 0, 1, 2
_NOTHING_ASKED: Final = Send("", "")[2:]
MAX_ID: Final = (1 << 63) - 1


def insert(
    connection: sqlite3.Connection,
    sends: Sequence[Send],
    now_ms: int,
    requeued_from: int | None = None,
) -> list[int]:
    """Store messages without an idempotency key. Returns their ids, in order."""
    ids: list[int] = []
    for plain, run in groupby(sends, is_plain):
        if plain and requeued_from is None:
            ids += insert_plain(connection, list(run), now_ms)
        else:
            ids += _insert_rows(connection, [_row(send, now_ms, requeued_from) for send in run])
    promote_heads(connection, [send.ordering_key for send in sends], now_ms)
    return ids


def insert_once(connection: sqlite3.Connection, send: Send, now_ms: int, fresh: list[int]) -> int:
    """Store a message unless its idempotency key has one. Returns the id of the one that is.

    Args:
        connection: within a transaction.
        send: what to store.
        now_ms: when.
        fresh: what the same write has stored; it goes if that fails, so nobody is told its ids.

    Raises:
        IdempotencyConflictError: the key has a message with another body.
    """
    if send.idempotency is None:
        return insert(connection, (send,), now_ms)[0]
    key, digest, window_ms = send.idempotency
    names = {"type": send.type, "key": key, "now_ms": now_ms}
    found = connection.execute(sql.FIND_IDEMPOTENT, names).fetchone()
    if found is not None:
        if found[1] != digest:
            owner = None if found[0] in fresh else found[0]
            raise IdempotencyConflictError(send.type, key, owner)
        return int(found[0])
    message_id = insert(connection, (send,), now_ms)[0]
    fresh.append(message_id)
    connection.execute(
        sql.REMEMBER_IDEMPOTENT,
        {
            "type": send.type,
            "key": key,
            "message_id": message_id,
            "digest": digest,
            "expires_at_ms": now_ms + window_ms,
        },
    )
    return message_id


def promote_heads(
    connection: sqlite3.Connection, ordering_keys: Iterable[str | None], now_ms: int
) -> None:
    """Make the first message of each key claimable, if it is not yet."""
    keys = {key for key in ordering_keys if key is not None}
    if keys:
        names = {"ordering_keys": json.dumps(list(keys)), "now_ms": now_ms}
        connection.execute(sql.PROMOTE_HEADS, names)


def _row(send: Send, now_ms: int, requeued_from: int | None) -> Row:
    due_at_ms = now_ms + send.delay_ms
    if send.deliver_at_ms is not None:
        due_at_ms = max(send.deliver_at_ms, now_ms)
    state = READY if due_at_ms <= now_ms else DELAYED
    if send.ordering_key is not None:
        state = BLOCKED  # until the promotion finds it at the head of its key
    return (
        send.type,
        send.data,
        state,
        send.priority,
        due_at_ms,
        now_ms,
        send.ordering_key,
        send.options,
        requeued_from,
    )


def is_plain(send: Send) -> bool:
    """Whether it asks for nothing but to be sent."""
    return send[2:] == _NOTHING_ASKED


def insert_plain(
    connection: sqlite3.Connection, sends: Sequence[Send], now_ms: int
) -> Sequence[int]:
    """Store messages that are plain. Returns their ids, in order."""
    if len(sends) == 1:  # JSON is worth its while for several only
        return _insert_rows(connection, [_row(sends[0], now_ms, None)])
    names = {"sent": to_json([send[:2] for send in sends]).decode(), "now_ms": now_ms}
    return _insert(connection, sql.INSERT_PLAIN, names, len(sends))


def _insert_rows(connection: sqlite3.Connection, rows: Sequence[Row]) -> list[int]:
    ids: list[int] = []
    for size in sql.INSERT_SIZES:
        while len(rows) - len(ids) >= size:
            values = tuple(chain.from_iterable(rows[len(ids) : len(ids) + size]))
            ids += _insert(connection, sql.INSERT_MESSAGES[size], values, size)
    return ids


def _insert(connection: sqlite3.Connection, statement: str, values: Any, count: int) -> range:
    try:
        last = connection.execute(statement, values).lastrowid or 0
    except sqlite3.OperationalError:
        _refuse_without_ids(connection, count)
        raise
    # One writer, one statement: AUTOINCREMENT has numbered them without a gap.
    return range(last - count + 1, last + 1)


def _refuse_without_ids(connection: sqlite3.Connection, count: int) -> None:
    """Raise where no id is left, which SQLite calls a full disk."""
    row = connection.execute(sql.LAST_ID).fetchone()
    if row is not None and row[0] > MAX_ID - count:
        msg = (
            f"no message id is left: another program has stored id {row[0]}, the largest is "
            f"{MAX_ID}. Delete that row, and set seq of kvqueue_messages in sqlite_sequence to "
            "the id that was sent last before it"
        )
        raise sqlite3.OperationalError(msg)
