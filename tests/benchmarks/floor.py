"""The floor: raw `sqlite3`, the same rows, the same indexes, the same durability, one thread."""

import json
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import Any

from kvqueue_fastapi.store.migrations import load_migrations
from kvqueue_fastapi.store.sqlite.statements import CREATE_SCHEMA
from tests.benchmarks.rows import SYNCED, WARM_UP, Figures, Row

TYPE = "order.created"
PAYLOAD = '{"order_id":1,"customer":"c-42","lines":[1,2,3]}'
INSERT = "INSERT INTO kvqueue_messages (type, data) VALUES (?, ?)"
# What the package writes for a message that asks for nothing.
SEND = """
INSERT INTO kvqueue_messages
       (type, data, state, priority, due_at_ms, sent_at_ms, ordering_key, options, requeued_from)
VALUES (?, ?, 0, 0, ?, ?, NULL, NULL, NULL)
"""
PICK = """
SELECT id, type, data, attempt, crashes, sent_at_ms, ordering_key, options
  FROM kvqueue_messages WHERE state = 0 AND type = ?
 ORDER BY priority DESC, due_at_ms, id LIMIT 100
"""
TAKE = """
UPDATE kvqueue_messages
   SET state = 3, token = 1, holder = 1, lease_until_ms = ?, attempt = attempt + 1
 WHERE id IN (SELECT value FROM json_each(?))
"""
DELETE = """
DELETE FROM kvqueue_messages WHERE id IN (SELECT value FROM json_each(?)) AND token = 1
"""
LEASE_MS = 30_000


def connect(path: Path) -> sqlite3.Connection:
    connection = connect_filled(path)
    connection.executescript(CREATE_SCHEMA)
    for migration in load_migrations("kvqueue_fastapi.store.sqlite"):
        connection.executescript(migration.sql)
    return connection


def connect_filled(path: Path) -> sqlite3.Connection:
    """Without making the schema."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def sent() -> tuple[str, str, int, int]:
    """The values of a message that is sent now."""
    now_ms = int(time.time() * 1000)
    return TYPE, PAYLOAD, now_ms, now_ms


def send(directory: Path, divisor: int, *, count: int, rows_a_commit: int) -> Figures:
    """Rows a second, inserted with so many rows a commit."""
    connection = connect(directory / "floor.db")
    commits = max(1, count // divisor // rows_a_commit)
    _send(connection, max(1, commits // WARM_UP), rows_a_commit)
    began = time.perf_counter()
    _send(connection, commits, rows_a_commit)
    took = time.perf_counter() - began
    connection.close()
    return {"per_s": commits * rows_a_commit / took}


def _send(connection: sqlite3.Connection, commits: int, rows_a_commit: int) -> None:
    for _ in range(commits):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(SEND, [sent() for _ in range(rows_a_commit)])
        connection.execute("COMMIT")


def handle(directory: Path, divisor: int, *, fused: bool) -> Figures:
    """Rows a second, claimed and deleted in batches of 100.

    Args:
        directory: to work in.
        divisor: of the work.
        fused: one commit deletes a batch and claims the next; else each has a commit of its own.
    """
    connection = connect(directory / "floor.db")
    count = 20_000 // divisor
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(SEND, [sent() for _ in range(count)])
    connection.execute("COMMIT")
    rate = handle_some(connection, count, fused=fused)
    connection.close()
    return {"per_s": rate}


def handle_some(connection: sqlite3.Connection, count: int, *, fused: bool) -> float:
    """Rows a second; a multiple of a hundred, no more than wait."""
    began = time.perf_counter()
    connection.execute("BEGIN IMMEDIATE")
    for _ in range(count // 100):
        claimed = _claim(connection)
        _commit_and_begin(connection)
        connection.execute(DELETE, (claimed,))
        if not fused:
            _commit_and_begin(connection)
    connection.execute("COMMIT")
    return count / (time.perf_counter() - began)


def _commit_and_begin(connection: sqlite3.Connection) -> None:
    connection.execute("COMMIT")
    connection.execute("BEGIN IMMEDIATE")


def _claim(connection: sqlite3.Connection) -> str:
    """Mark what is next. Returns its ids as JSON."""
    rows: list[Any] = connection.execute(PICK, (TYPE,)).fetchall()
    ids = json.dumps([row[0] for row in rows])
    connection.execute(TAKE, (int(time.monotonic() * 1000) + LEASE_MS, ids))
    return ids


def _sends(work: str, name: str, count: int, rows_a_commit: int) -> Row:
    measure = partial(send, count=count, rows_a_commit=rows_a_commit)
    return Row(work, name, "floor", SYNCED, measure)


ROWS = [
    _sends("A", "100 rows a commit", 40_000, 100),
    _sends("A", "1,000 rows a commit", 100_000, 1_000),
    _sends("B", "1 row a commit", 4_000, 1),
    Row("C", "batches of 100, two commits", "floor", SYNCED, partial(handle, fused=False)),
    Row("C", "batches of 100, one commit", "floor", SYNCED, partial(handle, fused=True)),
]
