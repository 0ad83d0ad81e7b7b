"""Reports what went wrong to Sentry: an event for each message that was given up.

    python examples/sentry_reports.py

Each message has a scope of its own, with its id, type and attempt as tags, so that whatever is
reported while it is handled names it, and nothing of one message clings to another. A handler that
fails and is tried again is no news; a dead letter is. `every_failure=True` reports each attempt.

Here the reports are kept in a list instead of being sent; a real app says
`sentry_sdk.init(dsn=…)`.
"""

import asyncio
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sentry_sdk
from injector import Injector
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.logging import ignore_logger
from sentry_sdk.scope import Scope, isolation_scope, use_isolation_scope
from sentry_sdk.transport import Transport

from kvqueue_fastapi import (
    CallHandler,
    Delivery,
    KvQueueModule,
    KvQueueSettings,
    Message,
    Middleware,
    on_queue_message,
)


class SentryMiddleware(Middleware):
    """A scope for each message, and an event for each dead letter.

    Args:
        every_failure: also for attempts that are tried again, and for lost leases.
    """

    def __init__(self, *, every_failure: bool = False) -> None:
        self._reported = {"dead", "retry", "lost"} if every_failure else {"dead"}
        self._failed: dict[tuple[int, int], Scope] = {}
        # Our own log line of a failure would be a second event for the same thing.
        ignore_logger("kvqueue_fastapi")

    async def handle(self, message: Message[Any], call_next: CallHandler) -> None:
        with new_scope(message.id, message.type, message.attempt) as scope:
            try:
                await call_next(message)
            except BaseException:
                # Whether it is a dead letter is known when that is written down.
                self._failed[message.id, message.attempt] = scope
                raise

    def settled(self, delivery: Delivery) -> None:
        scope = self._failed.pop((delivery.id, delivery.attempt), None)
        if delivery.outcome not in self._reported:
            return
        if scope is None:  # it could not be read, so that no handler began
            with new_scope(delivery.id, delivery.type, delivery.attempt) as scope:
                report(scope, delivery)
        else:  # with the tags and breadcrumbs of the handler
            with use_isolation_scope(scope):
                report(scope, delivery)


@contextmanager
def new_scope(message_id: int, message_type: str, attempt: int) -> Iterator[Scope]:
    with isolation_scope() as scope:
        scope.clear()
        scope.set_tag("kvqueue.message_id", message_id)
        scope.set_tag("kvqueue.message_type", message_type)
        scope.set_tag("kvqueue.attempt", attempt)
        yield scope


def report(scope: Scope, delivery: Delivery) -> None:
    scope.set_tag("kvqueue.outcome", delivery.outcome)
    scope.set_context("delivery", {"waited_s": delivery.waited_s, "took_s": delivery.took_s})
    if delivery.error is not None:
        sentry_sdk.capture_exception(delivery.error)
    else:
        sentry_sdk.capture_message(f"{delivery.type}: {delivery.outcome}", level="error")


# --- an app that uses it ---------------------------------------------------------------------


REFUSED: Final = 13


@on_queue_message("invoice")
async def send_invoice(order: int, message: Message) -> None:
    sentry_sdk.add_breadcrumb(message=f"invoice for order {order}")
    if order == REFUSED or message.attempt == 1:
        msg = f"the mail server refused order {order}"
        raise ConnectionError(msg)


class Kept(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        if event := envelope.get_event():
            self.events.append(event)


async def main() -> None:
    logging.disable(logging.CRITICAL)  # so that only the reports are seen here
    kept = Kept()
    sentry_sdk.init(dsn="https://key@sentry.invalid/1", transport=kept, default_integrations=False)
    with tempfile.TemporaryDirectory() as folder:
        module = KvQueueModule(
            str(Path(folder) / "queue.db"),
            consumers=[send_invoice],
            settings=KvQueueSettings(listen=False, backoff_schedule_s=(0,)),
            middleware=[SentryMiddleware()],
        )
        async with module.running(Injector([module])) as queue:
            for order in (12, REFUSED):
                await queue.send_message("invoice", order)
            handled = await queue.run_until_idle()
    print(f"{handled} deliveries, {len(kept.events)} report")
    for event in kept.events:
        error = event["exception"]["values"][-1]
        print(f"{error['type']}: {error['value']}")
        print("after:", event["breadcrumbs"]["values"][-1]["message"])
        print(", ".join(f"{name}={value}" for name, value in sorted(event["tags"].items())))


if __name__ == "__main__":
    asyncio.run(main())
