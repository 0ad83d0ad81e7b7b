from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from injector import Injector

from kvqueue_fastapi import (
    Injected,
    KvQueueDep,
    KvQueueModule,
    Message,
    NotInstalledError,
    OutgoingMessage,
    PayloadError,
    SendOptions,
    get_kv_queue,
    on_queue_message,
)
from kvqueue_fastapi.testing import FakeClock, RecordingKvQueue, Sent, drain
from tests.web.shop import ROUTES, Shop, by_service, installed


@pytest.mark.parametrize("route", [r for r in ROUTES if r is not by_service])
def test_an_override_replaces_the_queue_of_every_route(route: Callable[..., Any]) -> None:
    app, recorded = FastAPI(), RecordingKvQueue()
    app.post("/{order_id}")(route)
    app.dependency_overrides[get_kv_queue] = lambda: recorded

    answer = TestClient(app).post("/7")

    assert answer.json() == 1
    assert [(sent.type, sent.data) for sent in recorded.sent] == [("depends order", 7)]


def test_an_override_replaces_an_injected_service() -> None:
    app, recorded = FastAPI(), RecordingKvQueue()
    app.post("/{order_id}")(by_service)
    app.dependency_overrides[Injected(Shop).dependency] = lambda: Shop(recorded)

    TestClient(app).post("/7")

    assert recorded.sent == [Sent("depends order", 7, {})]


async def test_a_recording_queue_keeps_what_all_the_ways_of_sending_were_given() -> None:
    recorded = RecordingKvQueue()

    first = await recorded.send_message("depends order", 1, priority=3)
    delayed = OutgoingMessage("depends order", 3, SendOptions(delay=5))
    others = await recorded.send_messages([("depends order", 2), delayed])

    assert [first, *others] == [1, 2, 3]
    assert recorded.sent == [
        Sent("depends order", 1, {"priority": 3}),
        Sent("depends order", 2, {}),
        Sent("depends order", 3, {"delay": 5}),
    ]


@pytest.mark.parametrize(
    ("message", "options", "error"),
    [
        (("depends order", object()), {}, PayloadError),
        (("", 1), {}, ValueError),
        (("depends order", 1), {"delay": -1}, ValueError),
        (("depends order", 1), {"dealy": 1}, TypeError),
    ],
)
async def test_a_recording_queue_refuses_what_the_real_one_refuses(
    message: tuple[str, Any], options: dict[str, Any], error: type[Exception]
) -> None:
    recorded = RecordingKvQueue()

    with pytest.raises(error):
        await recorded.send_message(*message, **options)

    assert recorded.sent == []


def test_drain_outside_of_a_started_app_says_so(url: str) -> None:
    app = FastAPI()
    installed(app, url)

    for client in (TestClient(app), TestClient(FastAPI())):
        with pytest.raises(NotInstalledError, match=r"with TestClient\(app\)"):
            drain(client)


def test_a_fake_clock_brings_a_delayed_message_and_its_retries_without_waiting(
    tmp_path: Path,
) -> None:
    attempts: list[int] = []

    @on_queue_message("reminder")
    async def remind(message: Message[None]) -> None:
        attempts.append(message.attempt)
        raise RuntimeError("not yet")

    clock = FakeClock()
    module = KvQueueModule(str(tmp_path / "q.db"), consumers=[remind], listen=False)
    app = FastAPI()
    module.install(app, Injector([module, clock]))

    @app.post("/reminders")
    async def send(queue: KvQueueDep) -> int:
        return await queue.send_message("reminder", delay=3600)

    with TestClient(app) as client:
        client.post("/reminders")
        early = drain(client)
        clock.advance(timedelta(hours=1))
        due = drain(client)
        clock.advance(0.1)
        again = drain(client)

    assert (early, due, again) == (0, 1, 1)
    assert attempts == [1, 2]
