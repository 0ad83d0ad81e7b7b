"""A batch of requests in one transaction, each with an answer of its own.

What others could change is locked first, then read, then each request is planned in memory in
the order in which they came, then all of it is written: a request that fails has changed
nothing, and a hundred take as many statements as one.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from kvqueue_fastapi.errors import (
    IdempotencyConflictError,
    KvQueueError,
    LeaseLostError,
    StoreError,
)
from kvqueue_fastapi.model import (
    AtomicWrite,
    Committed,
    Idempotency,
    Outcome,
    Send,
    Settlement,
)
from kvqueue_fastapi.store.base import SettleRequest
from kvqueue_fastapi.store.effects import writes_keys
from kvqueue_fastapi.store.postgres import locks
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import Session
from kvqueue_fastapi.store.postgres.holds import Endings
from kvqueue_fastapi.store.postgres.ids import Ids
from kvqueue_fastapi.store.postgres.keys import Keys
from kvqueue_fastapi.store.postgres.sends import KnownTypes, columns, insert, promote_heads

Change = AtomicWrite | SettleRequest


class _Remembered(NamedTuple):
    """What an idempotency key stands for."""

    message_id: int
    digest: bytes


class Needs(NamedTuple):
    """What a batch has to lock and to read."""

    locks: set[int]
    writes: list[AtomicWrite]
    settlements: list[Settlement]
    idempotency: dict[tuple[str, str], None]

    @property
    def keys(self) -> bool:
        """Whether keys are looked at or written."""
        return locks.VERSIONS in self.locks


def needs_of(requests: Iterable[Change]) -> Needs:
    """What these requests have to lock and to read."""
    needs = Needs(set(), [], [], {})
    for request in requests:
        settlements = request.settlements
        if isinstance(request, AtomicWrite):
            if request.checks or request.mutations or request.versioned:
                needs.locks.add(locks.VERSIONS)
            needs.writes.append(request)
            for send in request.sends:
                _add_send(needs, send)
        needs.settlements.extend(settlements)
        for settlement in settlements:
            if writes_keys(settlement):
                needs.locks.add(locks.VERSIONS)
            if settlement.ordering_key is not None:
                needs.locks.add(locks.ordering(settlement.ordering_key))
    return needs


def is_only_sent(request: Change) -> bool:
    """Whether it can be stored by one statement, whoever does what beside it."""
    if not isinstance(request, AtomicWrite):
        return False
    if request.checks or request.mutations or request.settlements or request.versioned:
        return False
    return all(send.idempotency is None and send.ordering_key is None for send in request.sends)


def is_only_done(request: Change) -> bool:
    """Whether it only removes messages that nothing waits behind."""
    return isinstance(request, SettleRequest) and all(
        one.outcome is Outcome.DONE and one.ordering_key is None for one in request.settlements
    )


class Batch:
    """Applies batches.

    Args:
        schema: whose locks to take.
        ids: where new messages get their numbers.
        types: whose first send is noted.
    """

    def __init__(self, schema: str, ids: Ids, types: KnownTypes) -> None:
        self._schema = schema
        self._ids = ids
        self._types = types

    async def send(
        self, session: Session, sends: Sequence[Send], ids: Sequence[int], now_ms: int | None
    ) -> None:
        """Store messages that are only sent."""
        await self._types.remember(session, {send.type for send in sends}, now_ms)
        await insert(session, sends, ids, now_ms)

    async def finish(
        self, session: Session, requests: Sequence[SettleRequest], *, again: bool
    ) -> list[list[bool]]:
        """Remove messages that are only done.

        Args:
            session: of which the statement is committed at once.
            requests: all of them `is_only_done`.
            again: it was tried before, and may have been done: what is gone was ours then.
        """
        ids = [one.id for request in requests for one in request.settlements]
        tokens = [one.token for request in requests for one in request.settlements]
        gone = {row[0] for row in await session.fetch(sql.DELETE_HELD, ids, tokens)}
        if len(gone) == len(ids):
            return [[True] * len(request.settlements) for request in requests]
        if again:
            gone |= set(ids) - {row[0] for row in await session.fetch(sql.PRESENT, ids)}
        return [
            [_once(gone, settlement) for settlement in request.settlements] for request in requests
        ]

    async def apply(
        self,
        session: Any,
        requests: Sequence[Change],
        now_ms: int | None,
        ids: Sequence[Sequence[int]],
    ) -> list[Any]:
        """Apply all requests within a transaction.

        Args:
            session: within one that has just begun.
            requests: in the order in which they came.
            now_ms: when; None: the server knows.
            ids: for what each request sends.

        Returns: in order, the answer to each; an exception is an answer.
        """
        needs = needs_of(requests)
        locked = await locks.lock(session, self._schema, needs.locks, now_ms)
        session.xid = locked.xid
        plan = _Plan(locked.now_ms, needs)
        await plan.load(session)
        answers = [
            plan.settle(request) if isinstance(request, SettleRequest) else plan.write(request, own)
            for request, own in zip(requests, ids, strict=True)
        ]
        await self._types.remember(session, {send.type for send in plan.sends}, locked.now_ms)
        await plan.store(session)
        return answers

    def committed(self, requests: Sequence[Change], answers: Sequence[Any]) -> None:
        """Take note that what these answers say has been committed."""
        for request, answer in zip(requests, answers, strict=True):
            if isinstance(request, AtomicWrite) and isinstance(answer, Committed) and answer.ok:
                self._types.know([send.type for send in request.sends])


def _add_send(needs: Needs, send: Send) -> None:
    if send.ordering_key is not None:
        needs.locks.add(locks.ordering(send.ordering_key))
    if send.idempotency is not None:
        key = send.idempotency.key
        needs.locks.add(locks.idempotency(send.type, key))
        needs.idempotency[send.type, key] = None


def _once(gone: set[int], settlement: Settlement) -> bool:
    """Whether this settlement removed its message; the second of the same did not."""
    if settlement.id not in gone:
        return False
    gone.remove(settlement.id)
    return True


class _Plan:
    """What the requests of a batch do, in memory."""

    def __init__(self, now_ms: int, needs: Needs) -> None:
        self._now_ms = now_ms
        self._needs = needs
        self._keys = Keys(now_ms) if needs.keys else None
        self._endings = Endings(now_ms, self._keys)
        self._remembered: dict[tuple[str, str], _Remembered] = {}
        self._fresh: dict[tuple[str, str], tuple[int, Idempotency]] = {}
        self._ids: list[int] = []
        self.sends: list[Send] = []

    async def load(self, session: Session) -> None:
        """Read all that the requests depend on."""
        await self._endings.load(session, [one.id for one in self._needs.settlements])
        if self._keys is not None:
            await self._keys.load(session, self._needs.writes)
        if self._needs.idempotency:
            wanted = columns(list(self._needs.idempotency), 2)
            for kind, key, *found in await session.fetch(
                sql.FIND_IDEMPOTENT, self._now_ms, *wanted
            ):
                self._remembered[kind, key] = _Remembered(*found)

    def settle(self, request: SettleRequest) -> list[bool]:
        """Plan the end of claims, each for itself."""
        return [self._endings.end(settlement) for settlement in request.settlements]

    def write(self, write: AtomicWrite, ids: Sequence[int]) -> Any:
        """Plan a write, whole or not at all."""
        version = None
        try:
            changes = None if self._keys is None else self._keys.plan(write)
            if self._keys is not None and changes is None:
                return Committed(ok=False)
            if not self._endings.holds(write.settlements):
                return LeaseLostError()
            stored = self._numbered(write.sends, ids)
        except KvQueueError as error:
            return error
        if self._keys is not None and changes is not None:
            self._keys.accept(changes)
            version = changes.version
        for settlement in write.settlements:
            self._endings.end(settlement)
        return Committed(True, self._add(write.sends, ids, stored), version)

    async def store(self, session: Session) -> None:
        """Write it all down."""
        await self._endings.store(session)
        if self._keys is not None:
            await self._keys.store(session)
        if self.sends:
            await insert(session, self.sends, self._ids, self._now_ms)
        if self._fresh:
            rows = [
                (kind, key, message_id, once.digest, self._now_ms + once.window_ms)
                for (kind, key), (message_id, once) in self._fresh.items()
            ]
            await session.fetch(sql.REMEMBER_IDEMPOTENT, *columns(rows, 5))
        ordering_keys = [one.ordering_key for one in self._needs.settlements]
        ordering_keys += [one.ordering_key for one in self.sends]
        await promote_heads(session, ordering_keys, self._now_ms)

    def _numbered(self, sends: Sequence[Send], ids: Sequence[int]) -> list[int]:
        """Which message each send is, if that is stored already or sent before it.

        Raises:
            IdempotencyConflictError: a key has a message with another body.
        """
        found: list[int] = []
        own: dict[tuple[str, str], _Remembered] = {}
        for send, message_id in zip(sends, ids, strict=True):
            once = send.idempotency
            if once is None:
                found.append(message_id)
                continue
            name = (send.type, once.key)
            before = self._remembered.get(name) or own.get(name)
            if before is None:
                own[name] = _Remembered(message_id, once.digest)
            elif before.digest != once.digest:
                owner = None if name in own else before.message_id
                raise IdempotencyConflictError(send.type, once.key, owner)
            found.append(message_id if before is None else before.message_id)
        return found

    def _add(self, sends: Sequence[Send], ids: Sequence[int], stored: Sequence[int]) -> list[int]:
        for send, message_id, found in zip(sends, ids, stored, strict=True):
            if found != message_id:
                continue
            self.sends.append(send)
            self._ids.append(message_id)
            if send.idempotency is not None:
                name = (send.type, send.idempotency.key)
                self._remembered[name] = _Remembered(message_id, send.idempotency.digest)
                self._fresh[name] = (message_id, send.idempotency)
        return list(stored)


def cannot_be_stored(server: str, error: Exception) -> StoreError:
    """What a request is answered that no database could take."""
    failure = StoreError(f"{server}: cannot be stored: {error}.")
    failure.__cause__ = error
    return failure
