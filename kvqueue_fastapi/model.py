"""The frozen records that travel between the layers.

Times are integer UTC milliseconds, keys are encoded bytes, payloads are JSON text: every
value here is already checked. The records on the path of a message are named tuples, because
making one costs a third of a frozen dataclass.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Final, Literal, NamedTuple

from kvqueue_fastapi.errors import shown

MAX_TYPE_CHARACTERS: Final = 255


BARE_TYPE: Final = "kv.enqueue"
"""The type of what `Kv.enqueue` sends without an envelope; `Kv.listen_queue` takes it."""


def type_problem(value: object) -> str | None:
    """What keeps a value from being a message type, and the remedy; None: nothing does."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TYPE_CHARACTERS:
        return (
            f"Message type is {shown(value, 300)}, allowed is a string of 1 to "
            f'{MAX_TYPE_CHARACTERS} characters. Name what happened, such as "order.created".'
        )
    # Control characters and lone surrogates would spoil a store or a log.
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in value):
        return f"Message type {value!r} has a control character. Leave it out."
    return None


class Idempotency(NamedTuple):
    """One key, one message, within its window."""

    key: str
    digest: bytes
    window_ms: int


class Send(NamedTuple):
    """A message to store.

    Attributes:
        delay_ms: from the engine's clock at the commit; ignored where `deliver_at_ms` is given.
        options: JSON object or None; see `Options`.
    """

    type: str
    data: str
    delay_ms: int = 0
    deliver_at_ms: int | None = None
    priority: int = 0
    ordering_key: str | None = None
    options: str | None = None
    idempotency: Idempotency | None = None


class Check(NamedTuple):
    """Commit only if the key has this version; None: only if it is absent."""

    key: bytes
    version: int | None


class Encoding(IntEnum):
    """How the bytes of a stored value are to be read."""

    JSON = 1
    U64 = 2
    BYTES = 3


class KvSet(NamedTuple):
    """Store a value under a key.

    Attributes:
        expire_in_ms: from the engine's clock at the commit; None: it stays, whatever was said
            of the value before it.
        versionstamped: the commit's versionstamp becomes the last part of the key.
    """

    key: bytes
    value: bytes
    encoding: Encoding = Encoding.JSON
    expire_in_ms: int | None = None
    versionstamped: bool = False


class KvDelete(NamedTuple):
    """Remove a key; an absent one is fine."""

    key: bytes


class Arithmetic(StrEnum):
    """What to do with a stored number and an operand."""

    SUM = "sum"
    MIN = "min"
    MAX = "max"


class KvArithmetic(NamedTuple):
    """Combine the number under a key with another; an absent key becomes the operand.

    Attributes:
        encoding: of the operand: `U64`, which wraps at 2^64, or `JSON`, which can only be summed.
    """

    key: bytes
    arithmetic: Arithmetic
    operand: int | float
    encoding: Encoding = Encoding.U64


Mutation = KvSet | KvDelete | KvArithmetic


class Stored(NamedTuple):
    """A key as it is found.

    Attributes:
        expires_in_ms: how long it will still be found; None: it stays.
    """

    key: bytes
    value: bytes
    encoding: int
    version: int
    expires_in_ms: int | None = None


class Outcome(IntEnum):
    """How a claim ended."""

    DONE = 1
    """The handler returned: the message goes."""
    RETRY = 2
    """The handler failed: again after `delay_ms`, one attempt spent."""
    LATER = 3
    """The handler asked for another time: again after `delay_ms`, no attempt spent."""
    RELEASE = 4
    """Not handled after all: ready again at once, without a trace."""
    DEAD = 5
    """Given up: the message becomes a dead letter."""


class Failure(NamedTuple):
    """What went wrong in one attempt.

    Attributes:
        text: type and message of the error, one line where it can be.
        trace: the formatted traceback, or "".
    """

    text: str
    trace: str = ""


class Settlement(NamedTuple):
    """How one claim ended, fenced by its token."""

    id: int
    token: int
    outcome: Outcome = Outcome.DONE
    delay_ms: int = 0
    failure: Failure | None = None
    ordering_key: str | None = None


ROW_BYTES: Final = 256
"""About what a message takes beside its payload."""


class AtomicWrite(NamedTuple):
    """The one way to change the store: all of it or nothing.

    Attributes:
        versioned: it is to have a version, also where it writes no key.
    """

    checks: Sequence[Check] = ()
    mutations: Sequence[Mutation] = ()
    sends: Sequence[Send] = ()
    settlements: Sequence[Settlement] = ()
    versioned: bool = False

    @property
    def size_bytes(self) -> int:
        """About what it takes in a database."""
        size_bytes = 0
        for send in self.sends:
            size_bytes += ROW_BYTES + len(send.data)
        for mutation in self.mutations:
            if isinstance(mutation, KvSet):
                size_bytes += len(mutation.value)
        return size_bytes


class Committed(NamedTuple):
    """What became of an `AtomicWrite`.

    Attributes:
        ok: False: a check failed and nothing was written.
        message_ids: one for each send, in their order.
        version: larger than that of any commit before it; None where it wrote no key and
            none was asked for.
    """

    ok: bool
    message_ids: Sequence[int] = ()
    version: int | None = None


class Claim(NamedTuple):
    """A message in the hands of one listener, until its lease ends.

    Attributes:
        attempt: which delivery this is, from 1.
        crashes: how many deliveries ended with their process; they spend no retry.
        options: JSON object or None; see `Options`.
        due_at_ms: since when it could be claimed, by the engine's clock.
    """

    id: int
    token: int
    type: str
    data: str
    attempt: int
    crashes: int
    sent_at_ms: int
    ordering_key: str | None
    options: str | None
    due_at_ms: int = 0


class Wanted(NamedTuple):
    """A message type that a listener has room for."""

    type: str
    room: int


class Claimed(NamedTuple):
    """What a claim brought.

    Attributes:
        claims: in the order in which they are to be handled.
        next_due_ms: how long until the next delayed message is due or the next lease ends, if
            nobody makes it longer; None: there is none of either.
        claimed_at: when the leases began at the latest, on `time.monotonic`.
        isolated: wanted types of which a message waits that is one crash from its end, to be
            asked for by itself.
        made_ready: whether it made messages claimable that had become due or whose lease had
            ended, of whatever type.
        cut_short: whether there may be more, because less was asked of the database than was
            wanted.
    """

    claims: Sequence[Claim]
    next_due_ms: int | None
    claimed_at: float
    isolated: Sequence[str] = ()
    made_ready: bool = False
    cut_short: bool = False


Ending = Literal["done", "retry", "later", "released", "dead", "lost"]
"""How a delivery ended: handled; failed and tried again; put off by `RetryLater`; given back
unfinished, as at a shutdown; given up; or too late, because its lease was lost."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one delivery of a message, as middleware is told of it.

    Attributes:
        id: of the message.
        type: the message type.
        attempt: which delivery it was, from 1.
        outcome: how it ended. "lost": another process may have the message, and may have handled
            it as well.
        error: what the handler raised, or why it was not called; None: nothing went wrong.
        waited_s: seconds from when it was due until its handler began; None: that did not begin.
        took_s: seconds from then until it ended.
    """

    id: int
    type: str
    attempt: int
    outcome: Ending
    error: BaseException | None = None
    waited_s: float | None = None
    took_s: float | None = None


class Tally(NamedTuple):
    """How many deliveries of a message type ended in which way.

    Attributes:
        handled: the message is done.
        failed: it is tried again.
        dead: it was given up.
    """

    type: str
    handled: int
    failed: int
    dead: int


class Report(NamedTuple):
    """What a listener says of itself.

    Attributes:
        running: how many handlers run.
        loop_lag_ms: the longest time that its event loop took to answer within the last minute.
    """

    running: int
    loop_lag_ms: int


@dataclass(frozen=True, slots=True)
class Options:
    """What a message carries beside its payload; all of it optional."""

    headers: dict[str, str] = field(default_factory=dict[str, str])
    backoff_schedule_ms: tuple[int, ...] | None = None
    keys_if_undelivered: tuple[bytes, ...] = ()
