from collections.abc import Callable
from typing import Any

import pytest

from kvqueue_fastapi.handlers.marks import Mark
from kvqueue_fastapi.handlers.parameters import plan_parameters
from kvqueue_fastapi.handlers.table import HandlerTable, bind_handler
from kvqueue_fastapi.rooms import MOST_AHEAD, Rooms
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store.postgres.engine import PostgresStore
from kvqueue_fastapi.store.sqlite.engine import SqliteStore

CLAIM_SIZE = 150


async def on_loop() -> None: ...


def in_thread() -> None: ...


def table_of(**marks: tuple[Callable[..., Any], int | None]) -> HandlerTable:
    table = HandlerTable()
    for message_type, (function, concurrency) in marks.items():
        mark = Mark(message_type, concurrency=concurrency)
        plan = plan_parameters(function, name=message_type)
        table.add(bind_handler(mark, function, plan, name=message_type))
    return table


def rooms_for(concurrency: int = 10, sync_concurrency: int = 3, **marks: Any) -> Rooms:
    settings = KvQueueSettings(concurrency=concurrency, sync_concurrency=sync_concurrency)
    return Rooms(table_of(**marks), settings, CLAIM_SIZE)


def test_room_shrinks_with_what_is_held_and_comes_back() -> None:
    rooms = rooms_for(mail=(on_loop, None))

    for _ in range(10):
        rooms.take("mail")
    full = rooms.limit()
    rooms.give("mail")

    assert (full, rooms.limit()) == (0, 1)


def test_a_type_with_a_limit_of_its_own_has_no_more_room_than_that() -> None:
    rooms = rooms_for(mail=(on_loop, 2), bill=(on_loop, None))

    rooms.take("mail")
    rooms.take("bill")

    assert (rooms.of("mail"), rooms.of("bill")) == (1, 8)


def test_types_in_threads_share_the_threads() -> None:
    rooms = rooms_for(thumbnail=(in_thread, None), pdf=(in_thread, None))

    rooms.take("thumbnail")
    rooms.take("pdf")

    assert (rooms.of("thumbnail"), rooms.of("pdf")) == (1, 1)


def test_a_quick_pace_lets_more_be_claimed_ahead_but_never_beyond_its_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("kvqueue_fastapi.rooms.time.monotonic", lambda: now[0])
    rooms = rooms_for(mail=(on_loop, None))
    slow = rooms.limit()

    for _ in range(10_000):
        rooms.take("mail")
        rooms.give("mail")
    now[0] = 1.0
    rooms.measure()

    assert (slow, rooms.limit()) == (10, 10 + MOST_AHEAD * 10)


@pytest.mark.parametrize("engine", [PostgresStore, SqliteStore])
def test_a_whole_claim_is_under_way_while_one_is_handled_and_one_waits(
    engine: type[PostgresStore | SqliteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("kvqueue_fastapi.rooms.time.monotonic", lambda: now[0])
    rooms = Rooms(table_of(mail=(on_loop, None)), KvQueueSettings(), engine.claim_size)
    for _ in range(100_000):
        rooms.take("mail")
        rooms.give("mail")
    now[0] = 1.0
    rooms.measure()

    for _ in range(engine.claim_size):
        rooms.take("mail")

    assert rooms.limit(besides=engine.claim_size) == engine.claim_size


def test_a_slow_pace_claims_nothing_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("kvqueue_fastapi.rooms.time.monotonic", lambda: now[0])
    rooms = rooms_for(mail=(on_loop, None))

    rooms.take("mail")
    rooms.give("mail")
    now[0] = 1.0
    rooms.measure()

    assert rooms.limit() == 10


def test_large_rooms_are_filled_by_several_claims() -> None:
    rooms = rooms_for(concurrency=1_000, mail=(on_loop, None))

    assert (rooms.limit(), rooms.of("mail")) == (CLAIM_SIZE, 1_000)
