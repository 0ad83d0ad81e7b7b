"""The caller's face of the key-value store: `Kv`."""

import asyncio
import builtins
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias, TypeVar, overload

from kvqueue_fastapi.atomic import AtomicOperation, set_mutation
from kvqueue_fastapi.endings import to_the_end
from kvqueue_fastapi.entries import KvCommit, KvEntry, commit_of, entry_of
from kvqueue_fastapi.errors import InvalidOptionError, KvQueueError, shown
from kvqueue_fastapi.keys import Key, SetKey, encode_key_for_read, encode_key_for_write
from kvqueue_fastapi.listing import KvList, select
from kvqueue_fastapi.model import AtomicWrite, KvDelete
from kvqueue_fastapi.opening import Opening, opened
from kvqueue_fastapi.sender import Sender
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store.base import Clock
from kvqueue_fastapi.store.copies import CopySource
from kvqueue_fastapi.store.handle import StoreHandle
from kvqueue_fastapi.subscriptions import Subscriptions
from kvqueue_fastapi.values import adapter_of

MAX_RANGES: Final = 10
MAX_WATCHED_KEYS: Final = 10

T = TypeVar("T")

Consistency = Literal["strong", "eventual"]
Entries: TypeAlias = list[KvEntry[T]]


class Kv:
    """Keys and values in the store of a queue, and in one transaction with its messages.

    A key is a tuple of str, int, float, bool and bytes. A value is whatever JSON holds or
    pydantic makes JSON of; bytes; or a counter, `KvU64`. What is written is on disk when the
    call returns, and what was written is seen by every read that begins later.

    Ask the container for it: a route with `KvDep`, a service with a parameter annotated
    `Inject[Kv]`. Or, without an app, open it:

        async with Kv.open("app.db") as kv:
            await kv.set(("users", 1), User(name="Ada"))
            entry = await kv.get(("users", 1), User)

    Every method raises `KvQueueNotStartedError` before the store is open, `KvQueueClosedError`
    after it was closed, `InvalidKeyError` for what is no key, and `StoreError` where the
    database fails.

    Idea: Deno KV (docs.deno.com/deploy/kv), whose keys and versionstamps these are.
    """

    def __init__(
        self,
        *,
        handle: StoreHandle,
        sender: Sender,
        subscriptions: Subscriptions,
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._handle = handle
        self._sender = sender
        self._subscriptions = subscriptions
        self._close = close

    @staticmethod
    def open(
        url: str | None = None,
        *,
        settings: KvQueueSettings | None = None,
        clock: Clock | None = None,
    ) -> "Opening[Kv]":
        """Open a store without an app: `kv = await Kv.open(…)` or `async with Kv.open(…) as kv`.

        Several may be open on one file, in one process or in many. It is used on the event
        loop on which it was opened.

        Args:
            url: where it is: a path, `sqlite:///relative`, `sqlite:////absolute` or
                `:memory:`. None: the setting `url`.
            settings: None: `KvQueueSettings()`, which reads `KVQUEUE_…` from the environment.
            clock: what the store reads the time from, such as `testing.FakeClock`; None: the
                machine's.

        Raises:
            InvalidOptionError: the URL is no path.
            StoreError: the database cannot be opened.
        """
        return Opening(lambda: _open(url, settings, clock))

    @overload
    async def get(
        self, key: Key, type: None = None, *, consistency: Consistency = "strong"
    ) -> KvEntry[Any]: ...
    @overload
    async def get(
        self, key: Key, type: type[T], *, consistency: Consistency = "strong"
    ) -> KvEntry[T]: ...
    @overload
    async def get(
        self, key: Key, type: Any, *, consistency: Consistency = "strong"
    ) -> KvEntry[Any]: ...
    async def get(
        self,
        key: Key,
        type: Any = None,  # noqa: A002 because it is a type
        *,
        consistency: Consistency = "strong",
    ) -> KvEntry[Any]:
        """Read a key.

        Args:
            key: at most 2,049 bytes encoded.
            type: what the value is read and checked as: a model, a dataclass, `list[int]`, …;
                None: as what was stored, so that a model comes as a dict. What is no class,
                such as `int | None`, is checked as well, but typed as `Any`.
            consistency: "strong" or "eventual", which is the same here.

        Returns:
            The entry; its value and versionstamp are None where the key is absent.

        Raises:
            PayloadError: what is stored is not of that type.
        """
        _check_consistency(consistency)
        encoded, adapter = encode_key_for_read(key), adapter_of(type)
        (found,) = await self._handle.store.get((encoded,))
        return entry_of(encoded, found, adapter)

    @overload
    async def get_many(
        self, keys: Sequence[Key], type: None = None, *, consistency: Consistency = "strong"
    ) -> Entries[Any]: ...
    @overload
    async def get_many(
        self, keys: Sequence[Key], type: type[T], *, consistency: Consistency = "strong"
    ) -> Entries[T]: ...
    @overload
    async def get_many(
        self, keys: Sequence[Key], type: Any, *, consistency: Consistency = "strong"
    ) -> Entries[Any]: ...
    async def get_many(
        self,
        keys: Sequence[Key],
        type: Any = None,  # noqa: A002 because it is a type
        *,
        consistency: Consistency = "strong",
    ) -> Entries[Any]:
        """Read several keys as they are at one moment.

        Args:
            keys: at most 10, also the same one twice.
            type: of all values; as for `get`.
            consistency: as for `get`.

        Returns:
            One entry for each key, in their order.

        Raises:
            InvalidOptionError: there are too many.
            PayloadError: what is stored is not of that type.
        """
        _check_consistency(consistency)
        encoded, adapter = _encoded(keys, MAX_RANGES, "ranges"), adapter_of(type)
        store = self._handle.store
        found = await store.get(encoded) if encoded else []
        return [entry_of(key, one, adapter) for key, one in zip(encoded, found, strict=True)]

    async def set(
        self, key: SetKey, value: Any, *, expire_in: float | timedelta | None = None
    ) -> KvCommit:
        """Store a value.

        Args:
            key: at most 2,048 bytes encoded; its last part may be `commit_versionstamp()`.
            value: at most `max_payload_bytes` (65,536): bytes as they are, `KvU64` as a counter,
                everything else as UTF-8 JSON.
            expire_in: after how long the key is absent, in seconds or as a `timedelta`; None:
                never, also where the value before it was to expire.

        Returns:
            Its `versionstamp`; `ok` is always true.

        Raises:
            PayloadError: the value cannot be encoded.
            PayloadTooLargeError: it is too large.
            InvalidOptionError: `expire_in` is negative or no duration.
        """
        limit_bytes = self._sender.settings.max_payload_bytes
        mutation = set_mutation(key, value, expire_in, limit_bytes)
        return commit_of(await self._sender.commit(AtomicWrite(mutations=(mutation,))))

    async def delete(self, key: Key) -> None:
        """Remove a key; an absent one is fine."""
        mutation = KvDelete(encode_key_for_write(key))
        await self._sender.commit(AtomicWrite(mutations=(mutation,)))

    @overload
    def list(
        self,
        *,
        prefix: Key | None = None,
        start: Key | None = None,
        end: Key | None = None,
        limit: int | None = None,
        reverse: bool = False,
        cursor: str | None = None,
        batch_size: int | None = None,
        consistency: Consistency = "strong",
        type: None = None,
    ) -> KvList[Any]: ...
    @overload
    def list(
        self,
        *,
        prefix: Key | None = None,
        start: Key | None = None,
        end: Key | None = None,
        limit: int | None = None,
        reverse: bool = False,
        cursor: str | None = None,
        batch_size: int | None = None,
        consistency: Consistency = "strong",
        type: type[T],
    ) -> KvList[T]: ...
    @overload
    def list(
        self,
        *,
        prefix: Key | None = None,
        start: Key | None = None,
        end: Key | None = None,
        limit: int | None = None,
        reverse: bool = False,
        cursor: str | None = None,
        batch_size: int | None = None,
        consistency: Consistency = "strong",
        type: Any,
    ) -> KvList[Any]: ...
    def list(
        self,
        *,
        prefix: Key | None = None,
        start: Key | None = None,
        end: Key | None = None,
        limit: int | None = None,
        reverse: bool = False,
        cursor: str | None = None,
        batch_size: int | None = None,
        consistency: Consistency = "strong",
        type: Any = None,  # noqa: A002 because it is a type
    ) -> KvList[Any]:
        """Go through keys in their order: `async for entry in kv.list(prefix=("users",))`.

        Give a prefix, a prefix with a start or an end, or a start and an end. The list is no
        snapshot: it is read in batches, each of its own moment.

        Args:
            prefix: what the keys begin with; () is all keys. The prefix itself is not listed.
            start: the first key.
            end: the first key that is not listed any more.
            limit: how many entries at the most, 1 or more; None: all.
            reverse: from the last to the first.
            cursor: the `.cursor` of an earlier list over the same range, to go on behind it.
            batch_size: how many to read at once, 1 to 1,000; None: the limit or 100, at most
                500.
            consistency: as for `get`.
            type: of all values; as for `get`.

        Raises:
            InvalidOptionError: the selector, the limit, the batch size or the cursor is wrong.
            PayloadError: while it runs: what is stored is not of that type. The same list goes
                on behind that entry.
        """
        self._handle.require_open()
        _check_consistency(consistency)
        return KvList(
            lambda: self._handle.store,
            select(prefix, start, end),
            limit=limit,
            reverse=reverse is True,
            cursor=cursor,
            batch_size=batch_size,
            adapter=adapter_of(type),
        )

    @overload
    def watch(self, keys: Sequence[Key], type: None = None) -> AsyncGenerator[Entries[Any]]: ...
    @overload
    def watch(self, keys: Sequence[Key], type: type[T]) -> AsyncGenerator[Entries[T]]: ...
    @overload
    def watch(self, keys: Sequence[Key], type: Any) -> AsyncGenerator[Entries[Any]]: ...
    def watch(
        self,
        keys: Sequence[Key],
        type: Any = None,  # noqa: A002 because it is a type
    ) -> AsyncGenerator[Entries[Any]]:
        """Follow keys: `async for entries in kv.watch([("flags", "beta")])`.

        The entries come at once, then whenever one has changed, be it by this process, by
        another one, or because it expired. Changes that come one upon the other may be shown
        as one; the last state is always shown. It ends when the store is closed, or soon after
        the loop is left; `contextlib.aclosing` ends it at once.

        Args:
            keys: at most 10.
            type: of all values; as for `get`.

        Raises:
            InvalidOptionError: there are too many keys.
            PayloadError: while it runs: what is stored is not of that type. It ends the watch.
        """
        self._handle.require_open()
        encoded = _encoded(keys, MAX_WATCHED_KEYS, "keys")
        return self._subscriptions.watch(encoded, adapter_of(type))

    def atomic(self) -> AtomicOperation:
        """Begin an operation whose checks, changes and messages are committed together."""
        return AtomicOperation(self._sender)

    async def enqueue(
        self,
        value: Any,
        *,
        delay: float | timedelta | None = 0,
        backoff_schedule: Sequence[float | timedelta] | None = None,
        keys_if_undelivered: Sequence[Key] = (),
    ) -> KvCommit:
        """Send a value through the queue.

        Which handler has it is decided by one rule. A mapping with exactly the keys `type`, a
        str, and `data` is an envelope: it is the same as `queue.send_message(type, data)`, and
        reaches the `@on_queue_message(type)` handler of that type. Any other value is a
        message of type "kv.enqueue", and reaches `listen_queue`, or an
        `@on_queue_message("kv.enqueue")` handler.

        Args:
            value: at most `max_payload_bytes` (65,536) as UTF-8 JSON.
            delay: 0 to 30 days, in seconds or as a `timedelta`; None is 0.
            backoff_schedule: how long to wait before each retry; as for `send_message`.
            keys_if_undelivered: at most 10 keys that are set to the value when it is given up,
                so that `kv.enqueue(entry.value)` sends it again, without what else a
                `send_message` had; `KvQueueAdmin.requeue` keeps that.

        Returns:
            Its `versionstamp` and, in `message_ids`, the message's id, once it is on disk.

        Raises:
            InvalidOptionError: an option is outside its limits.
            PayloadError: the value cannot be encoded.
            PayloadTooLargeError: it is too large.
            QueueFullError: `max_pending` messages wait.
        """
        operation = self.atomic().enqueue(
            value,
            delay=delay,
            backoff_schedule=backoff_schedule,
            keys_if_undelivered=keys_if_undelivered,
        )
        return await operation.commit()

    async def listen_queue(self, handler: Callable[..., Any]) -> None:
        """Hand enqueued values that are no envelopes to a function, until the store closes.

        Several that listen, in this process or in others, share the values among them: each
        value goes to one. It returns when the store is closed; when its caller is cancelled it
        stops listening. Both give running handlers `shutdown_timeout_s`, then cancel them; one
        that is slow to be cancelled keeps its message until it ends.

        Args:
            handler: `async def` or `def`, with one parameter for the value, whose annotation
                says what it is checked as, and perhaps one for the `Message`. A value that it
                fails on comes again, by the schedule; one that does not fit the annotation
                becomes a dead letter.

        Raises:
            HandlerError: it is no function, or has parameters that a handler cannot have.
        """
        await self._subscriptions.listen(handler)

    def to_copy(self) -> CopySource:
        """What `copy_store` reads from, of a store that is open: one in memory has no URL."""
        return self._handle.store.to_copy()

    async def close(self) -> None:
        """Stop listening, end all watches, close the store. Closing it again does nothing.

        Raises:
            KvQueueError: it belongs to an app, which closes it; or one of its own handlers
                calls it, for whose end it would wait.
        """
        await self._closing()()

    async def __aenter__(self) -> Self:
        self._closing()
        return self

    async def __aexit__(
        self,
        kind: builtins.type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _closing(self) -> Callable[[], Awaitable[None]]:
        if self._close is None:
            msg = (
                "This Kv belongs to an app, which closes it when it stops. Close only what "
                "Kv.open gave."
            )
            raise KvQueueError(msg)
        return self._close


async def _open(url: str | None, settings: KvQueueSettings | None, clock: Clock | None) -> Kv:
    settings = settings or KvQueueSettings()
    url = settings.url if url is None else url
    handle, exits = StoreHandle(), AsyncExitStack()
    closing: list[asyncio.Task[None]] = []

    async def close() -> None:
        if handle.is_open:
            handle.require_here()
        subscriptions.refuse_to_wait_for_caller()
        if not closing:
            closing.append(asyncio.get_running_loop().create_task(exits.aclose()))
        # One closing for all who ask, so that nobody is closed upon before it is at its end.
        await to_the_end(closing[0])

    await exits.enter_async_context(opened(handle, url, settings, clock))
    sender = Sender(handle, settings)
    subscriptions = Subscriptions(handle, sender)
    exits.push_async_callback(subscriptions.close)
    return Kv(handle=handle, sender=sender, subscriptions=subscriptions, close=close)


def _encoded(keys: Any, most: int, what: str) -> tuple[bytes, ...]:
    if not isinstance(keys, builtins.list | tuple):
        msg = f"Keys are {shown(keys)}, allowed is a list of keys. Write [(part, …), …]."
        raise InvalidOptionError(msg)
    if len(keys) > most:
        msg = f"Too many {what} (max {most}): received {len(keys)}. Ask in several calls."
        raise InvalidOptionError(msg)
    return tuple(map(encode_key_for_read, keys))


def _check_consistency(consistency: Any) -> None:
    if consistency not in ("strong", "eventual"):
        msg = f"unknown variant {shown(consistency)}, expected 'strong' or 'eventual'."
        raise InvalidOptionError(msg)
