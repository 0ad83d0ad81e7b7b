"""The keys that are written for a message that is given up, the same for every engine."""

from kvqueue_fastapi.codec import decode_options, decode_payload, envelope, is_envelope, json_text
from kvqueue_fastapi.errors import PayloadError
from kvqueue_fastapi.model import BARE_TYPE, Encoding, KvSet


def undelivered_sets(message_type: str, data: str, options: str | None) -> list[KvSet]:
    """What its sender asked for with `keys_if_undelivered`."""
    keys = _undelivered_keys(options)
    if not keys:
        return []
    value = _undelivered_value(message_type, data)
    return [KvSet(key, value, Encoding.JSON) for key in keys]


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
