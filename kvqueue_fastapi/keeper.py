"""What the keeper of a queue sees of it: frozen records, with times in UTC milliseconds."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple


class Minute(NamedTuple):
    """How many deliveries of a message type ended in one minute, in all processes together.

    Attributes:
        minute_ms: when it began.
        handled: the messages are done.
        failed: they are tried again.
        dead: they were given up.
    """

    type: str
    minute_ms: int
    handled: int
    failed: int
    dead: int


class State(StrEnum):
    """Where a message is."""

    READY = "ready"
    DELAYED = "delayed"
    BLOCKED = "blocked"
    """Behind an earlier message of its ordering key."""
    RUNNING = "running"
    QUARANTINED = "quarantined"
    """Ready, but two holders or more died: such messages run one at a time in a process."""
    ISOLATED = "isolated"
    """Ready, but one crash from its end: while it runs, its process begins nothing else."""
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class AttemptError:
    """What went wrong in one attempt, as it is kept."""

    attempt: int
    at_ms: int
    text: str
    trace: str


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """A message or dead letter as its keeper sees it.

    Attributes:
        data: the decoded payload; the raw text where it is no JSON.
        due_at_ms: when it may be handled next; for a dead letter, when it died.
        requeued_from: the dead letter that this message was requeued from.
        deferrals: how often its handler has put it off with `RetryLater`; 0 once it is dead.
        is_redacted: whether `redact` hides something of its payload, so that what is seen here
            is not what is stored.
    """

    id: int
    type: str
    data: Any
    state: State
    headers: dict[str, str]
    priority: int
    ordering_key: str | None
    attempt: int
    crashes: int
    sent_at_ms: int
    due_at_ms: int
    errors: tuple[AttemptError, ...]
    reason: str | None = None
    requeued_from: int | None = None
    deferrals: int = 0
    is_redacted: bool = False


class Payload(NamedTuple):
    """What a message carries, as it is stored.

    Attributes:
        data: JSON, unless a foreign program wrote it.
    """

    id: int
    type: str
    data: str


@dataclass(frozen=True, slots=True)
class Query:
    """Which messages to list.

    Attributes:
        type_pattern: where each `*` stands for any text.
        search: part of the payload's or the errors' text, in any case of letters.
        error: part of the text of an error, likewise.
        reverse: from the last to the first.
        after: the id behind which to begin.
        limit: how many at the most.
    """

    type: str | None = None
    type_pattern: str | None = None
    state: State | None = None
    ordering_key: str | None = None
    search: str | None = None
    error: str | None = None
    reverse: bool = False
    after: int = 0
    limit: int = 50


@dataclass(frozen=True, slots=True)
class TypeCounts:
    """How many messages of one type are where.

    Attributes:
        oldest_age_s: seconds since the oldest message that is not dead was sent; None: none is.
        handled: whether a live listener takes this type.
    """

    type: str
    ready: int
    delayed: int
    blocked: int
    running: int
    quarantined: int
    isolated: int
    dead: int
    oldest_age_s: float | None
    paused: bool
    handled: bool


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a queue is well, as one process sees it.

    Attributes:
        ok: nothing is wrong.
        store: it can be read, and what is written is not refused.
        listening: whether the listener of this process is alive; None: it only sends.
        oldest_age_s: for how long the oldest message has been due that could be handled: of a
            type that somebody listens to and that is not paused; None: there is none, or the
            store did not say.
        problems: in words; without paths, hosts and payloads.
    """

    ok: bool
    store: bool
    listening: bool | None
    oldest_age_s: float | None
    problems: tuple[str, ...]


BLOCKED_LOOP_MS: Final = 250
"""An event loop that answers this late was blocked by something."""


@dataclass(frozen=True, slots=True)
class ListenerRecord:
    """A process that listens.

    Attributes:
        types: the message types that it has handlers for.
        leases: how many messages it holds now, those that wait for a slot among them.
        running: how many handlers ran when it was last seen.
        seen_ms: when it last said something of itself: every 2 s while it is busy, else every 30.
        loop_lag_ms: the longest time that its event loop took to answer within a minute before.
        version: of this package, in its process; "" of one before there were reports.
        is_alive: whether its process may live. One that is dead for sure is listed until another
            listener takes over what it held.
    """

    id: int
    host: str
    pid: int
    since_ms: int
    types: tuple[str, ...]
    leases: int
    running: int = 0
    seen_ms: int = 0
    loop_lag_ms: int = 0
    version: str = ""
    is_alive: bool = True
