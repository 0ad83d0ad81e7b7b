"""An operation on keys and messages that is committed as one: all of it or nothing."""

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NoReturn, Self, overload

from kvqueue_fastapi.codec import U64_BYTES
from kvqueue_fastapi.entries import KvCommit, KvEntry, commit_of
from kvqueue_fastapi.errors import InvalidOptionError, PayloadTooLargeError, shown
from kvqueue_fastapi.keys import (
    Key,
    SetKey,
    encode_key_for_set,
    encode_key_for_write,
    is_versionstamp,
    version_of,
)
from kvqueue_fastapi.model import (
    Arithmetic,
    AtomicWrite,
    Check,
    Committed,
    Encoding,
    KvArithmetic,
    KvDelete,
    KvSet,
    Mutation,
    Send,
)
from kvqueue_fastapi.outgoing import OutgoingMessage, SendOptions, addressed
from kvqueue_fastapi.retry import duration_ms
from kvqueue_fastapi.sender import Sender
from kvqueue_fastapi.settings import DEFAULT_MAX_PAYLOAD_BYTES
from kvqueue_fastapi.values import KvU64, encode_value

MAX_CHECKS: Final = 100
MAX_MUTATIONS: Final = 1_000
MAX_TOTAL_BYTES: Final = 819_200
MAX_TOTAL_KEY_BYTES: Final = 81_920
MAX_EXPIRE_IN_S: Final = 100 * 366 * 86_400

Commit = Callable[[AtomicWrite], Awaitable[Committed]]

_MUTATION_FIELDS: Final = frozenset({"type", "key", "value", "expire_in"})
_NOTHING: Final = object()


class AtomicOperation:
    """Checks, changes of keys, and messages, committed together or not at all.

    Each method but `commit` returns the operation itself:

        committed = await (
            kv.atomic()
            .check(entry)  # the key is still as it was read
            .set(("orders", 7), order)
            .sum(("orders", "count"), 1)
            .send_message("order.created", order)
            .commit()
        )

    Keys and values are checked and copied when they are given. At a commit, at most 100 checks,
    1,000 mutations and messages, 81,920 bytes of keys, and 819,200 bytes in all (or 12.5 times
    `max_payload_bytes`, where that is set higher than its default).

    Args:
        sender: checks messages and, unless `commit` is given, commits.
        commit: what commits.

    Idea: `Deno.AtomicOperation`.
    """

    def __init__(self, sender: Sender, commit: Commit | None = None) -> None:
        self._sender = sender
        self._commit: Commit = commit or sender.commit
        self._limit_bytes = sender.settings.max_payload_bytes
        self._checks: list[Check] = []
        self._mutations: list[Mutation] = []
        self._sends: list[Send] = []
        self._messages: list[OutgoingMessage] = []
        self._schedule_steps = 0

    @overload
    def check(self, *entries: KvEntry[Any]) -> Self: ...
    @overload
    def check(self, key: Key, versionstamp: str | None, /) -> Self: ...
    def check(self, *checks: Any) -> Self:
        """Commit only if these keys are as they were read.

        Args:
            checks: entries, or one key and its versionstamp; None: only if it is absent.

        Raises:
            InvalidKeyError: the key is none.
            InvalidOptionError: the versionstamp is neither None nor 20 hex digits.
        """
        if len(checks) == 2 and not isinstance(checks[0], KvEntry):  # noqa: PLR2004 because a key and its versionstamp are two
            checks = (KvEntry(checks[0], None, checks[1]),)
        for entry in checks:
            self._check(entry)
        return self

    def set(self, key: SetKey, value: Any, *, expire_in: float | timedelta | None = None) -> Self:
        """Store a value; see `Kv.set`."""
        self._mutations.append(set_mutation(key, value, expire_in, self._limit_bytes))
        return self

    def delete(self, key: Key) -> Self:
        """Remove a key; an absent one is fine."""
        self._mutations.append(KvDelete(encode_key_for_write(key)))
        return self

    def sum(self, key: Key, n: int | KvU64) -> Self:
        """Add to a counter, which wraps at 2^64; an absent one becomes `n`.

        Args:
            key: of a `KvU64`; anything else makes the commit fail.
            n: 0 to 2^64 - 1.
        """
        return self._count(key, Arithmetic.SUM, n)

    def min(self, key: Key, n: int | KvU64) -> Self:
        """Make a counter at most `n`; else as `sum`."""
        return self._count(key, Arithmetic.MIN, n)

    def max(self, key: Key, n: int | KvU64) -> Self:
        """Make a counter at least `n`; else as `sum`."""
        return self._count(key, Arithmetic.MAX, n)

    def mutate(self, *mutations: Mapping[str, Any]) -> Self:
        """Add mutations that are given as mappings.

        Args:
            mutations: each with `type` ("set", "delete", "sum", "min", "max"), `key`, `value`
                (not for "delete"), and perhaps `expire_in` (for "set"). Here the value of a sum
                may also be an int or float, for a key that holds a plain number.

        Raises:
            InvalidOptionError: one has another shape.
        """
        for mutation in mutations:
            self._mutate(mutation)
        return self

    def enqueue(
        self,
        value: Any,
        *,
        delay: float | timedelta | None = 0,
        backoff_schedule: Sequence[float | timedelta] | None = None,
        keys_if_undelivered: Sequence[Key] = (),
    ) -> Self:
        """Send a value; see `Kv.enqueue`."""
        message_type, data = addressed(value)
        options = SendOptions(
            delay=0 if delay is None else delay,
            backoff_schedule=backoff_schedule,
            keys_if_undelivered=keys_if_undelivered,
        )
        try:
            return self._send(message_type, data, options)
        except PayloadTooLargeError as error:
            raise PayloadTooLargeError(
                error.size_bytes, error.limit_bytes, "enqueue payload"
            ) from None

    def send_message(
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
    ) -> Self:
        """Send a message; see `KvQueue.send_message`. Its id is in the commit's `message_ids`."""
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
        return self._send(message_type, data, options)

    async def commit(self) -> KvCommit:
        """Write all of it durably, if every check holds.

        A caller that is cancelled while it waits may have committed all the same. The
        operation may be committed again, and then does the same again.

        Returns:
            Whether it was written, its versionstamp, and the ids of its messages.

        Raises:
            InvalidOptionError: it is too large, or arithmetic met what is no number; nothing
                was written, as with each of these.
            IdempotencyConflictError: as for `KvQueue.send_message`.
            QueueFullError: it sends, and `max_pending` messages wait.
            StoreError: the database failed.
            LeaseLostError: of `message.atomic()`: another process may have the message.
            AlreadySettledError: of `message.atomic()`: the message was settled before.
        """
        self._refuse_too_large()
        write = AtomicWrite(
            tuple(self._checks), tuple(self._mutations), tuple(self._sends), versioned=True
        )
        if self._sends and self._sender.is_hooked:
            return commit_of(await self._commit_through_hook(write))
        return commit_of(await self._commit(write))

    async def _commit_through_hook(self, write: AtomicWrite) -> Committed:
        committed: list[Committed] = []

        async def commit(ready: Sequence[Send]) -> Sequence[int]:
            committed.append(await self._commit(write._replace(sends=tuple(ready))))
            return committed[-1].message_ids

        await self._sender.send_through(tuple(self._messages), write.sends, commit)
        return committed[-1]

    def __await__(self) -> Generator[None, None, NoReturn]:
        msg = "'AtomicOperation' is not a promise: did you forget to call 'commit()'?"
        raise InvalidOptionError(msg)

    def _check(self, entry: Any) -> None:
        if not isinstance(entry, KvEntry):
            msg = f"Invalid check: received {shown(entry)}. Give an entry, or a key and its stamp."
            raise InvalidOptionError(msg)
        versionstamp = entry.versionstamp
        if versionstamp is not None and not is_versionstamp(versionstamp):
            msg = (
                f"Invalid check: the versionstamp is {shown(versionstamp)}, allowed are None and "
                "20 hex digits. Give that of an entry."
            )
            raise InvalidOptionError(msg)
        version = None if versionstamp is None else version_of(versionstamp)
        self._checks.append(Check(encode_key_for_write(entry.key), version))

    def _count(self, key: Key, arithmetic: Arithmetic, n: Any) -> Self:
        operand = n if isinstance(n, KvU64) else KvU64(n)
        mutation = KvArithmetic(encode_key_for_write(key), arithmetic, operand.value)
        self._mutations.append(mutation)
        return self

    def _mutate(self, mutation: Any) -> None:
        kind = _mutation_type(mutation)
        key, value = mutation["key"], mutation.get("value", _NOTHING)
        if kind == "delete":
            if value is not _NOTHING:
                msg = "Invalid mutation 'delete' with value. Leave it out."
                raise InvalidOptionError(msg)
            self.delete(key)
        elif value is _NOTHING:
            msg = f"Invalid mutation {kind!r} without value. Give one."
            raise InvalidOptionError(msg)
        elif kind == "set":
            self.set(key, value, expire_in=mutation.get("expire_in"))
        elif isinstance(value, KvU64):
            self._count(key, Arithmetic(kind), value)
        else:
            self._sum_plain(key, Arithmetic(kind), value)

    def _sum_plain(self, key: Key, arithmetic: Arithmetic, number: Any) -> None:
        if arithmetic is not Arithmetic.SUM:
            msg = f"Failed to perform '{arithmetic}' mutation on a non-U64 operand. Give a KvU64."
            raise InvalidOptionError(msg)
        if isinstance(number, bool) or not isinstance(number, int | float):
            msg = f"unsupported value type: received {shown(number)}. Give a number or a KvU64."
            raise InvalidOptionError(msg)
        encode_value(number, self._limit_bytes)
        encoded = encode_key_for_write(key)
        self._mutations.append(KvArithmetic(encoded, arithmetic, number, Encoding.JSON))

    def _send(self, message_type: str, data: Any, options: SendOptions) -> Self:
        self._sends.append(self._sender.prepare(message_type, data, options))
        if self._sender.is_hooked:
            self._messages.append(OutgoingMessage(message_type, data, options))
        self._schedule_steps += len(options.backoff_schedule or ())
        return self

    def _refuse_too_large(self) -> None:
        _within(len(self._checks), MAX_CHECKS, "checks")
        _within(len(self._mutations) + len(self._sends), MAX_MUTATIONS, "mutations")
        key_bytes = sum(len(one.key) for one in self._mutations if not isinstance(one, KvDelete))
        counters = sum(isinstance(one, KvArithmetic) for one in self._mutations)
        total_bytes = key_bytes + 4 * self._schedule_steps + U64_BYTES * counters
        total_bytes += sum(len(one.key) for one in (*self._checks, *self._mutations))
        total_bytes += sum(len(one.value) for one in self._mutations if isinstance(one, KvSet))
        total_bytes += sum(len(send.data.encode()) for send in self._sends)
        scale = max(1, self._limit_bytes / DEFAULT_MAX_PAYLOAD_BYTES)
        most_bytes = round(MAX_TOTAL_BYTES * scale)
        if total_bytes > most_bytes:
            msg = (
                f"Total mutation size too large (max {most_bytes} bytes): received {total_bytes}. "
                "Commit less at a time."
            )
            raise InvalidOptionError(msg)
        if key_bytes > MAX_TOTAL_KEY_BYTES:
            msg = (
                f"Total key size too large (max {MAX_TOTAL_KEY_BYTES} bytes): received "
                f"{key_bytes}. Shorten the keys, or commit less at a time."
            )
            raise InvalidOptionError(msg)


def set_mutation(
    key: SetKey, value: Any, expire_in: float | timedelta | None, limit_bytes: int
) -> KvSet:
    """Check a key and a value that is to be set, and make them a record; see `Kv.set`."""
    encoded, versionstamped = encode_key_for_set(key)
    data, encoding = encode_value(value, limit_bytes)
    expire_in_ms = None
    if expire_in is not None:
        expire_in_ms = duration_ms(expire_in, name="expire_in", limit_s=MAX_EXPIRE_IN_S)
    return KvSet(encoded, data, encoding, expire_in_ms, versionstamped)


def _within(count: int, most: int, what: str) -> None:
    if count > most:
        msg = f"Too many {what} (max {most}): received {count}. Commit less at a time."
        raise InvalidOptionError(msg)


def _mutation_type(mutation: Any) -> str:
    if not isinstance(mutation, Mapping) or "key" not in mutation:
        msg = (
            f"A mutation is {shown(mutation)}, allowed is a mapping with type, key and value. "
            'Write {"type": "set", "key": ("a",), "value": 1}.'
        )
        raise InvalidOptionError(msg)
    kind = mutation.get("type")
    if kind not in ("set", "delete", *Arithmetic):
        msg = f"Invalid mutation type: received {shown(kind)}. Give set, delete, sum, min or max."
        raise InvalidOptionError(msg)
    unknown = set(mutation) - _MUTATION_FIELDS
    if unknown or ("expire_in" in mutation and kind != "set"):
        msg = (
            f"Invalid mutation {kind!r} with {sorted(map(str, unknown)) or 'expire_in'}. "
            "Allowed are type, key, value and, for set, expire_in."
        )
        raise InvalidOptionError(msg)
    return str(kind)
