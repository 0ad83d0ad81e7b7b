"""Requests in one transaction, where that can be; each by itself, where one spoils it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from kvqueue_fastapi.errors import KvQueueError, StoreBusyError
from kvqueue_fastapi.model import AtomicWrite, Claimed, Committed, Send
from kvqueue_fastapi.store.base import ClaimRequest, Request, SettleRequest
from kvqueue_fastapi.store.postgres.batch import (
    Batch,
    Change,
    cannot_be_stored,
    is_only_done,
    is_only_sent,
    key_locks,
)
from kvqueue_fastapi.store.postgres.claims import Claims
from kvqueue_fastapi.store.postgres.connection import OwnSession
from kvqueue_fastapi.store.postgres.ids import Ids
from kvqueue_fastapi.store.postgres.leases import new_token
from kvqueue_fastapi.store.postgres.locks import wait_for
from kvqueue_fastapi.store.postgres.sessions import Sessions, Transaction


class Wait(NamedTuple):
    """For a lock that a caller's transaction has, and then for what else a request needs.

    Attributes:
        lock: its number.
        within_ms: how long.
    """

    lock: int
    within_ms: int

    def locks(self, request: Request) -> list[int]:
        """All that a request needs, in the order in which to wait for them."""
        needed = key_locks(request)
        return sorted(needed, key=lambda number: (number != self.lock, number))


class Transactions:
    """Applies requests.

    Args:
        sessions: the server.
        batch: what does it within a transaction.
        claims: what takes up offers.
        ids: of new messages.
        now_ms: when; None: the server knows.
    """

    def __init__(
        self,
        sessions: Sessions,
        batch: Batch,
        claims: Claims,
        ids: Ids,
        now_ms: Callable[[], int | None],
    ) -> None:
        self._sessions = sessions
        self._batch = batch
        self._claims = claims
        self._ids = ids
        self._now_ms = now_ms

    async def apply(self, requests: Sequence[Request], wait: Wait | None = None) -> list[Any]:
        """Apply requests. Returns their answers; see `Batch.apply`.

        Args:
            requests: all of them in one transaction, where that can be.
            wait: for this lock before.

        Raises:
            StillHeldError: it was not free in time.
        """
        changes = [one for one in requests if not isinstance(one, ClaimRequest)]
        claims = [one for one in requests if isinstance(one, ClaimRequest)]
        counts = [len(one.sends) if isinstance(one, AtomicWrite) else 0 for one in changes]
        ids = await self._number(counts)
        try:
            answers = await self._together(changes, ids, claims, wait)
        except KvQueueError as error:
            if len(requests) == 1 or not _is_of_one(error):
                raise
            answers = await self._one_by_one(changes, ids, claims, wait)
        _tell_of_claims(claims, answers)
        return answers

    async def _number(self, counts: Sequence[int]) -> list[list[int]]:
        async def fetch(statement: str, *values: Any) -> Sequence[Any]:
            return await self._sessions.attempt(lambda session: session.fetch(statement, *values))

        total = sum(counts)
        numbers = iter(await self._ids.take(total, fetch) if total else ())
        return [[next(numbers) for _ in range(count)] for count in counts]

    async def _together(
        self,
        changes: Sequence[Change],
        ids: Sequence[Sequence[int]],
        claims: Sequence[ClaimRequest],
        wait: Wait | None,
    ) -> list[Any]:
        """Offers first among the answers, but last in the transaction: they see all of it."""
        if not claims and all(map(is_only_done, changes)):
            return list(await self._finish(_settling(changes)))
        only_sent = all(map(is_only_sent, changes))
        now_ms = self._now_ms()

        async def change(session: Any) -> list[Any]:
            if not only_sent:
                return await self._batch.apply(session, changes, now_ms, ids, briefly=True)
            await self._send(session, changes, ids, now_ms)
            return [Committed(True, own) for own in ids]

        tokens: list[int] = []

        async def work(transaction: Transaction) -> list[Any]:
            await self._wait(transaction, wait, changes)
            answers = await change(transaction)
            found: list[Any] = []
            for one in claims:
                tokens.append(new_token())
                found.append((await self._claims.claim_within(transaction, one, tokens[-1]))[0])
            return found + answers

        if only_sent and not claims:
            answers = await self._sessions.attempt(change, is_write=True)
        else:
            try:
                answers = await self._sessions.transact(work, waits=wait is not None)
            except BaseException:
                self._claims.doubt(tokens)
                raise
        own = answers[len(claims) :]
        self._batch.committed(changes, own)
        return answers

    async def _wait(
        self, transaction: Transaction, wait: Wait | None, changes: Sequence[Change]
    ) -> None:
        """For what the first one needs; what the others need as well may be missing."""
        if wait is not None:
            locks = wait.locks(changes[0])
            await wait_for(transaction, self._sessions.schema, locks, wait.within_ms)

    async def _send(
        self,
        session: OwnSession,
        changes: Sequence[Change],
        ids: Sequence[Sequence[int]],
        now_ms: int | None,
    ) -> None:
        sends: list[Send] = []
        for one in changes:
            if isinstance(one, AtomicWrite):
                sends += one.sends
        if sends:
            await self._batch.send(session, sends, [each for own in ids for each in own], now_ms)

    async def _finish(self, requests: Sequence[SettleRequest]) -> list[list[bool]]:
        tried = False

        async def work(session: OwnSession) -> list[list[bool]]:
            nonlocal tried
            again, tried = tried, True
            return await self._batch.finish(session, requests, again=again)

        return await self._sessions.attempt(work)

    async def _one_by_one(
        self,
        changes: Sequence[Change],
        ids: Sequence[Sequence[int]],
        claims: Sequence[ClaimRequest],
        wait: Wait | None,
    ) -> list[Any]:
        """Each in a transaction of its own, so that nobody's error touches a neighbour."""
        answers: list[Any] = []
        busy: StoreBusyError | None = None
        for change, own in zip(changes, ids, strict=True):
            # Patience is for all of them together, not for each.
            answers.append(busy or await self._alone([change], [own], [], wait))
            if isinstance(answers[-1], StoreBusyError):
                busy = answers[-1]
        return [await self._alone([], [], [one], wait) for one in claims] + answers

    async def _alone(
        self,
        changes: Sequence[Change],
        ids: Sequence[Sequence[int]],
        claims: Sequence[ClaimRequest],
        wait: Wait | None,
    ) -> Any:
        try:
            return (await self._together(changes, ids, claims, wait))[0]
        except KvQueueError as error:
            return error
        except Exception as error:  # noqa: BLE001 because it is this caller's answer
            return cannot_be_stored(self._sessions.server, error)


def _settling(changes: Sequence[Change]) -> list[SettleRequest]:
    return [one for one in changes if isinstance(one, SettleRequest)]


def _is_of_one(error: KvQueueError) -> bool:
    """Whether one of the batch may be to blame, and not the server."""
    return not isinstance(error, StoreBusyError)


def _tell_of_claims(claims: Sequence[ClaimRequest], answers: Sequence[Any]) -> None:
    for request, answer in zip(claims, answers, strict=False):
        if isinstance(answer, Claimed) and request.taken:
            request.taken(answer)
