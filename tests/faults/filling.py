"""Databases that are deep before the queue opens them, filled by one statement of SQL."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from kvqueue_fastapi.store.sqlite.connection import Patience, connect
from kvqueue_fastapi.store.sqlite.schema import migrate


def filled(path: Path, count: int, **columns: str | int) -> Path:
    """Make a database with so many messages. Each column is SQL, in which `i` runs from 1."""
    columns = {"type": "'deep'", "due_at_ms": 0, "sent_at_ms": 0, **columns}
    values = ", ".join(map(str, columns.values()))
    with closing(connect(str(path), synchronous="NORMAL", patience=Patience(10))) as connection:
        migrate(connection, Patience(10))
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(
            f"WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
            f"INSERT INTO kvqueue_messages ({', '.join(columns)}) SELECT {values} FROM n"
        )
    return path


def rows(path: Path, statement: str) -> list[Any]:
    """What another program reads there."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()
