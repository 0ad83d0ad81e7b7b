"""Every error of the package.

KvQueueError
├── KvQueueNotStartedError      the queue is used before its app started
├── KvQueueClosedError          the queue is used after its app stopped
├── NotInstalledError           a route or a worker asks for a queue that no module installed
├── HandlerError                a handler or its wiring is wrong; stops the start
├── InvalidOptionError          an option is of the wrong type or outside its limits
├── InvalidKeyError             a key that the key-value store cannot hold
├── PayloadError                a payload or value that cannot be encoded, or is not what is asked
│   └── PayloadTooLargeError
├── IdempotencyConflictError    the same idempotency key with another body
├── QueueFullError              `max_pending` messages wait already
├── LeaseLostError              another process may have the message now
├── AlreadySettledError         the message was settled before
└── StoreError                  the database failed
    ├── StoreBusyError          another program holds the database, or its server is away
    └── SchemaTooNewError       a newer version of this package owns the database

Not errors but verdicts, which a handler raises: `RetryLater` and `Reject`.
"""

from datetime import timedelta


class KvQueueError(Exception):
    """The root of every error that this package raises."""


def shown(value: object, characters: int = 80) -> str:
    """A value as an error shows it: its beginning."""
    try:
        return repr(value)[:characters]
    except Exception:  # noqa: BLE001 because no int of more than 4,300 digits can be printed, nor everything else
        return f"a {type(value).__name__}"


class KvQueueNotStartedError(KvQueueError):
    """The queue is used before its store is open, or on another event loop than its own.

    Or in a process that was forked from that which has it.
    """

    def __init__(self, *, is_elsewhere: bool = False, is_forked: bool = False) -> None:
        if is_forked:
            super().__init__(
                "The queue is not started in this process: it was forked from one where the queue "
                "runs, and has neither its threads nor its locks. Start the queue after the fork, "
                'or make the process by multiprocessing\'s "spawn"; let a forked child end by '
                "os._exit."
            )
            return
        where = " on this event loop, but on another one" if is_elsewhere else ""
        super().__init__(
            f"The queue is not started{where}. It opens with the app's lifespan: in tests use "
            "`with TestClient(app)`, in scripts `async with module.running() as queue`. A thread "
            "of the app reaches its event loop by `anyio.from_thread.run(…)`."
        )


class KvQueueClosedError(KvQueueError):
    """The queue is used after its store was closed."""

    def __init__(self) -> None:
        super().__init__(
            "The queue is closed: its app has stopped, or Kv.close was called. Use it before, "
            "or start it again."
        )


class NotInstalledError(KvQueueError):
    """A route or a worker asks for a queue, but no module was installed in its app."""


class HandlerError(KvQueueError):
    """A handler, or the way it is wired, is wrong. Raised at decoration or at start-up."""


class InvalidOptionError(KvQueueError, TypeError, ValueError):
    """An option has the wrong type or lies outside its limits. Nothing was stored."""


class InvalidKeyError(KvQueueError, TypeError, ValueError):
    """A key is empty, too long, or has a part of a type that keys do not have."""


class PayloadError(KvQueueError, TypeError, ValueError):
    """A payload or value cannot be encoded, or is not what its handler or reader takes."""


class PayloadTooLargeError(PayloadError):
    """An encoded payload or value is larger than `max_payload_bytes`. Nothing was stored.

    Attributes:
        size_bytes: what it takes as it would be stored, JSON in UTF-8.
        limit_bytes: the setting `max_payload_bytes`.
    """

    def __init__(self, size_bytes: int, limit_bytes: int, what: str = "Payload") -> None:
        super().__init__(
            f"{what} too large (max {limit_bytes} bytes): it takes {size_bytes} bytes. "
            "Store the body elsewhere and send its key, or raise KVQUEUE_MAX_PAYLOAD_BYTES."
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class IdempotencyConflictError(KvQueueError):
    """An idempotency key was used before, for a message with another body.

    Attributes:
        message_type: the type that the key belongs to.
        idempotency_key: the key.
        message_id: the message that was stored under it first; None: it is of the same commit,
            and so was not stored.
    """

    def __init__(self, message_type: str, idempotency_key: str, message_id: int | None) -> None:
        owner = "another message of this commit" if message_id is None else f"message {message_id}"
        super().__init__(
            f"Idempotency key {idempotency_key!r} of type {message_type!r} belongs to {owner}, "
            "which has another body. Use one key for one body."
        )
        self.message_type = message_type
        self.idempotency_key = idempotency_key
        self.message_id = message_id


class QueueFullError(KvQueueError):
    """So many messages wait that no more are taken. A route may answer 503.

    Attributes:
        pending: how many messages waited at the last count.
        limit: the setting `max_pending`.
    """

    def __init__(self, pending: int, limit: int) -> None:
        super().__init__(
            f"{pending} messages wait, the limit is {limit} (KVQUEUE_MAX_PENDING). "
            "Send again later, or let more processes listen."
        )
        self.pending = pending
        self.limit = limit


class LeaseLostError(KvQueueError):
    """The lease on a message ended: another process may have it now. Nothing was written."""

    def __init__(self) -> None:
        super().__init__(
            "The lease on the message was lost, so nothing was written: its process was frozen "
            "or cut off, and another one may have the message now. Let the handler end."
        )


class AlreadySettledError(KvQueueError):
    """The message was settled before this commit of `message.atomic()`. Nothing was written.

    Attributes:
        message_id: the message.
    """

    def __init__(self, message_id: int) -> None:
        super().__init__(
            f"Message {message_id} was settled before, by a commit of message.atomic() or because "
            "its handler has returned, so nothing was written. Put all effects into one "
            "operation, or use kv.atomic() for what may happen more than once."
        )
        self.message_id = message_id


class StoreError(KvQueueError):
    """The database failed. The cause is its own error."""


class StoreBusyError(StoreError):
    """Another program holds the database for too long, or its server cannot be reached."""


class SchemaTooNewError(StoreError):
    """The database belongs to a newer version of this package, which refuses this one."""

    def __init__(self, oldest_code: int, this_code: int) -> None:
        super().__init__(
            f"The database takes code from schema {oldest_code} on, this code knows schema "
            f"{this_code}. Upgrade kvqueue_fastapi in this process."
        )
        self.oldest_code = oldest_code
        self.this_code = this_code


class RetryLater(Exception):  # noqa: N818 because it is a handler's verdict, not an error
    """What a handler raises to have its message again later, without spending an attempt.

    Args:
        delay: how long to wait, in seconds or as a `timedelta`; at least 0, at most 30 days.
    """

    def __init__(self, delay: float | timedelta) -> None:
        super().__init__(delay)
        self.delay = delay


class Reject(Exception):  # noqa: N818 because it is a handler's verdict, not an error
    """What a handler raises to make its message a dead letter now.

    Args:
        reason: kept with the dead letter.
    """

    def __init__(self, reason: str = "rejected by its handler") -> None:
        super().__init__(reason)
        self.reason = reason
