"""Messages that are given up, and the keys that are written for them."""

import sqlite3

from kvqueue_fastapi.errors import StoreError
from kvqueue_fastapi.model import Failure
from kvqueue_fastapi.store.sqlite import statements as sql
from kvqueue_fastapi.store.sqlite.keys import write_keys
from kvqueue_fastapi.store.undelivered import undelivered_sets

Row = tuple[int, str, str, str | None, str | None, int]
"""Of a message: id, type, data, options, ordering_key, crashes."""


def bury(
    connection: sqlite3.Connection, row: Row, failure: Failure, now_ms: int, *, crashes: int = 0
) -> None:
    """Make a message a dead letter and write its `keys_if_undelivered`, in this transaction.

    Args:
        connection: within a transaction.
        row: the message.
        failure: why; its text is the reason.
        now_ms: when.
        crashes: to be added to those on its record.
    """
    message_id, message_type, data, options, _, _ = row
    try:
        write_keys(connection, undelivered_sets(message_type, data, options), now_ms)
    except StoreError as error:  # nothing was written, and the message must still have its end
        why = f"{failure.text}; its keys_if_undelivered were not written: {error}"
        failure = failure._replace(text=why)
    connection.execute(
        sql.BURY,
        {
            "id": message_id,
            "now_ms": now_ms,
            "text": failure.text,
            "trace": failure.trace,
            "crashes": crashes,
        },
    )
    connection.execute(sql.DELETE_MESSAGE, {"id": message_id})
