"""The boundary to an engine: the verbs of the flow, and the verbs of the keeper."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from kvqueue_fastapi.keeper import (
    ListenerRecord,
    MessageRecord,
    Minute,
    Payload,
    Query,
    TypeCounts,
)
from kvqueue_fastapi.model import (
    AtomicWrite,
    Claimed,
    Committed,
    Report,
    Send,
    Settlement,
    Stored,
    Tally,
    Wanted,
)
from kvqueue_fastapi.store.copies import CopySource

MAX_WANTED: Final = 16
"""More types in one claim make it slow; listeners with more take turns among them."""


SUSPECT_CRASHES: Final = 2
"""After so many a message is quarantined. The first one says little: it befalls all that a
process has in hand."""

MAX_STEPS: Final = 20_000
"""More types and priorities are not looked at for the age of the oldest message."""

MINUTE_MS: Final = 60_000
MINUTES_KEPT: Final = 60
"""What ended is counted by the minute, for so many of them."""

MAX_READ_KEYS: Final = 1_024
"""More keys are no longer read in one go, at one moment."""


class Clock(Protocol):
    """What an engine reads the time from; tests bring their own."""

    def wall_ms(self) -> int:
        """UTC milliseconds since 1970: when messages are due."""
        ...

    def steady_ms(self) -> int:
        """Milliseconds that never jump, the same for all processes of a boot: leases."""
        ...


class SettleRequest(NamedTuple):
    """Claims that ended, each for itself. Answer: list of `Held`.

    Attributes:
        settlements: how they ended.
        waits: for all of them, however long one has to wait.
    """

    settlements: Sequence[Settlement]
    waits: bool = False


Held = bool | asyncio.Future[bool]
"""Whether a lease held, now or later."""

Taken = Callable[[Claimed], None]
"""Told of claims at once, in the store's own thread, however busy the event loop is."""


class ClaimRequest(NamedTuple):
    """Room for messages. Answer: `Claimed`.

    Attributes:
        wanted: at most `MAX_WANTED` types, in the order in which they take turns; an offer may
            name more, of which those are asked for that have just been sent.
        limit: how many claims at the most.
        lease_ms: how long they are hidden from others, if not extended.
        listener_id: who holds them; 0 is nobody whose death could be seen.
        quarantined: whether one message more may come whose holders died more than once.
        isolated: instead of all that, one message may come that is one crash from its end.
        taken: told of the claims, before they are the answer.
    """

    wanted: Sequence[Wanted]
    limit: int
    lease_ms: int
    listener_id: int = 0
    quarantined: bool = True
    taken: Taken | None = None
    isolated: bool = False


Request = AtomicWrite | SettleRequest | ClaimRequest
"""What goes through the writer."""


class Store(Protocol):
    """A durable queue with a key-value table beside it: the verbs of the flow.

    The coroutines are called on one event loop. The plain functions block, and may be called
    from any thread: the lease keeper has one of its own.

    Attributes:
        claim_size: how many messages to claim in one go at the most. More are not always better:
            some 700 objects more than before have Python's garbage collector look, and each
            hundredth time it looks through the whole app, which stops everything for 20 ms.
    """

    claim_size: int

    def commit(self, write: AtomicWrite) -> Awaitable[Committed]:
        """Write all of it durably, or nothing; for the caller to await."""
        ...

    async def send_within(self, connection: Any, sends: Sequence[Send]) -> list[int]:
        """Store messages in a transaction of the caller's own: they are sent if it commits.

        Nothing is announced before. Whoever subscribed is woken soon after the commit.

        Args:
            connection: what the caller writes through, of one of the drivers of the engine.
            sends: what to store.

        Returns: their ids, in order.

        Raises:
            InvalidOptionError: the connection is of no use for it; the error says why.
            IdempotencyConflictError: a key belongs to another body. The transaction may go on.
            StoreBusyError: others hold a lock, or it cannot be serialized: all of the
                transaction is to be done again.
            StoreError: the database failed.
        """
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> list[Held]:
        """End claims, each by itself.

        Returns: in order, whether the lease still held. Where one must wait for long, its place
            has the answer that comes.
        """
        ...

    async def claim(self, request: ClaimRequest) -> Claimed:
        """Take what is due, types taking turns.

        What it makes claimable may be of other types, so it wakes those who subscribed.
        """
        ...

    def offer(self, request: ClaimRequest, wake: Callable[[], None]) -> asyncio.Future[Claimed]:
        """Have the next commit of this process that may make something claimable claim it, too.

        So a message that is sent where it can be handled at once needs one commit and not two.

        Args:
            request: what there is room for.
            wake: what was given to `subscribe`. It is not called of that commit, unless there
                may be more in it than the offer names.

        Returns: what it brought. That may never come; see `withdraw`. Closing cancels it.
        """
        ...

    def withdraw(self, offer: asyncio.Future[Claimed]) -> bool:
        """Take an offer back. Returns whether it still stood; if not, its answer comes."""
        ...

    async def ready_types(self, *, after: str, limit: int) -> list[str]:
        """Types with something to claim, in order, beginning behind `after`."""
        ...

    async def listened_types(self) -> frozenset[str]:
        """Types that some listening process handles."""
        ...

    async def paused_types(self) -> frozenset[str]:
        """Types that nobody may claim now."""
        ...

    @property
    def can_write(self) -> bool:
        """Whether what is written was not refused of late."""
        ...

    async def count_pending(self, *, most: int) -> int:
        """How many messages wait, counted to about `most`."""
        ...

    async def get(self, keys: Sequence[bytes]) -> list[Stored | None]:
        """What is stored under each of at most `MAX_READ_KEYS` keys, at one moment."""
        ...

    async def scan(self, start: bytes, end: bytes, *, limit: int, reverse: bool) -> list[Stored]:
        """The first keys from `start` to before `end`, or the last ones, from the end."""
        ...

    async def last_version(self) -> int:
        """That of the last commit that had one."""
        ...

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` on the event loop when something may have become claimable.

        Returns: what ends the subscription.
        """
        ...

    def subscribe_to_keys(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` on the event loop when some key may have changed; as `subscribe`."""
        ...

    async def enter_listener(self, types: Sequence[str]) -> int:
        """Say that this process listens, and show a mark of life. Returns its id, never reused."""
        ...

    def report(self, listener_id: int, report: Report, tallies: Sequence[Tally]) -> None:
        """Write down what a listener says of itself, and what has ended in this minute. Blocks."""
        ...

    def retire_listener(self, listener_id: int) -> None:
        """Say that it only waits for threads that go on: its end is no crash. Blocks."""
        ...

    def leave_listener(self, listener_id: int) -> None:
        """Take the mark of life away, and give back what it still holds. Blocks."""
        ...

    def settle_now(self, settlements: Sequence[Settlement]) -> list[bool]:
        """`settle`, for a thread that outlived its event loop. Blocks."""
        ...

    def extend(self, leases: Sequence[tuple[int, int]], lease_ms: int) -> frozenset[int]:
        """Prolong leases, given as pairs of message id and token. Blocks.

        Returns: the ids of those that were lost.
        """
        ...

    def end_leases_of_the_dead(self) -> int:
        """Free what dead listeners held. Blocks. Returns how many messages that were."""
        ...

    def sweep(self) -> int:
        """Remove a slice of what is past its time. Blocks. Returns how many rows that were."""
        ...

    def to_copy(self) -> CopySource:
        """What a copy of this store reads from; it ends with the store."""
        ...

    def hurry(self) -> None:
        """Wait a second at most for other programs from now on: this process stops."""
        ...

    def retain(self) -> None:
        """Keep the database open beyond `close`, for a thread that outlives the event loop."""
        ...

    def let_go(self) -> None:
        """End what `retain` began. Blocks."""
        ...

    async def close(self) -> None:
        """Finish what was submitted, then let go of the database."""
        ...


class StoreAdmin(Protocol):
    """The verbs of the keeper: to look into the store and to put it right."""

    async def counts(self) -> list[TypeCounts]:
        """One for each type that was ever sent or paused, or that a listener handles."""
        ...

    async def list_messages(self, query: Query) -> list[MessageRecord]:
        """Those that wait or run, by id."""
        ...

    async def payloads(self, *, after: int, limit: int) -> list[Payload]:
        """The payloads of messages that wait or run, behind an id, by id."""
        ...

    async def list_dead_letters(self, query: Query) -> list[MessageRecord]:
        """Dead letters, by id."""
        ...

    async def show(self, message_id: int) -> MessageRecord | None:
        """A message or dead letter."""
        ...

    async def original(self, message_id: int) -> Send | None:
        """What sends a message or dead letter once more."""
        ...

    async def requeue(
        self, message_ids: Sequence[int], *, data: str | None = None
    ) -> dict[int, int]:
        """Send dead letters again, with their payloads or with this one.

        Returns: the new id of each that there was.
        """
        ...

    async def dead_ids(
        self, message_type: str, *, died_by_ms: int, after: int, limit: int
    ) -> list[int]:
        """The ids of a type's dead letters behind `after` that had died by then, in order."""
        ...

    async def last_death_ms(self) -> int | None:
        """When the last of the dead letters died, up to now; None: there is none."""
        ...

    async def discard(self, message_ids: Sequence[int]) -> dict[int, bool]:
        """Remove messages and dead letters for good.

        Returns: for each that there was, whether it went; running ones stay.
        """
        ...

    async def set_paused(self, message_type: str, *, paused: bool) -> None:
        """Stop or resume claiming of a type, in every process."""
        ...

    async def listeners(self) -> list[ListenerRecord]:
        """The processes that listen."""
        ...

    async def oldest_ready_age_ms(self) -> int | None:
        """For how long the oldest message has been due; None: none is.

        Of types that somebody listens to, and that are not paused. It costs the same at any
        depth; of more than 20,000 types and priorities, the first count. It waits for no lock.
        """
        ...

    async def minutes(self) -> list[Minute]:
        """Those of the last hour in which something ended, by type and time."""
        ...


class AnyStore(Store, Protocol):
    """An open store, whatever its engine: the verbs of the flow, and who has the keeper's."""

    @property
    def admin(self) -> StoreAdmin:
        """The verbs of the keeper."""
        ...
