"""A message in the hands of its handler."""

import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Generic

from typing_extensions import TypeVar

from kvqueue_fastapi.model import Claim

T = TypeVar("T", default=Any)


class Hold:
    """A claim that this process holds, and whether it still does.

    The lease keeper marks it from its own thread; the handler's `Message` reads it.

    Attributes:
        claimed_at: when the lease began, on `time.monotonic`.
        extended_at: when it began or was last made longer, on the same clock.
        lost: another process may have the message now.
        ended: its handler has returned; what is left is to write it down.
    """

    __slots__ = ("_lease_s", "claim", "claimed_at", "ended", "extended_at", "lost")

    def __init__(self, claim: Claim, claimed_at: float, lease_s: float = math.inf) -> None:
        self.claim = claim
        self.claimed_at = self.extended_at = claimed_at
        self._lease_s = lease_s
        self.lost = False
        self.ended = False

    @property
    def has_run_out(self) -> bool:
        """Whether another process may have the message now."""
        # By the clock as well, because a thawed process runs on before its keeper has looked.
        return self.lost or time.monotonic() - self.extended_at > self._lease_s


class Message(Generic[T]):
    """What a handler may know of the message that it handles.

    Ask for it with a parameter annotated `Message`, or `Message[Order]` to have `data` typed.

    Attributes:
        id: never used twice in one store.
        type: the message type that it was sent under.
        data: the payload, validated.
        attempt: which delivery this is, from 1. Deliveries that a shutdown cut off or that
            `RetryLater` put off are not counted; those that a crash cut off are, but they
            spend none of the retries.
        headers: what the sender gave beside the payload.
    """

    __slots__ = ("_hold", "data", "headers")

    def __init__(self, hold: Hold, data: T, headers: Mapping[str, str]) -> None:
        self._hold = hold
        self.data = data
        self.headers = MappingProxyType(headers) if isinstance(headers, dict) else headers

    @property
    def id(self) -> int:
        """The message's id: what `send_message` returned."""
        return self._hold.claim.id

    @property
    def type(self) -> str:
        """The message type that it was sent under."""
        return self._hold.claim.type

    @property
    def attempt(self) -> int:
        """Which delivery this is, from 1."""
        return self._hold.claim.attempt

    @property
    def sent_at(self) -> datetime:
        """When it was sent, in UTC, by the clock of the store."""
        return datetime.fromtimestamp(self._hold.claim.sent_at_ms / 1000, UTC)

    @property
    def lease_lost(self) -> bool:
        """Whether another process may have the message now.

        A handler that did not return in time because its process was frozen can look here
        before it does what must not happen twice.
        """
        return self._hold.has_run_out

    def __repr__(self) -> str:
        return f"<Message {self.id} {self.type!r} attempt {self.attempt}>"
