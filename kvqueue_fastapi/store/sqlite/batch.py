"""A batch of requests in one transaction, each with an answer of its own."""

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from kvqueue_fastapi.errors import KvQueueError, LeaseLostError, StoreBusyError, StoreError
from kvqueue_fastapi.model import AtomicWrite, Claimed, Committed, Outcome, Send, Settlement
from kvqueue_fastapi.store.base import ClaimRequest, Clock, Request, SettleRequest
from kvqueue_fastapi.store.sqlite import statements as sql
from kvqueue_fastapi.store.sqlite.claims import claim, make_ready
from kvqueue_fastapi.store.sqlite.connection import (
    Patience,
    patiently,
    store_error,
    write_transaction,
)
from kvqueue_fastapi.store.sqlite.keys import apply_mutations, checks_hold
from kvqueue_fastapi.store.sqlite.leases import Undertaker
from kvqueue_fastapi.store.sqlite.sends import insert, insert_once
from kvqueue_fastapi.store.sqlite.settlements import settle_singly, settle_together


class Answers(NamedTuple):
    """What became of a batch.

    Attributes:
        answers: to each request, in order; an exception is an answer.
        changed: whether something may have become claimable, now or at a known time.
    """

    answers: list[Any]
    changed: bool


class _Replay(Exception):  # noqa: N818 because it is a signal within this file
    """The batch cannot be done together."""


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
        try:
            with write_transaction(connection, self._patience):
                answers = self._together(connection, requests)
                new_types = self._remember_types(connection, requests)
            self._known_types |= new_types
        except KvQueueError:  # the lock was not to be had: no request's own error
            raise
        except Exception:  # noqa: BLE001 because whose error it is shows when each is alone
            answers = self._one_by_one(connection, requests)
        _tell_of_claims(requests, answers)
        return Answers(answers, any(map(_may_change, requests)))

    def ready_types(self, connection: sqlite3.Connection, after: str, limit: int) -> list[str]:
        """Types with something to claim, in order, beginning behind `after`."""
        with write_transaction(connection, self._patience):
            now_ms, steady_ms = self._clock.wall_ms(), self._clock.steady_ms()
            make_ready(connection, self._undertaker, now_ms=now_ms, steady_ms=steady_ms)
        names = {"after": after, "limit": limit}
        found = {
            row[0]
            for statement in (sql.READY_TYPES, sql.QUARANTINED_TYPES)
            for row in _read(connection, statement, names, self._patience)
        }
        return sorted(found, key=str.encode)[:limit]

    def _together(self, connection: sqlite3.Connection, requests: Sequence[Request]) -> list[Any]:
        now_ms, steady_ms = self._clock.wall_ms(), self._clock.steady_ms()
        answers: list[Any] = [None] * len(requests)
        plain = _PlainSends(connection, answers, now_ms)
        for index, request in enumerate(requests):
            if isinstance(request, AtomicWrite):
                if _is_plain(request):
                    plain.add(index, request.sends)
                    continue
                plain.flush()
                answers[index] = self._write(connection, request, now_ms)
            elif isinstance(request, SettleRequest):
                answers[index] = settle_together(connection, request.settlements, now_ms)
                if answers[index] is None:
                    raise _Replay
        plain.flush()
        # Claims come last, so that they see all that the batch has made ready.
        for index, request in enumerate(requests):
            if isinstance(request, ClaimRequest):
                answers[index] = claim(
                    connection, request, self._undertaker, now_ms=now_ms, steady_ms=steady_ms
                )
        return answers

    def _remember_types(
        self, connection: sqlite3.Connection, requests: Sequence[Request]
    ) -> set[str]:
        """Note when a type was first sent. Returns those that are new to this process."""
        sent = {
            send.type
            for request in requests
            if isinstance(request, AtomicWrite)
            for send in request.sends
        }
        new_types = sent - self._known_types
        for kind in new_types:
            names = {"type": kind, "now_ms": self._clock.wall_ms()}
            connection.execute(sql.REMEMBER_TYPE, names)
        return new_types

    def _one_by_one(self, connection: sqlite3.Connection, requests: Sequence[Request]) -> list[Any]:
        answers: list[Any] = []
        for request in requests:
            answer = self._alone(connection, request)
            answers.append(answer)
            if isinstance(answer, StoreBusyError):
                # Patience is for all of them together, not for each.
                return answers + [answer] * (len(requests) - len(answers))
        return answers

    def _alone(self, connection: sqlite3.Connection, request: Request) -> Any:
        try:
            with write_transaction(connection, self._patience):
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


class _PlainSends:
    """Sends that cannot fail by themselves, gathered into one insert in the order they came."""

    def __init__(self, connection: sqlite3.Connection, answers: list[Any], now_ms: int) -> None:
        self._connection = connection
        self._answers = answers
        self._now_ms = now_ms
        self._sends: list[Send] = []
        self._owners: list[tuple[int, int]] = []

    def add(self, index: int, sends: Sequence[Send]) -> None:
        self._owners.append((index, len(sends)))
        self._sends.extend(sends)

    def flush(self) -> None:
        if not self._sends:
            return
        ids = insert(self._connection, self._sends, self._now_ms)
        start = 0
        for index, count in self._owners:
            self._answers[index] = Committed(ok=True, message_ids=ids[start : start + count])
            start += count
        self._sends, self._owners = [], []


def _is_plain(write: AtomicWrite) -> bool:
    if write.checks or write.mutations or write.settlements or not write.sends:
        return False
    if len(write.sends) == 1:
        return write.sends[0].idempotency is None
    return all(send.idempotency is None for send in write.sends)


def _write_all(connection: sqlite3.Connection, write: AtomicWrite, now_ms: int) -> Committed:
    if not checks_hold(connection, write.checks, now_ms):
        return Committed(ok=False)
    if not all(settle_singly(connection, write.settlements, now_ms)):
        msg = "The lease on the message was lost; nothing was written."
        raise LeaseLostError(msg)
    version = apply_mutations(connection, write.mutations)
    ids = [insert_once(connection, send, now_ms) for send in write.sends]
    return Committed(ok=True, message_ids=ids, version=version)


def _tell_of_claims(requests: Sequence[Request], answers: Sequence[Any]) -> None:
    for request, answer in zip(requests, answers, strict=True):
        if isinstance(request, ClaimRequest) and request.taken and isinstance(answer, Claimed):
            request.taken(answer.claims)


def _may_change(request: Request) -> bool:
    if isinstance(request, AtomicWrite):
        return bool(request.sends or request.settlements)
    if isinstance(request, SettleRequest):
        return any(map(_frees, request.settlements))
    return False


def _frees(settlement: Settlement) -> bool:
    return settlement.outcome is not Outcome.DONE or settlement.ordering_key is not None
