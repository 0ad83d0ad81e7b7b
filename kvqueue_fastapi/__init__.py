"""A durable message queue inside a FastAPI app, wired by dependency injection."""

from kvqueue_fastapi.admin import KvQueueAdmin, Page
from kvqueue_fastapi.depends import Injected, KvQueueDep, get_kv_queue
from kvqueue_fastapi.errors import (
    AlreadySettledError,
    HandlerError,
    IdempotencyConflictError,
    InvalidKeyError,
    InvalidOptionError,
    KvQueueClosedError,
    KvQueueError,
    KvQueueNotStartedError,
    LeaseLostError,
    NotInstalledError,
    PayloadError,
    PayloadTooLargeError,
    QueueFullError,
    Reject,
    RetryLater,
    SchemaTooNewError,
    StoreBusyError,
    StoreError,
)
from kvqueue_fastapi.handlers.consumers import contribute_consumers
from kvqueue_fastapi.handlers.decorator import on_queue_message
from kvqueue_fastapi.message import Message
from kvqueue_fastapi.model import AttemptError, ListenerRecord, MessageRecord, State, TypeCounts
from kvqueue_fastapi.module import KvQueueModule
from kvqueue_fastapi.outgoing import OutgoingMessage, SendOptions
from kvqueue_fastapi.queue import KvQueue
from kvqueue_fastapi.settings import KvQueueSettings

__all__ = [
    "AlreadySettledError",
    "AttemptError",
    "HandlerError",
    "IdempotencyConflictError",
    "Injected",
    "InvalidKeyError",
    "InvalidOptionError",
    "KvQueue",
    "KvQueueAdmin",
    "KvQueueClosedError",
    "KvQueueDep",
    "KvQueueError",
    "KvQueueModule",
    "KvQueueNotStartedError",
    "KvQueueSettings",
    "LeaseLostError",
    "ListenerRecord",
    "Message",
    "MessageRecord",
    "NotInstalledError",
    "OutgoingMessage",
    "Page",
    "PayloadError",
    "PayloadTooLargeError",
    "QueueFullError",
    "Reject",
    "RetryLater",
    "SchemaTooNewError",
    "SendOptions",
    "State",
    "StoreBusyError",
    "StoreError",
    "TypeCounts",
    "contribute_consumers",
    "get_kv_queue",
    "on_queue_message",
]
