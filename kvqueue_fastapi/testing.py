"""What the tests of an app need: a queue that only records, a drain, and a clock."""

from collections.abc import Iterable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from fastapi.testclient import TestClient
from injector import Binder, InstanceProvider

from kvqueue_fastapi.errors import NotInstalledError
from kvqueue_fastapi.lifespan import STATE_KEY
from kvqueue_fastapi.outgoing import PLAIN, OutgoingMessage, SendOptions
from kvqueue_fastapi.queue import KvQueue
from kvqueue_fastapi.sender import Sender
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store.base import Clock
from kvqueue_fastapi.store.handle import StoreHandle


class Sent(NamedTuple):
    """A message that a `RecordingKvQueue` was given."""

    type: str
    data: Any
    options: dict[str, Any]


class RecordingKvQueue(KvQueue):
    """Takes messages, checks them as a queue does, and keeps them in a list instead of a store.

    Example:
        recorded = RecordingKvQueue()
        app.dependency_overrides[get_kv_queue] = lambda: recorded

    Attributes:
        sent: what was sent, in order.
    """

    def __init__(self) -> None:
        handle = StoreHandle()
        super().__init__(handle=handle, sender=Sender(handle, KvQueueSettings()))
        self.sent: list[Sent] = []

    async def send_message(self, message_type: str, data: Any = None, **options: Any) -> int:
        """Record a message. Returns its place in `sent`, from 1; raises what `KvQueue` raises.

        A `connection` is recorded with the other options, and nothing is done with it.
        """
        asked = {name: value for name, value in options.items() if name != "connection"}
        self._sender.prepare(message_type, data, SendOptions(**asked))
        self.sent.append(Sent(message_type, data, options))
        return len(self.sent)

    async def send_messages(
        self, messages: Iterable[OutgoingMessage | tuple[str, Any]], *, connection: Any = None
    ) -> list[int]:
        """Record all of them or, if one is wrong, none. Returns their places in `sent`."""
        outgoing = [m if isinstance(m, OutgoingMessage) else OutgoingMessage(*m) for m in messages]
        for message in outgoing:
            self._sender.prepare(message.type, message.data, message.options)
        lent = {} if connection is None else {"connection": connection}
        return [
            await self.send_message(message.type, message.data, **_given(message.options), **lent)
            for message in outgoing
        ]


class FakeClock:
    """A clock that moves only when it is told to: delays and retries without waiting.

    It is a module for the injector:

        clock = FakeClock()
        queue_module.install(app, Injector([queue_module, clock]))
        with TestClient(app) as client:
            client.post("/reminders")
            clock.advance(3600)
            drain(client)

    Args:
        now: what time it is at first; None: the real time.
    """

    def __init__(self, now: datetime | None = None) -> None:
        self._now_ms = round((now or datetime.now(UTC)).timestamp() * 1000)

    def __call__(self, binder: Binder) -> None:
        """Bind it, so that the queue reads the time from it."""
        binder.bind(Clock, to=InstanceProvider(self))  # type: ignore[type-abstract] # it is a key

    def advance(self, by: float | timedelta) -> None:
        """Let time pass, in seconds or as a `timedelta`."""
        seconds = by.total_seconds() if isinstance(by, timedelta) else by
        self._now_ms += round(seconds * 1000)

    def wall_ms(self) -> int:
        """UTC milliseconds since 1970."""
        return self._now_ms

    def steady_ms(self) -> int:
        """The same: it never jumps unless it is told to."""
        return self._now_ms


def _given(options: SendOptions) -> dict[str, Any]:
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: value for name, value in values.items() if value != getattr(PLAIN, name)}


def drain(client: TestClient) -> int:
    """Handle what is due in the app of a test client that is entered with `with`.

    The app's module is best made with `listen=False`, so that nothing else handles messages.

    Returns:
        How many deliveries there were.

    Raises:
        NotInstalledError: the app has no queue.
    """
    runtime = getattr(getattr(client.app, "state", None), STATE_KEY, None)
    if runtime is None or client.portal is None:
        msg = "drain needs an app with a queue, and its client inside `with TestClient(app)`."
        raise NotInstalledError(msg)
    deliveries: int = client.portal.call(runtime.queue.run_until_idle)
    return deliveries
