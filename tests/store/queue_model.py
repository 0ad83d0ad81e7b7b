"""The rules of the queue in plain Python: what a store does, and nothing of how it does it.

Nothing is marked as ready and nothing is removed: who may be claimed is worked out from all
messages that were ever sent, each time that somebody asks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import chain, zip_longest
from typing import NamedTuple

from kvqueue_fastapi.errors import IdempotencyConflictError, KvQueueError, LeaseLostError
from kvqueue_fastapi.keeper import AttemptError, MessageRecord, State
from kvqueue_fastapi.model import (
    AtomicWrite,
    Claim,
    Outcome,
    Send,
    Settlement,
)
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store.base import ClaimRequest
from tests.store.given import ManualClock


class Place(Enum):
    """Where a message has come to: every message is in one of these, so that none is lost."""

    WAITING = auto()
    CLAIMED = auto()
    DEAD = auto()
    DONE = auto()
    DISCARDED = auto()
    SWEPT = auto()
    """It was a dead letter for long enough."""
    REQUEUED = auto()
    """It was a dead letter, and lives on under a new id."""


UNFINISHED = (Place.WAITING, Place.CLAIMED)
GONE = (Place.DONE, Place.DISCARDED, Place.SWEPT, Place.REQUEUED)


@dataclass
class Message:
    """One message, from its sending on."""

    id: int
    sent: Send
    sent_at_ms: int
    due_at_ms: int
    requeued_from: int | None = None
    place: Place = Place.WAITING
    attempt: int = 0
    crashes: int = 0
    deferrals: int = 0
    errors: list[AttemptError] = field(default_factory=list)
    token: int = 0
    holder: int = 0
    lease_until_ms: int = 0

    def fail(self, now_ms: int) -> None:
        self.errors.append(AttemptError(self.attempt, now_ms, "", ""))

    def give_back(self) -> None:
        """Make as if this claim had never been."""
        self.place = Place.WAITING
        self.attempt -= 1

    def crash(self, now_ms: int, max_crashes: int) -> None:
        """Count a holder that died apart from failed attempts; it keeps its place in line."""
        self.crashes += 1
        self.fail(now_ms)
        self.place = Place.WAITING
        if self.crashes >= max_crashes:
            self.place, self.due_at_ms = Place.DEAD, now_ms

    def end(self, outcome: Outcome, now_ms: int, delay_ms: int) -> None:
        match outcome:
            case Outcome.DONE:
                self.place = Place.DONE
            case Outcome.RELEASE:
                self.give_back()
            case Outcome.LATER:
                self.give_back()
                self.deferrals += 1
                self.due_at_ms = now_ms + delay_ms
            case Outcome.RETRY:
                self.fail(now_ms)
                self.place, self.due_at_ms = Place.WAITING, now_ms + delay_ms
            case Outcome.DEAD:
                self.fail(now_ms)
                self.place, self.due_at_ms = Place.DEAD, now_ms


class Remembered(NamedTuple):
    """The message of an idempotency key, until the window ends."""

    message_id: int
    body: str
    until_ms: int


class QueueModel:
    """What a queue holds, and what it answers.

    Attributes:
        messages: all that were ever sent, by id.
        paused: the types that nobody may claim.
    """

    def __init__(self, clock: ManualClock, settings: KvQueueSettings) -> None:
        self.messages: dict[int, Message] = {}
        self.paused: set[str] = set()
        self._once: dict[tuple[str, str], Remembered] = {}
        self._clock = clock
        self._max_crashes = settings.max_crashes
        self._retention_ms = round(settings.dead_letter_retention_s * 1000)

    # --- sending -----------------------------------------------------------------------------

    def refusal(self, write: AtomicWrite) -> type[KvQueueError] | None:
        """Why nothing of a write is done; None: all of it is."""
        if not all(self.holds(one.id, one.token) for one in write.settlements):
            return LeaseLostError
        bodies = {key: found.body for key, found in self._once.items() if self._runs(found)}
        for send in write.sends:
            key = send.idempotency and (send.type, send.idempotency.key)
            if key and bodies.setdefault(key, send.data) != send.data:
                return IdempotencyConflictError
        return None

    def commit(self, write: AtomicWrite, ids: Sequence[int]) -> None:
        """Take in what was sent under these ids: a new one, unless its key has a message."""
        for settlement in write.settlements:
            self.settle(settlement)
        for send, message_id in zip(write.sends, ids, strict=True):
            self._send(message_id, send)

    def _send(self, message_id: int, send: Send) -> None:
        if send.idempotency is None:
            self._add(message_id, send)
            return
        key = (send.type, send.idempotency.key)
        if key in self._once and self._runs(self._once[key]):
            assert message_id == self._once[key].message_id
            return
        self._add(message_id, send)
        until_ms = self._clock.now_ms + send.idempotency.window_ms
        self._once[key] = Remembered(message_id, send.data, until_ms)

    def _add(self, message_id: int, send: Send, requeued_from: int | None = None) -> None:
        assert message_id > max(self.messages, default=0), "ids grow, and never come twice"
        now_ms = self._clock.now_ms
        self.messages[message_id] = Message(
            message_id, send, now_ms, now_ms + send.delay_ms, requeued_from
        )

    def _runs(self, remembered: Remembered) -> bool:
        return remembered.until_ms > self._clock.now_ms

    # --- claiming ----------------------------------------------------------------------------

    def state(self, message: Message) -> State:
        if message.place is Place.DEAD:
            return State.DEAD
        if message.place is Place.CLAIMED:
            return State.RUNNING
        if any(self._goes_before(other, message) for other in self.messages.values()):
            return State.BLOCKED
        if message.due_at_ms > self._clock.now_ms:
            return State.DELAYED
        return self.lane(message.crashes)

    def lane(self, crashes: int) -> State:
        """Where a message that is due waits, by how many of its holders died."""
        if crashes and crashes == self._max_crashes - 1:
            return State.ISOLATED
        return State.QUARANTINED if crashes > 1 else State.READY

    def _goes_before(self, other: Message, message: Message) -> bool:
        """Whether it is of the same ordering key, earlier, and not finished: whatever it does."""
        key = message.sent.ordering_key
        is_of_the_key = key is not None and other.sent.ordering_key == key
        return is_of_the_key and other.id < message.id and other.place in UNFINISHED

    def end_leases(self) -> None:
        """Take what was held too long from its holders: it happens when somebody looks for work."""
        for message in self._in(Place.CLAIMED):
            if message.lease_until_ms <= self._clock.now_ms:
                message.crash(self._clock.now_ms, self._max_crashes)

    def next_due_ms(self) -> int | None:
        """How long until more can be claimed, if nobody settles or sends."""
        times = [message.lease_until_ms for message in self._in(Place.CLAIMED)]
        times += [message.due_at_ms for message in self._of(State.DELAYED)]
        return min(times) - self._clock.now_ms if times else None

    def claim(self, request: ClaimRequest) -> tuple[list[Claim], list[str]]:
        """What a claim brings: one quarantined message beside the limit, then what is ready.

        Or an isolated one and nothing else; if not, it tells of which types there is one.
        """
        self.end_leases()
        room = {kind: places for kind, places in request.wanted if kind not in self.paused}
        if request.isolated:
            return [_claim(one) for one in self._first(State.ISOLATED, room)], []
        suspects = self._first(State.QUARANTINED, room) if request.quarantined else []
        for suspect in suspects:
            room[suspect.sent.type] -= 1
        claims = [_claim(one) for one in suspects + self._in_turns(room, request.limit)]
        isolated = [one.sent.type for one in self._of(State.ISOLATED)]
        return claims, [kind for kind, places in room.items() if places > 0 and kind in isolated]

    def _first(self, state: State, room: dict[str, int]) -> list[Message]:
        """The first by due time over all types, whatever the priority; or none."""
        suspects = [one for one in self._of(state) if room.get(one.sent.type, 0) > 0]
        return sorted(suspects, key=lambda one: (one.due_at_ms, one.id))[:1]

    def _in_turns(self, room: dict[str, int], limit: int) -> list[Message]:
        """A line for each type, by priority, then due time, then id; the lines take turns."""
        ready = sorted(
            self._of(State.READY), key=lambda one: (-one.sent.priority, one.due_at_ms, one.id)
        )
        lines = [
            [one for one in ready if one.sent.type == kind][:places]
            for kind, places in room.items()
        ]
        turns = chain.from_iterable(zip_longest(*lines))
        return [one for one in turns if one is not None][:limit]

    def take(self, claims: Iterable[Claim], request: ClaimRequest) -> None:
        """Hide these messages from everybody else until the lease ends."""
        for claim in claims:
            message = self.messages[claim.id]
            message.place, message.token = Place.CLAIMED, claim.token
            message.holder = request.listener_id
            message.lease_until_ms = self._clock.now_ms + request.lease_ms
            message.attempt += 1

    # --- settling ----------------------------------------------------------------------------

    def holds(self, message_id: int, token: int) -> bool:
        """Whether the lease still holds: also when it is over, until somebody looks for work."""
        message = self.messages[message_id]
        return message.place is Place.CLAIMED and message.token == token

    def settle(self, settlement: Settlement) -> bool:
        if not self.holds(settlement.id, settlement.token):
            return False
        message = self.messages[settlement.id]
        message.end(settlement.outcome, self._clock.now_ms, settlement.delay_ms)
        return True

    def extend(self, leases: Iterable[tuple[int, int]], lease_ms: int) -> frozenset[int]:
        """Make leases longer. Returns the ids of those that were lost."""
        leases = list(leases)
        held = {message_id for message_id, token in leases if self.holds(message_id, token)}
        for message_id in held:
            self.messages[message_id].lease_until_ms = self._clock.now_ms + lease_ms
        return frozenset(message_id for message_id, _ in leases if message_id not in held)

    def leave(self, holder: int) -> None:
        """A holder that stops in good order gives back all that it has."""
        for message in self._in(Place.CLAIMED):
            if message.holder == holder:
                message.give_back()

    # --- keeping -----------------------------------------------------------------------------

    def requeue(self, requeued: dict[int, int]) -> None:
        """Send dead letters again, under new ids at the tails of their keys, due at once."""
        for old, new in requeued.items():
            self._add(new, self.messages[old].sent._replace(delay_ms=0), requeued_from=old)
            self.messages[old].place = Place.REQUEUED
            self._once = {
                key: found._replace(message_id=new) if found.message_id == old else found
                for key, found in self._once.items()
            }

    def discard(self, message_ids: Iterable[int]) -> dict[int, bool]:
        """Remove all but what runs, and free their idempotency keys. Returns which went."""
        there = [one for one in message_ids if self.messages[one].place not in GONE]
        gone = {one: self.messages[one].place is not Place.CLAIMED for one in there}
        for message_id in (one for one, went in gone.items() if went):
            self.messages[message_id].place = Place.DISCARDED
            self._once = {
                key: found for key, found in self._once.items() if found.message_id != message_id
            }
        return gone

    def sweep(self) -> None:
        """Remove the dead letters that were kept for long enough."""
        for message in self._in(Place.DEAD):
            if message.due_at_ms + self._retention_ms <= self._clock.now_ms:
                message.place = Place.SWEPT

    # --- looking -----------------------------------------------------------------------------

    def ids(self, *places: Place) -> list[int]:
        return [message.id for message in self._in(*places)]

    def records(self, *places: Place) -> list[MessageRecord]:
        """Messages as their keeper sees them, but for the texts of errors, by id."""
        return [self._record(message) for message in self._in(*places)]

    def claimable_types(self) -> list[str]:
        """Types with something to claim, if they were not paused."""
        return sorted(
            {one.sent.type for one in self._of(State.READY, State.QUARANTINED, State.ISOLATED)}
        )

    def _record(self, message: Message) -> MessageRecord:
        return MessageRecord(
            id=message.id,
            type=message.sent.type,
            data=int(message.sent.data),
            state=self.state(message),
            headers={},
            priority=message.sent.priority,
            ordering_key=message.sent.ordering_key,
            attempt=message.attempt,
            crashes=message.crashes,
            sent_at_ms=message.sent_at_ms,
            due_at_ms=message.due_at_ms,
            errors=tuple(message.errors),
            requeued_from=message.requeued_from,
            deferrals=0 if message.place is Place.DEAD else message.deferrals,
        )

    def _in(self, *places: Place) -> list[Message]:
        return [message for message in self.messages.values() if message.place in places]

    def _of(self, *states: State) -> list[Message]:
        return [one for one in self._in(Place.WAITING) if self.state(one) in states]


def _claim(message: Message) -> Claim:
    """As it will be told to its next holder, but for the token."""
    return Claim(
        id=message.id,
        token=0,
        type=message.sent.type,
        data=message.sent.data,
        attempt=message.attempt + 1,
        crashes=message.crashes,
        sent_at_ms=message.sent_at_ms,
        ordering_key=message.sent.ordering_key,
        options=None,
        due_at_ms=message.due_at_ms,
    )
