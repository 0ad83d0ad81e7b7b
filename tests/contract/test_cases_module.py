"""Cases 101 to 107: the module in a container, its handlers, and the app beside it."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from injector import Binder, Inject, Injector, Module, singleton

from kvqueue_fastapi import (
    HandlerError,
    KvQueue,
    KvQueueDep,
    KvQueueModule,
    KvQueueSettings,
    Message,
    on_queue_message,
)
from kvqueue_fastapi.testing import drain
from tests.contract.harness import Seen, running, until


class Mailer:
    def __init__(self) -> None:
        self.sent: list[Any] = []


class MailModule(Module):
    def configure(self, binder: Binder) -> None:
        binder.bind(Mailer, scope=singleton)


class Mails:
    def __init__(self, mailer: Inject[Mailer], queue: Inject[KvQueue]) -> None:
        self.mailer = mailer
        self.queue = queue

    @on_queue_message("trigger")
    async def trigger(self, data: dict[str, str], message: Message) -> None:
        self.mailer.sent.append((message.type, data))
        await self.queue.send_message("done", data["name"])

    @on_queue_message("done")
    def done(self, name: str, mailer: Inject[Mailer]) -> None:
        mailer.sent.append(("done", name))


@pytest.mark.case(101)
async def test_message_reaches_the_handler_of_its_type_alone_and_once(place: str) -> None:
    seen, others = Seen(), Seen()
    async with running(place, callbacks={"trigger": seen.take, "trigger2": others.take}) as bench:
        await bench.queue.send_message("trigger", {"name": "test"})

        assert await seen.stay(1) == [{"name": "test"}]
    assert others == []


@pytest.mark.case(102)
async def test_message_is_stored_as_its_type_and_data_that_anyone_can_read(tmp_path: Path) -> None:
    async with running(tmp_path, listen=False) as bench:
        await bench.queue.send_message("order.created", {"id": 7})

        rows = execute(tmp_path, "SELECT type, data FROM kvqueue_messages")

    assert rows == [("order.created", '{"id":7}')]


@pytest.mark.case(102)
async def test_message_of_a_foreign_producer_is_handled(tmp_path: Path) -> None:
    seen = Seen()

    async def handle(data: Any, message: Message) -> None:
        seen.add((data, message.attempt, dict(message.headers)))

    async with running(tmp_path, callbacks={"n": handle}):
        execute(tmp_path, """INSERT INTO kvqueue_messages (type, data) VALUES ('n', '{"a": 1}')""")
        execute(tmp_path, "INSERT INTO kvqueue_messages (type) VALUES ('n')")

        assert await seen.stay(2) == [({"a": 1}, 1, {}), (None, 1, {})]


@pytest.mark.case(102)
async def test_foreign_producers_nonsense_is_a_dead_letter_and_harms_nobody(
    tmp_path: Path,
) -> None:
    seen = Seen()
    async with running(tmp_path, callbacks={"n": seen.take}) as bench:
        for data, options in [("{", None), ("", None), ("1", "{"), ("1", '{"headers": 5}')]:
            execute(
                tmp_path,
                "INSERT INTO kvqueue_messages (type, data, options) VALUES ('n', ?, ?)",
                data,
                options,
            )
        await bench.queue.send_message("n", "good")
        await seen.reach(1)
        await until(lambda: has_dead(bench.admin, 4))

        assert [dead.attempt for dead in await bench.admin.dead_letters()] == [1, 1, 1, 1]
    assert seen == ["good"]


@pytest.mark.case(103)
async def test_handler_has_its_self_and_what_was_injected(tmp_path: Path) -> None:
    module = KvQueueModule(str(tmp_path / "q.db"), consumers=[Mails], listen=False)
    injector = Injector([module, MailModule()])
    async with module.running(injector) as queue:
        await queue.send_message("trigger", {"name": "test"})

        assert await queue.run_until_idle() == 2

    assert injector.get(Mailer).sent == [("trigger", {"name": "test"}), ("done", "test")]


@pytest.mark.case(104)
async def test_unknown_type_is_retried_and_then_a_dead_letter_where_it_fails(
    place: str,
) -> None:
    async with running(place, unhandled="fail", backoff_schedule_s=(0, 0)) as bench:
        await bench.queue.send_message("nobody", 1)
        await until(bench.admin.dead_letters)
        (dead,) = await bench.admin.dead_letters()

    assert (dead.attempt, len(dead.errors)) == (3, 3)
    assert dead.reason is not None
    assert dead.reason.startswith("HandlerError: No handler takes 'nobody'")


@pytest.mark.case(104)
async def test_unknown_type_waits_untouched_where_it_is_left(place: str) -> None:
    seen = Seen()
    async with running(place, callbacks={"known": seen.take}) as bench:
        await bench.queue.send_messages([("nobody", 1), ("known", 2)])
        await seen.stay(1)
        (record,) = await bench.admin.messages()

    assert (record.type, record.state, record.attempt) == ("nobody", "ready", 0)


@pytest.mark.case(105)
async def test_two_handlers_for_one_type_stop_the_start_and_are_both_named(
    place: str,
) -> None:
    @on_queue_message("trigger")
    def another() -> None: ...

    with pytest.raises(HandlerError, match=r"Mails\.trigger .*another|another .*Mails\.trigger"):
        async with running(place, Mails, another, modules=(MailModule(),)):
            pass


@pytest.mark.case(106)
async def test_send_message_takes_every_option_at_once_and_returns_the_id(place: str) -> None:
    options: dict[str, Any] = {
        "delay": 3,
        "backoff_schedule": [1],
        "keys_if_undelivered": [("lost", 1)],
        "idempotency_key": "once",
        "ordering_key": "customer 7",
        "priority": -5,
        "headers": {"trace": "abc"},
    }
    async with running(place, listen=False) as bench:
        first = await bench.queue.send_message("n", 1, **options)
        again = await bench.queue.send_message("n", 1, **options)
        record = await bench.admin.message(first)

    assert first == again
    assert record is not None
    assert (record.state, record.priority, record.ordering_key) == ("delayed", -5, "customer 7")
    assert record.due_at_ms - record.sent_at_ms == 3_000
    assert record.headers == {"trace": "abc"}


@pytest.mark.case(107)
def test_app_opens_the_queue_at_its_start_and_closes_it_at_its_end(tmp_path: Path) -> None:
    events: list[str] = []
    app = shop(tmp_path, events)

    with TestClient(app) as client:
        events.append("serve")
        sent = client.post("/orders", json={"name": "test"})
        deliveries = drain(client)

    assert sent.json() == {"message_id": 2}
    assert deliveries == 4
    assert events == ["startup", "serve", "shutdown"]
    assert not list(tmp_path.glob("*-listener-*"))


@pytest.mark.case(107)
async def test_no_handler_runs_before_all_are_registered(place: str) -> None:
    seen = Seen()
    async with running(place, listen=False) as bench:
        await bench.queue.send_messages([("a", 1), ("b", 2)])

    async def first() -> None:
        seen.add("a")

    async def broken(one: int, two: int) -> None: ...

    with pytest.raises(HandlerError):
        async with running(place, callbacks={"a": first, "b": broken}):
            pass
    assert seen == []


def shop(where: Path, events: list[str]) -> FastAPI:
    """An app whose start-up sends, with a queue that is drained by hand."""
    module = KvQueueModule(
        str(where / "q.db"), consumers=[Mails], settings=KvQueueSettings(listen=False)
    )
    injector = Injector([module, MailModule()])

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        events.append("startup")
        await injector.get(KvQueue).send_message("trigger", {"name": "early"})
        yield
        events.append("shutdown")

    app = FastAPI(lifespan=lifespan)

    @app.post("/orders")
    async def create(data: dict[str, str], queue: KvQueueDep) -> dict[str, int]:
        return {"message_id": await queue.send_message("trigger", data)}

    module.install(app, injector)
    return app


async def has_dead(admin: Any, count: int) -> bool:
    return len(await admin.dead_letters()) == count


def execute(where: Path, statement: str, *values: Any) -> list[Any]:
    connection = sqlite3.connect(where / "q.db", timeout=5)
    with connection:
        rows = connection.execute(statement, values).fetchall()
    connection.close()
    return rows
