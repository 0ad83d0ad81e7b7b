"""A durable message queue inside a FastAPI app, wired by dependency injection."""

from kvqueue_fastapi.admin import KvQueueAdmin
from kvqueue_fastapi.atomic import AtomicOperation
from kvqueue_fastapi.backup import backup_store, restore_store
from kvqueue_fastapi.copying import CopyProgress, StoreCopy, copy_store
from kvqueue_fastapi.depends import Injected, KvDep, KvQueueDep, get_kv, get_kv_queue
from kvqueue_fastapi.entries import KvCommit, KvEntry, KvListEntry
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
from kvqueue_fastapi.keeper import (
    AttemptError,
    Health,
    ListenerRecord,
    MessageRecord,
    Minute,
    State,
    TypeCounts,
)
from kvqueue_fastapi.keys import Key, KeyPart, commit_versionstamp
from kvqueue_fastapi.kv import Kv
from kvqueue_fastapi.message import Message
from kvqueue_fastapi.middleware import CallHandler, Middleware
from kvqueue_fastapi.model import Delivery
from kvqueue_fastapi.module import KvQueueModule
from kvqueue_fastapi.outgoing import CallSend, OutgoingMessage, SendOptions
from kvqueue_fastapi.pages import Page
from kvqueue_fastapi.probes import health_router
from kvqueue_fastapi.queue import KvQueue
from kvqueue_fastapi.redaction import Redact
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store.backups import BackupProgress, StoreBackup
from kvqueue_fastapi.values import KvU64
from kvqueue_fastapi.version import __version__

__all__ = [
    "AlreadySettledError",
    "AtomicOperation",
    "AttemptError",
    "BackupProgress",
    "CallHandler",
    "CallSend",
    "CopyProgress",
    "Delivery",
    "HandlerError",
    "Health",
    "IdempotencyConflictError",
    "Injected",
    "InvalidKeyError",
    "InvalidOptionError",
    "Key",
    "KeyPart",
    "Kv",
    "KvCommit",
    "KvDep",
    "KvEntry",
    "KvListEntry",
    "KvQueue",
    "KvQueueAdmin",
    "KvQueueClosedError",
    "KvQueueDep",
    "KvQueueError",
    "KvQueueModule",
    "KvQueueNotStartedError",
    "KvQueueSettings",
    "KvU64",
    "LeaseLostError",
    "ListenerRecord",
    "Message",
    "MessageRecord",
    "Middleware",
    "Minute",
    "NotInstalledError",
    "OutgoingMessage",
    "Page",
    "PayloadError",
    "PayloadTooLargeError",
    "QueueFullError",
    "Redact",
    "Reject",
    "RetryLater",
    "SchemaTooNewError",
    "SendOptions",
    "State",
    "StoreBackup",
    "StoreBusyError",
    "StoreCopy",
    "StoreError",
    "TypeCounts",
    "__version__",
    "backup_store",
    "commit_versionstamp",
    "contribute_consumers",
    "copy_store",
    "get_kv",
    "get_kv_queue",
    "health_router",
    "on_queue_message",
    "restore_store",
]
