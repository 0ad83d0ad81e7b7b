"""A message in the hands of its handler."""

import asyncio
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Generic

from typing_extensions import TypeVar

from kvqueue_fastapi.atomic import AtomicOperation
from kvqueue_fastapi.endings import to_the_end
from kvqueue_fastapi.errors import AlreadySettledError, HandlerError, LeaseLostError
from kvqueue_fastapi.model import AtomicWrite, Claim, Committed, Settlement
from kvqueue_fastapi.sender import Sender

T = TypeVar("T", default=Any)


class Hold:
    """A claim that this process holds, and whether it still does.

    The lease keeper marks it from its own thread; the handler's `Message` reads it.

    Attributes:
        claimed_at: when the lease began, on `time.monotonic`.
        extended_at: when it began or was last made longer, on the same clock.
        lost: another process may have the message now.
        settling: the commit of its handler that is to settle it, while it is under way.
        settled: its handler has settled it.
        ended: its handler has returned; what is left is to write it down.
        abandoned: its handler goes on in a thread beyond our shutdown, and settles it then.
        error: what its handler raised, or why it was not called.
        began_at: when its handler began, on the same clock; None: not yet, or nobody asks.
        waited_s: how long it had been due by then.
        took_s: how long the handler took.
    """

    __slots__ = (
        "_lease_s",
        "abandoned",
        "began_at",
        "claim",
        "claimed_at",
        "ended",
        "error",
        "extended_at",
        "lost",
        "settled",
        "settling",
        "took_s",
        "waited_s",
    )

    def __init__(self, claim: Claim, claimed_at: float, lease_s: float = math.inf) -> None:
        self.claim = claim
        self.claimed_at = self.extended_at = claimed_at
        self._lease_s = lease_s
        self.lost = self.settled = self.ended = self.abandoned = False
        self.settling: asyncio.Task[Committed] | None = None
        self.error: BaseException | None = None
        self.began_at: float | None = None
        self.waited_s: float | None = None
        self.took_s: float | None = None

    def begin(self) -> None:
        """Take note of the time: its handler begins."""
        self.began_at = time.monotonic()
        # By two clocks on PostgreSQL: the server's, and that of this machine.
        self.waited_s = max(0.0, time.time() - self.claim.due_at_ms / 1000)

    def refuse(self, error: BaseException) -> None:
        """Take note of why its handler cannot begin."""
        self.error, self.began_at, self.waited_s = error, None, None

    def end(self) -> None:
        """Take note of the time: its handler has ended, if it had begun."""
        if self.began_at is not None:
            self.took_s = time.monotonic() - self.began_at

    @property
    def has_run_out(self) -> bool:
        """Whether another process may have the message now."""
        if self.settled:
            return False
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

    __slots__ = ("_fence", "_hold", "_sender", "data", "headers")

    def __init__(
        self, hold: Hold, data: T, headers: Mapping[str, str], sender: Sender | None = None
    ) -> None:
        self._hold = hold
        self._sender = sender
        self._fence: _Fence | None = None
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

    def atomic(self) -> AtomicOperation:
        """Begin an operation whose commit also settles this message.

        Either its keys and messages are written *and* the message is done, or neither: what a
        handler does in the store happens once, however often it is delivered.

            await message.atomic().sum(("orders", "count"), 1).commit()

        Where a check fails, nothing is written, `ok` is false and the message stays as it is:
        read and commit again, or raise to have it again, because a handler that returns has
        handled it. After a commit that succeeded, the message is done: what the handler raises
        then is logged and changes nothing. A commit that is under way when the handler is
        cancelled comes to its end first.

        Raises:
            HandlerError: the handler is no `async def`, so it could not await the commit.
            LeaseLostError: at the commit: another process may have the message now.
            AlreadySettledError: at the commit: it was settled before.

        Nothing is written by a commit that raises.
        """
        if self._sender is None:
            msg = (
                "message.atomic() is for `async def` handlers, because its commit is awaited. "
                "Make the handler `async def`."
            )
            raise HandlerError(msg)
        if self._fence is None:
            self._fence = _Fence(self._hold, self._sender)
        return AtomicOperation(self._sender, self._fence.commit)

    def __repr__(self) -> str:
        return f"<Message {self.id} {self.type!r} attempt {self.attempt}>"


class _Fence:
    """Lets one commit settle a message: the first that succeeds."""

    def __init__(self, hold: Hold, sender: Sender) -> None:
        self._hold = hold
        self._sender = sender
        self._one_by_one = asyncio.Lock()

    async def commit(self, write: AtomicWrite) -> Committed:
        """Commit a write and the end of the message, or neither."""
        async with self._one_by_one:
            claim = self._hold.claim
            if self._hold.settled or self._hold.ended:
                raise AlreadySettledError(claim.id)
            done = Settlement(claim.id, claim.token, ordering_key=claim.ordering_key)
            work = self._settle(write._replace(settlements=(done,)))
            self._hold.settling = asyncio.get_running_loop().create_task(work)
            return await to_the_end(self._hold.settling)

    async def _settle(self, write: AtomicWrite) -> Committed:
        hold = self._hold
        try:
            committed = await self._sender.commit(write)
            hold.settled = committed.ok
        except LeaseLostError:
            hold.lost = True
            raise
        finally:
            hold.settling = None
        return committed
