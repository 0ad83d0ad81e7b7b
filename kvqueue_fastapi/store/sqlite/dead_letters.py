"""Messages that are given up, and the keys that are written for them."""

import sqlite3

from kvqueue_fastapi.codec import decode_options, decode_payload, envelope, is_envelope, json_text
from kvqueue_fastapi.errors import PayloadError, StoreError
from kvqueue_fastapi.model import BARE_TYPE, Encoding, Failure, KvSet
from kvqueue_fastapi.store.sqlite import statements as sql
from kvqueue_fastapi.store.sqlite.keys import write_keys

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
    value = _undelivered_value(message_type, data)
    sets = [KvSet(key, value, Encoding.JSON) for key in _undelivered_keys(options)]
    try:
        write_keys(connection, sets, now_ms)
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


def _undelivered_value(message_type: str, data: str) -> bytes:
    """What `Kv.enqueue` would send again."""
    text = json_text(data)
    # What only looks like an envelope, such as a model, needs one to come back as it is.
    if message_type != BARE_TYPE or is_envelope(decode_payload(text, None)):
        text = envelope(message_type, data)
    return text.encode()


def _undelivered_keys(options: str | None) -> tuple[bytes, ...]:
    try:
        return decode_options(options).keys_if_undelivered
    except PayloadError:  # a foreign program wrote it; its reason is in the dead letter
        return ()
