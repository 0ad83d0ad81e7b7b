"""The floor: raw `sqlite3`, the same rows, the same indexes, the same durability, one thread."""

import sqlite3
import time
from pathlib import Path

from kvqueue_fastapi.store.migrations import load_migrations

PAYLOAD = '{"order_id":1,"customer":"c-42","lines":[1,2,3]}'
INSERT = "INSERT INTO kvqueue_messages (type, data) VALUES (?, ?)"
PICK = "SELECT id FROM kvqueue_messages WHERE state = 0 ORDER BY type, due_at_ms, id LIMIT 100"


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    for migration in load_migrations("kvqueue_fastapi.store.sqlite"):
        connection.executescript(migration.sql)
    return connection


def send_rate(path: Path, count: int, rows_a_commit: int) -> float:
    """Rows a second, inserted with so many rows a commit."""
    connection = connect(path)
    rows = [("order.created", PAYLOAD)] * rows_a_commit
    began = time.perf_counter()
    for _ in range(count // rows_a_commit):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(INSERT, rows)
        connection.execute("COMMIT")
    took = time.perf_counter() - began
    connection.close()
    return count / took


def handle_rate(path: Path, count: int) -> float:
    """Rows a second, claimed (marked) and deleted in batches of 100, a commit for each."""
    connection = connect(path)
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(INSERT, [("order.created", PAYLOAD)] * count)
    connection.execute("COMMIT")
    began = time.perf_counter()
    while ids := connection.execute(PICK).fetchall():
        for statement in (
            "UPDATE kvqueue_messages SET state = 3, attempt = attempt + 1 WHERE id = ?",
            "DELETE FROM kvqueue_messages WHERE id = ?",
        ):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(statement, ids)
            connection.execute("COMMIT")
    took = time.perf_counter() - began
    connection.close()
    return count / took
