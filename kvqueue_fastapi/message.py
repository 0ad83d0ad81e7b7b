"""A message in the hands of its handler."""

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
        extended_at: when the lease began or was made longer, on `time.monotonic`.
        lost: another process may have the message now.
        ended: its handler has returned; what is left is to write it down.
    """

    __slots__ = ("claim", "ended", "extended_at", "lost")

    def __init__(self, claim: Claim, extended_at: float) -> None:
        self.claim = claim
        self.extended_at = extended_at
        self.lost = False
        self.ended = False


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
        return self._hold.lost

    def __repr__(self) -> str:
        return f"<Message {self.id} {self.type!r} attempt {self.attempt}>"
