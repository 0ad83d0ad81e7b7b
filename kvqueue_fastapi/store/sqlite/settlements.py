"""How claims end: removed, tried again, given back or given up."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Sequence

from kvqueue_fastapi.model import Failure, Outcome, Settlement
from kvqueue_fastapi.store.sqlite import statements as sql
from kvqueue_fastapi.store.sqlite.dead_letters import bury
from kvqueue_fastapi.store.sqlite.sends import promote_heads


def settle_together(
    connection: sqlite3.Connection, settlements: Sequence[Settlement], now_ms: int
) -> list[bool] | None:
    """End claims, those that are done in one statement for each token.

    Returns: whether each lease still held; None: some lease of those that are done was lost,
        nothing says which, and the transaction is to be rolled back and replayed one by one.
    """
    done: defaultdict[int, list[int]] = defaultdict(list)
    held: list[bool] = []
    for settlement in settlements:
        if settlement.outcome is Outcome.DONE:
            done[settlement.token].append(settlement.id)
            held.append(True)
        else:
            held.append(_settle(connection, settlement, now_ms))
    for token, ids in done.items():
        names = {"ids": json.dumps(ids), "token": token}
        if connection.execute(sql.DELETE_HELD, names).rowcount != len(ids):
            return None
    promote_heads(connection, (settlement.ordering_key for settlement in settlements), now_ms)
    return held


def settle_singly(
    connection: sqlite3.Connection, settlements: Sequence[Settlement], now_ms: int
) -> list[bool]:
    """End claims one by one. Returns whether each lease still held."""
    held = [_settle(connection, settlement, now_ms) for settlement in settlements]
    promote_heads(connection, (settlement.ordering_key for settlement in settlements), now_ms)
    return held


def _settle(connection: sqlite3.Connection, settlement: Settlement, now_ms: int) -> bool:
    names = {"id": settlement.id, "token": settlement.token}
    match settlement.outcome:
        case Outcome.DONE:
            names["ids"] = json.dumps([settlement.id])  # type: ignore[assignment] # names hold any value
            return connection.execute(sql.DELETE_HELD, names).rowcount == 1
        case Outcome.RELEASE:
            return connection.execute(sql.RELEASE_HELD, names).rowcount == 1
        case Outcome.DEAD:
            return _give_up(connection, settlement, now_ms)
        case Outcome.RETRY | Outcome.LATER:
            return _put_off(connection, settlement, now_ms)


def _put_off(connection: sqlite3.Connection, settlement: Settlement, now_ms: int) -> bool:
    failure = settlement.failure or Failure("")
    names = {
        "id": settlement.id,
        "token": settlement.token,
        "now_ms": now_ms,
        "due_at_ms": now_ms + settlement.delay_ms,
        "text": failure.text,
        "trace": failure.trace,
    }
    statement = sql.RETRY_HELD if settlement.outcome is Outcome.RETRY else sql.DEFER_HELD
    return connection.execute(statement, names).rowcount == 1


def _give_up(connection: sqlite3.Connection, settlement: Settlement, now_ms: int) -> bool:
    names = {"id": settlement.id, "token": settlement.token}
    row = connection.execute(sql.HELD, names).fetchone()
    if row is None:
        return False
    bury(connection, row, settlement.failure or Failure("given up"), now_ms)
    return True
