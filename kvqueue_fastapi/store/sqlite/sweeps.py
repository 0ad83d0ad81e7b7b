"""What is past its time goes, a slice at a time."""

import sqlite3
from typing import Final

from kvqueue_fastapi.store.base import MINUTE_MS, MINUTES_KEPT
from kvqueue_fastapi.store.sqlite import statements as sql
from kvqueue_fastapi.store.sqlite.connection import Patience, WriteTransaction, patiently

SLICE: Final = 500
_PAGES: Final = 1_000
_SWEEPS: Final = (
    sql.SWEEP_DEAD_LETTERS,
    sql.SWEEP_IDEMPOTENCY,
    sql.SWEEP_KEYS,
    sql.SWEEP_MINUTES,
)


def sweep(
    connection: sqlite3.Connection, *, now_ms: int, retention_ms: int, patience: Patience
) -> int:
    """Remove a slice of old dead letters, spent idempotency keys, expired keys and old minutes.

    Returns: how many rows went; 0: there is nothing left to sweep.
    """
    names = {
        "now_ms": now_ms,
        "before_ms": now_ms - retention_ms,
        "last_hour_ms": now_ms - MINUTES_KEPT * MINUTE_MS,
        "slice": SLICE,
    }
    with WriteTransaction(connection, patience):
        gone = sum(connection.execute(statement, names).rowcount for statement in _SWEEPS)
    if not gone:
        # Fetched to the end, because each step of this one frees a page.
        vacuum = f"PRAGMA incremental_vacuum({_PAGES})"
        patiently(lambda: connection.execute(vacuum).fetchall(), patience)
    return gone
