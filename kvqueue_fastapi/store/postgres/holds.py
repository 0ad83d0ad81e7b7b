"""Claims that end: what becomes of their messages is planned in memory, and written together."""

import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import pydantic_core

from kvqueue_fastapi.errors import StoreError
from kvqueue_fastapi.model import Failure, KvSet, Mutation, Outcome, Settlement
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import Row, Session
from kvqueue_fastapi.store.postgres.keys import Keys
from kvqueue_fastapi.store.postgres.sends import columns
from kvqueue_fastapi.store.undelivered import undelivered_sets

DELAYED: Final = 1
_CLAIMED: Final = 3


class Held(NamedTuple):
    """A message in somebody's hands, under the row's lock."""

    id: int
    token: int
    type: str
    data: str
    options: str | None
    ordering_key: str | None
    attempt: int
    crashes: int
    deferrals: int
    errors: str | None
    lane: int
    state: int


class Back(NamedTuple):
    """What is put back into the queue."""

    id: int
    state: int
    lane: int
    due_at_ms: int | None
    attempt: int
    crashes: int
    deferrals: int
    errors: str | None


class Endings:
    """How the claims of one transaction end.

    Args:
        now_ms: the moment of the transaction.
        keys: what takes the keys of dead letters; None: none is to be written.
    """

    def __init__(self, now_ms: int, keys: Keys | None) -> None:
        self._now_ms = now_ms
        self._keys = keys
        self._held: dict[int, Held] = {}
        self._done: list[int] = []
        self._back: list[Back] = []
        self._buried: list[tuple[int, int, str, str]] = []

    async def load(self, session: Session, ids: Sequence[int]) -> None:
        """Lock the rows of these messages, and see who holds them."""
        if ids:
            self.see(await session.fetch(sql.HOLD, ids))

    def see(self, rows: Sequence[Row]) -> list[Held]:
        """Take rows that are locked already."""
        found = [Held(*row) for row in rows]
        self._held.update({row.id: row for row in found if row.state == _CLAIMED})
        return found

    def holds(self, settlements: Sequence[Settlement]) -> bool:
        """Whether all these leases still hold."""
        ids = {one.id for one in settlements}
        return len(ids) == len(settlements) and all(map(self._holds, settlements))

    def end(self, settlement: Settlement) -> bool:
        """Plan the end of a claim. Returns whether its lease still held."""
        if not self._holds(settlement):
            return False
        held = self._held.pop(settlement.id)
        match settlement.outcome:
            case Outcome.DONE:
                self._done.append(held.id)
            case Outcome.RELEASE:
                self._put_back(held, attempt=max(held.attempt - 1, 0), state=held.lane)
            case Outcome.DEAD:
                self.bury(held, settlement.failure or Failure("given up"))
            case Outcome.RETRY:
                self._put_off(held, settlement, errors=self._noted(held, settlement.failure))
            case Outcome.LATER:
                self._put_off(
                    held,
                    settlement,
                    attempt=max(held.attempt - 1, 0),
                    deferrals=min(held.deferrals, 1_000_000_000) + 1,
                )
        return True

    def crash(self, held: Held, text: str, lane: int) -> None:
        """Plan that a message goes back whose holder died or fell silent."""
        errors = self._noted(held, Failure(text))
        self._put_back(held, state=lane, lane=lane, crashes=held.crashes + 1, errors=errors)

    def bury(self, held: Held, failure: Failure, *, crashes: int = 0) -> None:
        """Plan that a message becomes a dead letter; its keys are written with it."""
        sets: list[Mutation] = list(undelivered_sets(held.type, held.data, held.options))
        if sets:
            self._require_keys().change(sets)
        total = min(held.crashes + crashes, 9_007_199_254_740_991)
        self._buried.append((held.id, total, self._noted(held, failure), failure.text))

    async def store(self, session: Session) -> None:
        """Write down what was planned; the keys apart."""
        if self._done:
            await session.fetch(sql.DELETE_MESSAGES, self._done)
        if self._back:
            await session.fetch(sql.PUT_BACK, *columns(self._back, 8))
        if self._buried:
            await session.fetch(sql.BURY, self._now_ms, *columns(self._buried, 4))

    def _holds(self, settlement: Settlement) -> bool:
        held = self._held.get(settlement.id)
        return held is not None and held.token == settlement.token

    def _put_off(self, held: Held, settlement: Settlement, **changed: Any) -> None:
        due_at_ms = self._now_ms + settlement.delay_ms
        state = DELAYED if due_at_ms > self._now_ms else held.lane
        self._put_back(held, state=state, due_at_ms=due_at_ms, **changed)

    def _put_back(self, held: Held, *, state: int, **changed: Any) -> None:
        back = Back(
            held.id,
            state,
            held.lane,
            None,
            held.attempt,
            held.crashes,
            held.deferrals,
            held.errors,
        )
        self._back.append(back._replace(**changed))

    def _noted(self, held: Held, failure: Failure | None) -> str:
        return with_error(held.errors, held.attempt, self._now_ms, failure or Failure(""))

    def _require_keys(self) -> Keys:
        if self._keys is None:
            msg = "the versions were not locked"
            raise StoreError(msg)
        return self._keys


def undelivered(held: Held) -> list[KvSet]:
    """The keys that are written if this message is given up."""
    return undelivered_sets(held.type, held.data, held.options)


def with_error(errors: str | None, attempt: int, at_ms: int, failure: Failure) -> str:
    """What went wrong so far, as JSON, and this."""
    try:
        noted = pydantic_core.from_json(errors or "[]")
    except ValueError:  # a foreign program wrote it
        noted = []
    if not isinstance(noted, list):
        noted = []
    entry = {
        "attempt": attempt,
        "at_ms": at_ms,
        "text": failure.text,
        "trace": failure.trace,
    }
    # Text of errors may hold anything; what is no Unicode cannot be stored.
    written = json.dumps([*noted, entry], ensure_ascii=False, separators=(",", ":"))
    return written.encode("utf-8", "replace").decode()
