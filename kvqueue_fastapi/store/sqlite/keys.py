"""The key-value table: checks and mutations."""

import sqlite3
from collections.abc import Sequence

from kvqueue_fastapi.model import Check, KvSet, Mutation
from kvqueue_fastapi.store.sqlite import statements as sql


def checks_hold(connection: sqlite3.Connection, checks: Sequence[Check], now_ms: int) -> bool:
    """Whether every key has the version that its check names."""
    for check in checks:
        names = {"key": check.key, "now_ms": now_ms}
        row = connection.execute(sql.KEY_VERSION, names).fetchone()
        if (None if row is None else row[0]) != check.version:
            return False
    return True


def apply_mutations(connection: sqlite3.Connection, mutations: Sequence[Mutation]) -> int | None:
    """Apply them in order. Returns the version that they share; None: there were none."""
    if not mutations:
        return None
    version: int = connection.execute(sql.NEXT_VERSION).fetchone()[0]
    for mutation in mutations:
        if isinstance(mutation, KvSet):
            names = {**mutation._asdict(), "version": version}
            connection.execute(sql.SET_KEY, names)
        else:
            connection.execute(sql.DELETE_KEY, {"key": mutation.key})
    return version
