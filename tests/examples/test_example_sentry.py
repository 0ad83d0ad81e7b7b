"""Errors are reported to Sentry once, with the message that they are about."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sentry_sdk
from injector import Injector

from examples.sentry_reports import Kept, SentryMiddleware
from kvqueue_fastapi import (
    Kv,
    KvQueueModule,
    KvQueueSettings,
    Message,
    on_queue_message,
)


@on_queue_message("failing")
async def fail(number: int, message: Message) -> None:
    sentry_sdk.set_tag("number", number)
    raise ValueError(number)


@on_queue_message("talking")
async def talk(_: int) -> None:
    sentry_sdk.capture_message("by the way")


@pytest.fixture
def kept() -> Iterator[Kept]:
    kept = Kept()
    with sentry_sdk.isolation_scope(), sentry_sdk.new_scope():
        sentry_sdk.init(
            dsn="https://k@sentry.invalid/1", transport=kept, default_integrations=False
        )
        yield kept
        sentry_sdk.init()


async def handled(tmp_path: Path, middleware: SentryMiddleware, *sends: tuple[str, object]) -> None:
    module = KvQueueModule(
        str(tmp_path / "queue.db"),
        consumers=[fail, talk],
        settings=KvQueueSettings(listen=False, backoff_schedule_s=(0,)),
        middleware=[middleware],
    )
    injector = Injector([module])
    async with module.running(injector) as queue:
        for kind, data in sends:
            await injector.get(Kv).enqueue({"type": kind, "data": data})
        await queue.run_until_idle()


def test_the_example_reports_the_dead_letter_and_not_the_retry(
    run_example: Callable[[str], list[str]],
) -> None:
    message = "kvqueue.message_id=2, kvqueue.message_type=invoice"

    assert run_example("sentry_reports") == [
        "4 deliveries, 1 report",
        "ConnectionError: the mail server refused order 13",
        "after: invoice for order 13",
        f"kvqueue.attempt=2, {message}, kvqueue.outcome=dead",
    ]


async def test_every_failure_is_reported_where_that_is_asked(tmp_path: Path, kept: Kept) -> None:
    await handled(tmp_path, SentryMiddleware(every_failure=True), ("failing", 1))

    assert [event["tags"]["kvqueue.outcome"] for event in kept.events] == ["retry", "dead"]


async def test_nothing_of_one_message_clings_to_another(tmp_path: Path, kept: Kept) -> None:
    await handled(tmp_path, SentryMiddleware(), ("failing", 1), ("talking", 2))

    by_the_way = next(event for event in kept.events if event.get("message") == "by the way")
    assert by_the_way["tags"]["kvqueue.message_type"] == "talking"
    assert "number" not in by_the_way["tags"]
    dead = next(event for event in kept.events if "exception" in event)
    assert dead["tags"]["number"] == 1
