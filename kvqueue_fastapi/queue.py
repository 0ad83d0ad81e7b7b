"""The sender's face: `KvQueue`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import anyio.from_thread

from kvqueue_fastapi.errors import HandlerError, InvalidOptionError, KvQueueError, shown
from kvqueue_fastapi.health import checked_max_age_s
from kvqueue_fastapi.keeper import Health
from kvqueue_fastapi.keys import Key
from kvqueue_fastapi.model import AtomicWrite, Send, type_problem
from kvqueue_fastapi.outgoing import PLAIN, OutgoingMessage, SendOptions
from kvqueue_fastapi.sender import Sender
from kvqueue_fastapi.store.handle import StoreHandle

MAX_MESSAGES: Final = 10_000


class KvQueue:
    """Sends messages that survive a crash.

    A message is on disk when `send_message` returns. It is then handed to one handler at
    least once, so a handler must bear seeing it twice.

    Ask the container for it: a route with `KvQueueDep`, a service with a parameter annotated
    `Inject[KvQueue]`.

    Idea: Deno KV queues (docs.deno.com/deploy/kv/queue_overview) and Danet's `KvQueue`.
    """

    def __init__(self, *, handle: StoreHandle, sender: Sender) -> None:
        self._handle = handle
        self._sender = sender
        self._callbacks: dict[str, Callable[..., Any]] = {}

    async def send_message(
        self,
        message_type: str,
        data: Any = None,
        *,
        delay: float | timedelta = 0,
        deliver_at: datetime | None = None,
        backoff_schedule: Sequence[float | timedelta] | None = None,
        keys_if_undelivered: Sequence[Key] = (),
        idempotency_key: str | None = None,
        ordering_key: str | None = None,
        priority: int = 0,
        headers: Mapping[str, str] | None = None,
        connection: Any = None,
    ) -> int:
        """Store a message durably.

        A caller that is cancelled while it waits may have sent the message all the same.

        With `connection` it becomes part of the caller's own transaction: the message exists if
        and only if that commits, and handlers learn of it after the commit, in milliseconds.

        Args:
            message_type: whose handler is to have it; 1 to 255 characters.
            data: the payload: a pydantic model, a dataclass, dicts, lists, primitives, None;
                at most `max_payload_bytes` (65,536) of UTF-8 JSON.
            delay: 0 to 30 days, in seconds or as a `timedelta`: when it is due, from now.
            deliver_at: when it is due, with a time zone, at most 30 days ahead; a past time
                means now. Not together with `delay`.
            backoff_schedule: how long to wait before each retry, in seconds; at most 20 steps
                of at most 24 hours. Wins over the handler's and the settings'. [] is no retry.
            keys_if_undelivered: at most 10 keys under which `{"type": …, "data": …}` is
                written in the transaction that gives the message up.
            idempotency_key: within its window (24 hours) the same key of the same type stores
                nothing and returns the first message's id.
            ordering_key: messages with the same key are handled one at a time, in the order in
                which they were sent, whatever their type; a failed one holds its successors
                back until it is delivered or dead.
            priority: higher goes first among the messages of its type; 0 is usual.
            headers: str to str, at most 8 KiB, for `message.headers`.
            connection: of the caller's own, to the queue's database, in a transaction: on
                PostgreSQL an AsyncSession or AsyncConnection of SQLAlchemy (on asyncpg or
                psycopg), a connection of asyncpg, or psycopg's AsyncConnection; on SQLite an
                AsyncSession or AsyncConnection (on aiosqlite), or a connection of aiosqlite. A
                session that has not begun begins by itself. Until its transaction ends, it
                holds what this send needs: on SQLite the lock of the file, for which all other
                sends wait; on PostgreSQL the locks of its ordering key and idempotency key.
                None: the message has a transaction of its own.

        Returns:
            The message's id, once it is on disk. With `connection`, once it is part of the
            transaction; after a rollback another message may have that id on SQLite.

        Raises:
            InvalidOptionError: an option is of the wrong type or outside its limits. Or
                `connection` is no such connection, leads to another database, is in autocommit,
                read-only, or REPEATABLE READ or SERIALIZABLE where there is an ordering key.
            InvalidKeyError: one of `keys_if_undelivered` cannot be a key.
            PayloadError: the payload cannot be encoded, or its handler in this process would
                not take it.
            PayloadTooLargeError: it is too large.
            IdempotencyConflictError: the idempotency key belongs to another body.
            QueueFullError: `max_pending` messages wait.
            StoreBusyError: others hold a lock for too long. With `connection`, also where its
                transaction cannot be serialized with theirs: roll it back and do it again.
            StoreError: the database failed; nothing was stored. The cause is the driver's error.
                A `connection` is to be rolled back then.
            KvQueueNotStartedError: the app's lifespan has not run.
            KvQueueClosedError: it has ended.
        """
        options = PLAIN
        # Most messages ask for nothing, and then nothing is checked.
        if (
            delay != 0
            or deliver_at is not None
            or backoff_schedule is not None
            or keys_if_undelivered != ()
            or idempotency_key is not None
            or ordering_key is not None
            or priority != 0
            or headers is not None
        ):
            options = SendOptions(
                delay=delay,
                deliver_at=deliver_at,
                backoff_schedule=backoff_schedule,
                keys_if_undelivered=keys_if_undelivered,
                idempotency_key=idempotency_key,
                ordering_key=ordering_key,
                priority=priority,
                headers=headers,
            )
        send = self._sender.prepare(message_type, data, options)
        if connection is not None or self._sender.is_hooked:
            message = OutgoingMessage(message_type, data, options)
            return (await self._send_all((message,), (send,), connection))[0]
        committed = await self._sender.commit(AtomicWrite(sends=(send,)))
        return committed.message_ids[0]

    async def send_messages(
        self, messages: Iterable[OutgoingMessage | tuple[str, Any]], *, connection: Any = None
    ) -> list[int]:
        """Store many messages in one commit: all of them or none.

        Args:
            messages: at most 10,000; a pair of type and payload, or an `OutgoingMessage`
                where there are options.
            connection: of the caller's own, of whose transaction they become a part; see
                `send_message`.

        Returns:
            Their ids, in order; [] for none.

        Raises:
            InvalidOptionError: there are too many, or one is wrong; and as `send_message`.
        """
        self._handle.require_open()
        outgoing = [_outgoing(message) for message in messages]
        if len(outgoing) > MAX_MESSAGES:
            msg = (
                f"send_messages takes at most {MAX_MESSAGES} messages: received {len(outgoing)}. "
                "Send them in several calls."
            )
            raise InvalidOptionError(msg)
        if not outgoing:
            return []
        sends = tuple(self._sender.prepare(one.type, one.data, one.options) for one in outgoing)
        return await self._send_all(outgoing, sends, connection)

    async def _send_all(
        self, messages: Sequence[OutgoingMessage], sends: Sequence[Send], connection: Any
    ) -> list[int]:
        async def commit(ready: Sequence[Send]) -> Sequence[int]:
            if connection is not None:
                return await self._sender.commit_within(connection, ready)
            return (await self._sender.commit(AtomicWrite(sends=ready))).message_ids

        if self._sender.is_hooked:
            return await self._sender.send_through(messages, sends, commit)
        return list(await commit(sends))

    def send_message_sync(self, message_type: str, data: Any = None, **options: Any) -> int:
        """`send_message` for sync code that FastAPI or the listener runs in a thread.

        This is the one door for `def` routes and `def` handlers. It takes the options of
        `send_message`, returns the same and raises the same.

        Raises:
            KvQueueError: it is called anywhere else, such as on the event loop itself.
        """

        async def send() -> int:
            return await self.send_message(message_type, data, **options)

        # Here, because nobody runs the event loop to which a forked thread would hand it.
        self._handle.require_own_process()
        try:
            anyio.from_thread.check_cancelled()
        except RuntimeError as error:
            msg = (
                "send_message_sync works in `def` routes and `def` handlers, which run in a "
                "thread of the app. Elsewhere write `await queue.send_message(…)`."
            )
            raise KvQueueError(msg) from error
        return anyio.from_thread.run(send)

    def add_listener(self, message_type: str, callback: Callable[..., Any]) -> None:
        """Add a handler by hand, before the start.

        Args:
            message_type: what it handles.
            callback: a function with the parameters that a handler may have.

        Raises:
            HandlerError: the queue has started, the type has a handler by hand already or is
                none, or `callback` cannot be called.
        """
        if self._handle.is_open:
            msg = (
                f"The queue has started, so {message_type!r} cannot get a handler any more. "
                "Call add_listener before the app starts."
            )
            raise HandlerError(msg)
        if problem := type_problem(message_type) or _callback_problem(callback):
            raise HandlerError(problem)
        if message_type in self._callbacks:
            msg = f"Type {message_type!r} has a listener already. One type has one handler."
            raise HandlerError(msg)
        self._callbacks[message_type] = callback

    @property
    def callbacks(self) -> Mapping[str, Callable[..., Any]]:
        """The handlers that were added by hand, by message type."""
        return self._callbacks

    async def health(self, *, max_age_s: float | None = None) -> Health:
        """Look whether the queue is well: its store, the listener of this process, what waits.

        It costs two short reads, at any depth. For a route see `health_router`.

        Args:
            max_age_s: for how many seconds a message may be due before that is a problem; None:
                for ever.

        Raises:
            InvalidOptionError: `max_age_s` is no number of seconds.
            KvQueueNotStartedError: the app's lifespan has not run.
            KvQueueClosedError: it has ended.
        """
        limit_s = checked_max_age_s(max_age_s)
        self._handle.require_open()
        return await self._handle.check(limit_s)

    async def run_until_idle(self) -> int:
        """Handle what is due, one message after another, until nothing is.

        For tests and scripts, best with `listen=False`. Messages that become due meanwhile are
        handled too; delayed ones and retries that are not due are left.

        Returns:
            How many deliveries there were.
        """
        self._handle.require_open()
        return await self._handle.drain()


def _callback_problem(callback: object) -> str | None:
    if callable(callback):
        return None
    return f"{shown(callback)} is listed as a handler, but cannot be called. Give a function."


def _outgoing(message: Any) -> OutgoingMessage:
    if isinstance(message, OutgoingMessage):
        return message
    if isinstance(message, tuple) and len(message) == 2:  # noqa: PLR2004 because it is a pair
        return OutgoingMessage(message[0], message[1])
    msg = (
        f"send_messages received {shown(message)}, allowed is a pair of type and payload, or "
        "OutgoingMessage(type, data, SendOptions(…))."
    )
    raise InvalidOptionError(msg)
