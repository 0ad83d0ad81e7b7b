"""A batch of requests in one transaction, each with an answer of its own."""

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from kvqueue_fastapi.errors import KvQueueError, LeaseLostError, StoreBusyError, StoreError
from kvqueue_fastapi.model import AtomicWrite, Claimed, Committed, Outcome, Send, Settlement
from kvqueue_fastapi.store.base import ClaimRequest, Clock, Request, SettleRequest
from kvqueue_fastapi.store.effects import may_change, writes_keys
from kvqueue_fastapi.store.key_table import Changes
from kvqueue_fastapi.store.sqlite import statements as sql
from kvqueue_fastapi.store.sqlite.claims import claim, make_ready
from kvqueue_fastapi.store.sqlite.connection import (
    Patience,
    WriteTransaction,
    patiently,
    store_error,
)
from kvqueue_fastapi.store.sqlite.keys import Keys
from kvqueue_fastapi.store.sqlite.leases import Undertaker
from kvqueue_fastapi.store.sqlite.sends import insert, insert_once, insert_plain, is_plain
from kvqueue_fastapi.store.sqlite.settlements import settle_singly, settle_together


class Answers(NamedTuple):
    """What became of a batch.

    Attributes:
        answers: to each request, in order; an exception is an answer.
        changed: whether something may have become claimable, now or at a known time.
        keys_changed: whether a watched key may read otherwise.
        made_ready: whether a claim made something claimable that it may not have asked for.
    """

    answers: list[Any]
    changed: bool
    keys_changed: bool
    made_ready: bool = False


class _Replay(Exception):  # noqa: N818 because it is a signal within this file
    """The batch cannot be done together."""


class _CheckFailed(Exception):  # noqa: N818 because it is a signal within this file
    """A write is not to be done."""


class Batch:
    """Applies batches on the writing thread.

    Requests are done together where nothing stands against it. When something does, the
    transaction is rolled back and each request gets one of its own, so that nobody's error
    touches a neighbour.
    """

    def __init__(self, clock: Clock, undertaker: Undertaker, path: str, patience: Patience) -> None:
        self._clock = clock
        self._undertaker = undertaker
        self._path = path
        self._patience = patience
        self._known_types: set[str] = set()

    def apply(self, connection: sqlite3.Connection, requests: Sequence[Request]) -> Answers:
        """Apply all requests durably."""
        sends = _plain_sends(requests)
        try:
            with WriteTransaction(connection, self._patience):
                if sends:
                    ids = insert_plain(connection, sends, self._clock.wall_ms())
                    answers: list[Any] = [Committed(True, (message_id,)) for message_id in ids]
                    types = {send.type for send in sends}
                else:
                    answers = self._together(connection, requests)
                    types = _types_stored(requests, answers)
                new_types = self._remember_types(connection, types)
            self._known_types |= new_types
        except KvQueueError:  # the lock was not to be had: no request's own error
            raise
        except Exception:  # noqa: BLE001 because whose error it is shows when each is alone
            answers = self._one_by_one(connection, requests)
        if sends:
            return Answers(answers, changed=True, keys_changed=False)
        _tell_of_claims(requests, answers)
        made_ready = any(isinstance(one, Claimed) and one.made_ready for one in answers)
        return Answers(answers, *may_change(requests), made_ready)

    def ready_types(
        self, connection: sqlite3.Connection, after: str, limit: int
    ) -> tuple[list[str], bool]:
        """Types with something to claim, in order, and whether some was made claimable now."""
        with WriteTransaction(connection, self._patience):
            now_ms, steady_ms = self._clock.wall_ms(), self._clock.steady_ms()
            readiness = make_ready(connection, self._undertaker, now_ms=now_ms, steady_ms=steady_ms)
        names = {"after": after, "limit": limit}
        found = {
            row[0]
            for statement in (sql.READY_TYPES, sql.QUARANTINED_TYPES, sql.ISOLATED_TYPES)
            for row in _read(connection, statement, names, self._patience)
        }
        return sorted(found, key=str.encode)[:limit], readiness.changed

    def _together(self, connection: sqlite3.Connection, requests: Sequence[Request]) -> list[Any]:
        now_ms = self._clock.wall_ms()
        answers: list[Any] = [None] * len(requests)
        claims: list[tuple[int, ClaimRequest]] = []
        gathered = _Gathered(connection, answers, now_ms)
        gathered.read_for(requests)
        for index, request in enumerate(requests):
            if isinstance(request, AtomicWrite):
                if _fails_early(request):
                    gathered.add(index, request)
                    continue
                gathered.flush()
                answers[index] = self._write(connection, request, now_ms)
            elif isinstance(request, SettleRequest):
                answers[index] = _settle(connection, request, gathered, now_ms)
            else:
                claims.append((index, request))
        gathered.flush()
        # Claims come last, so that they see all that the batch has made ready.
        for index, request in claims:
            steady_ms = self._clock.steady_ms()
            answers[index] = claim(
                connection, request, self._undertaker, now_ms=now_ms, steady_ms=steady_ms
            )
        return answers

    def _remember_types(self, connection: sqlite3.Connection, types: set[str]) -> set[str]:
        """Note when a type was first sent. Returns those that are new to this process."""
        new_types = types - self._known_types
        for kind in new_types:
            names = {"type": kind, "now_ms": self._clock.wall_ms()}
            connection.execute(sql.REMEMBER_TYPE, names)
        return new_types

    def _one_by_one(self, connection: sqlite3.Connection, requests: Sequence[Request]) -> list[Any]:
        answers: list[Any] = [None] * len(requests)
        # Claims come last here, too.
        claims = [n for n, one in enumerate(requests) if isinstance(one, ClaimRequest)]
        others = [n for n, one in enumerate(requests) if not isinstance(one, ClaimRequest)]
        busy: StoreBusyError | None = None
        for index in others + claims:
            # Patience is for all of them together, not for each.
            answers[index] = busy or self._alone(connection, requests[index])
            if isinstance(answers[index], StoreBusyError):
                busy = answers[index]
        return answers

    def _alone(self, connection: sqlite3.Connection, request: Request) -> Any:
        try:
            with WriteTransaction(connection, self._patience):
                now_ms, steady_ms = self._clock.wall_ms(), self._clock.steady_ms()
                if isinstance(request, AtomicWrite):
                    return self._write(connection, request, now_ms)
                if isinstance(request, SettleRequest):
                    return settle_singly(connection, request.settlements, now_ms)
                return claim(
                    connection, request, self._undertaker, now_ms=now_ms, steady_ms=steady_ms
                )
        except sqlite3.Error as error:
            failure = store_error(error, self._path)
            failure.__cause__ = error
            return failure
        except KvQueueError as error:
            return error
        except Exception as error:  # noqa: BLE001 because it is this caller's answer
            failure = StoreError(f"{self._path}: cannot be stored: {error}.")
            failure.__cause__ = error
            return failure

    def _write(self, connection: sqlite3.Connection, write: AtomicWrite, now_ms: int) -> Any:
        connection.execute(sql.SAVEPOINT)
        try:
            answer: Any = _write_all(connection, write, now_ms)
        except KvQueueError as error:
            connection.execute(sql.SAVEPOINT_ROLLBACK)
            answer = error
        connection.execute(sql.SAVEPOINT_RELEASE)
        return answer


def _read(
    connection: sqlite3.Connection, statement: str, names: dict[str, Any], patience: Patience
) -> list[Any]:
    return patiently(lambda: connection.execute(statement, names).fetchall(), patience)


class _Gathered:
    """Writes that fail before they change anything, gathered in the order in which they came.

    Their sends become one insert, and their keys are written together.
    """

    def __init__(self, connection: sqlite3.Connection, answers: list[Any], now_ms: int) -> None:
        self._connection = connection
        self._answers = answers
        self._now_ms = now_ms
        self._keys: Keys | None = None
        self._sends: list[Send] = []
        self._owners: list[tuple[int, int, int | None]] = []

    def read_for(self, requests: Sequence[Request]) -> None:
        looking = [
            one
            for one in requests
            if isinstance(one, AtomicWrite) and (one.checks or one.mutations or one.versioned)
        ]
        if looking:
            self._keys = Keys(self._connection, self._now_ms)
            self._keys.read_for(looking)

    def add(self, index: int, write: AtomicWrite) -> None:
        """Take a write that fails early, or answer why it is not to be done."""
        version = None
        if write.checks or write.mutations or write.settlements or write.versioned:
            try:
                version = self._change(write)
            except _CheckFailed:
                self._answers[index] = Committed(ok=False)
                return
            except KvQueueError as error:
                self._answers[index] = error
                return
        self._owners.append((index, len(write.sends), version))
        self._sends.extend(write.sends)

    def flush(self) -> None:
        if self._keys is not None:
            self._keys.flush()
        ids = insert(self._connection, self._sends, self._now_ms) if self._sends else []
        start = 0
        for index, count, version in self._owners:
            self._answers[index] = Committed(True, ids[start : start + count], version)
            start += count
        self._sends, self._owners = [], []

    def _change(self, write: AtomicWrite) -> int | None:
        changes = Changes({}, None) if self._keys is None else self._keys.plan(write)
        if changes is None:
            raise _CheckFailed
        # The last thing that can fail, and it changes nothing then.
        if write.settlements and not all(
            settle_singly(self._connection, write.settlements, self._now_ms)
        ):
            raise LeaseLostError
        if self._keys is not None:
            self._keys.accept(changes)
        return changes.version


def _settle(
    connection: sqlite3.Connection, request: SettleRequest, gathered: _Gathered, now_ms: int
) -> list[bool]:
    if any(map(writes_keys, request.settlements)):
        gathered.flush()
    held = settle_together(connection, request.settlements, now_ms)
    if held is None:
        raise _Replay
    return held


def _fails_early(write: AtomicWrite) -> bool:
    """Whether it can fail only before it has changed anything in the database."""
    if write.settlements and not _is_simply_done(write.settlements):
        return False
    if len(write.sends) == 1:
        return write.sends[0].idempotency is None
    return all(send.idempotency is None for send in write.sends)


def _is_simply_done(settlements: Sequence[Settlement]) -> bool:
    return len(settlements) == 1 and settlements[0].outcome is Outcome.DONE


def _write_all(connection: sqlite3.Connection, write: AtomicWrite, now_ms: int) -> Committed:
    keys = Keys(connection, now_ms)
    keys.read_for([write])
    changes = keys.plan(write)
    if changes is None:
        return Committed(ok=False)
    keys.accept(changes)
    keys.flush()
    if not all(settle_singly(connection, write.settlements, now_ms)):
        raise LeaseLostError
    fresh: list[int] = []
    ids = [insert_once(connection, send, now_ms, fresh) for send in write.sends]
    return Committed(ok=True, message_ids=ids, version=changes.version)


def _plain_sends(requests: Sequence[Request]) -> list[Send] | None:
    """What is sent, where each request sends one plain message and nothing else, as most do."""
    sends: list[Send] = []
    for request in requests:
        if not isinstance(request, AtomicWrite) or len(request.sends) != 1:
            return None
        if request.checks or request.mutations or request.settlements or request.versioned:
            return None
        send = request.sends[0]
        if not is_plain(send):
            return None
        sends.append(send)
    return sends


def _types_stored(requests: Sequence[Request], answers: Sequence[Any]) -> set[str]:
    return {
        send.type
        for request, answer in zip(requests, answers, strict=True)
        if isinstance(request, AtomicWrite) and isinstance(answer, Committed) and answer.ok
        for send in request.sends
    }


def _tell_of_claims(requests: Sequence[Request], answers: Sequence[Any]) -> None:
    for request, answer in zip(requests, answers, strict=True):
        if isinstance(answer, Claimed) and isinstance(request, ClaimRequest) and request.taken:
            request.taken(answer)
