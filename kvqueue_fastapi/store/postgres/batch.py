"""A batch of requests in one transaction, each with an answer of its own.

What others could change is locked first, then read, then each request is planned in memory in
the order in which they came, then all of it is written: a request that fails has changed
nothing, and a hundred take as many statements as one.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
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
from kvqueue_fastapi.store.base import ClaimRequest, Request, SettleRequest
from kvqueue_fastapi.store.effects import writes_keys
from kvqueue_fastapi.store.postgres import locks
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import Session
from kvqueue_fastapi.store.postgres.holds import Endings
from kvqueue_fastapi.store.postgres.ids import Ids
from kvqueue_fastapi.store.postgres.keys import Keys
from kvqueue_fastapi.store.postgres.sends import KnownTypes, columns, insert, promote_heads

Change = AtomicWrite | SettleRequest


class HeldUp(NamedTuple):
    """The answer to a request of which a caller's transaction has a lock: nothing was done.

    Attributes:
        lock: its number.
    """

    lock: int


class PartlyHeldUp(list[bool | HeldUp]):
    """The answer to settlements of which some are not done."""


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


def key_locks(request: Request) -> frozenset[int]:
    """The locks that it cannot do without, and that somebody may have for long: those of keys."""
    if isinstance(request, ClaimRequest) or _can_be_parted(request):
        return frozenset()
    return frozenset(needs_of([request]).locks - {locks.VERSIONS})


def held_up_by(missing: AbstractSet[int], requests: Sequence[Request]) -> dict[int, HeldUp]:
    """The places of those that need one of these locks."""
    places: dict[int, HeldUp] = {}
    for place, request in enumerate(requests):
        lock = next((number for number in key_locks(request) if number in missing), None)
        if lock is not None:
            places[place] = HeldUp(lock)
    return places


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
        *,
        briefly: bool = False,
    ) -> list[Any]:
        """Apply all requests within a transaction.

        Args:
            session: within one that has just begun.
            requests: in the order in which they came.
            now_ms: when; None: the server knows.
            ids: for what each request sends.
            briefly: the transaction ends at once, and waits for no caller's.

        Returns: in order, the answer to each; an exception is an answer, and so is `HeldUp`.
        """
        needs = needs_of(requests)
        lock = locks.lock_briefly if briefly else locks.lock
        locked = await lock(session, self._schema, needs.locks, now_ms)
        session.xid, missing = locked.xid, locked.missing
        held_up = held_up_by(missing, requests) if missing else {}
        possible = {
            place: _without(request, missing)
            for place, request in enumerate(requests)
            if place not in held_up
        }
        plan = _Plan(locked.now_ms, needs_of(possible.values()) if missing else needs)
        await plan.load(session)
        answers = [
            held_up.get(place) or _whole(request, plan.apply(possible[place], ids[place]), missing)
            for place, request in enumerate(requests)
        ]
        await self._types.remember(session, {send.type for send in plan.sends}, locked.now_ms)
        await plan.store(session)
        return answers

    def committed(self, requests: Sequence[Change], answers: Sequence[Any]) -> None:
        """Take note that what these answers say has been committed."""
        for request, answer in zip(requests, answers, strict=True):
            if isinstance(request, AtomicWrite) and isinstance(answer, Committed) and answer.ok:
                self._types.know([send.type for send in request.sends])


def _can_be_parted(request: Change) -> bool:
    return isinstance(request, SettleRequest) and not request.waits


def _is_missing(settlement: Settlement, missing: AbstractSet[int]) -> HeldUp | None:
    key = settlement.ordering_key
    if key is None or (lock := locks.ordering(key)) not in missing:
        return None
    return HeldUp(lock)


def _without(request: Change, missing: AbstractSet[int]) -> Change:
    """The request, without the settlements of keys that are missing."""
    if not (missing and isinstance(request, SettleRequest)):
        return request
    return SettleRequest([one for one in request.settlements if not _is_missing(one, missing)])


def _whole(request: Change, answer: Any, missing: AbstractSet[int]) -> Any:
    """The answer to a request of which `_without` was applied."""
    if not (missing and isinstance(request, SettleRequest)):
        return answer
    given = iter(answer)
    return PartlyHeldUp(_is_missing(one, missing) or next(given) for one in request.settlements)


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

    def apply(self, request: Change, ids: Sequence[int]) -> Any:
        """Plan a request. Returns its answer."""
        if isinstance(request, SettleRequest):
            return [self._endings.end(settlement) for settlement in request.settlements]
        return self._write(request, ids)

    def _write(self, write: AtomicWrite, ids: Sequence[int]) -> Any:
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
