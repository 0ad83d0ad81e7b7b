"""Rows that another program wrote: a type and a payload are enough, and no row stops the rest."""

import asyncio
import random
import sqlite3
import time

import pytest

from kvqueue_fastapi.keeper import Query, State
from kvqueue_fastapi.model import Failure, Outcome
from kvqueue_fastapi.store import AnyStore
from tests.store.given import (
    LEASE_MS,
    ManualClock,
    claim,
    claimed_ids,
    ending,
    mail,
    send,
    settle,
    shown,
)

MOST, LEAST = (1 << 63) - 1, -(1 << 63)
NO_UTF8 = "CAST(x'22ff22e2' AS TEXT)"
WITH_NUL = "CAST(x'610062' AS TEXT)"

POISON = [
    f"type, data) VALUES ('mail', {NO_UTF8}",
    f"type, data) VALUES ('mail', {WITH_NUL}",
    "type, data) VALUES ('mail', '{'",
    f"type) VALUES ({NO_UTF8}",
    f"type) VALUES ({WITH_NUL}",
    "type) VALUES (''",
    f"type, ordering_key) VALUES ('mail', {NO_UTF8}",
    f"type, ordering_key) VALUES ('mail', {WITH_NUL}",
    f"type, options) VALUES ('mail', {NO_UTF8}",
    "type, options) VALUES ('mail', '{'",
    "type, options) VALUES ('mail', '[[]]'",
    f"type, errors) VALUES ('mail', {NO_UTF8}",
    "type, errors) VALUES ('mail', '{'",
    "type, errors) VALUES ('mail', '5'",
    "type, errors) VALUES ('mail', '[1, {\"x\": 2}, null]'",
    "type, errors) VALUES ('mail', '{\"a\": 1}'",
    *(
        f"type, {column}) VALUES ('mail', {value}"
        for column in (
            "attempt", "crashes", "priority", "due_at_ms", "sent_at_ms", "token", "holder",
            "lease_until_ms", "state", "requeued_from",
        )
        for value in (MOST, LEAST, -1)
    ),
    f"type, state, crashes) VALUES ('mail', 3, {MOST}",
    f"type, state, crashes, lease_until_ms) VALUES ('mail', 3, {LEAST}, {LEAST}",
    f"type, state, attempt) VALUES ('mail', 3, {MOST}",
    f"type, state, attempt) VALUES ('mail', 4, {MOST}",
    f"type, state, due_at_ms) VALUES ('mail', 1, {LEAST}",
    f"type, state, due_at_ms) VALUES ('mail', 1, {MOST}",
    f"id, type) VALUES ({LEAST}, 'mail'",
    "id, type) VALUES (0, 'mail'",
]  # fmt: skip


def insert(foreign: sqlite3.Connection, columns_and_values: str) -> int:
    cursor = foreign.execute(f"INSERT INTO kvqueue_messages ({columns_and_values})")
    assert cursor.lastrowid is not None
    return cursor.lastrowid


async def test_type_and_payload_make_a_complete_message(
    store: AnyStore, foreign: sqlite3.Connection, clock: ManualClock
) -> None:
    clock.now_ms = time.time_ns() // 1_000_000
    number = insert(foreign, "type, data) VALUES ('mail', '{\"n\":1}'")

    record = await shown(store, number)
    (held,) = await claim(store)

    assert (record.state, record.data, record.priority) == (State.READY, {"n": 1}, 0)
    assert abs(record.sent_at_ms - clock.now_ms) < 5_000
    assert record.due_at_ms == record.sent_at_ms
    assert (held.attempt, held.crashes, held.options) == (1, 0, None)
    assert await settle(store, held)


async def test_foreign_message_takes_its_place_by_priority_and_time(
    store: AnyStore, foreign: sqlite3.Connection, clock: ManualClock
) -> None:
    clock.now_ms = time.time_ns() // 1_000_000 - 60_000
    (ours,) = await send(store, mail())
    usual = insert(foreign, "type) VALUES ('mail'")
    high = insert(foreign, "type, priority) VALUES ('mail', 1")

    assert await claimed_ids(store) == [high, ours, usual]


async def test_foreign_write_wakes_within_a_second(
    store: AnyStore, foreign: sqlite3.Connection
) -> None:
    woken = asyncio.Event()
    store.subscribe(woken.set)
    await asyncio.sleep(0.05)
    woken.clear()

    insert(foreign, "type) VALUES ('mail'")

    await asyncio.wait_for(woken.wait(), 1)
    assert len(await claim(store)) == 1


async def test_own_write_does_not_pass_for_a_foreign_one(store: AnyStore) -> None:
    calls: list[int] = []
    store.subscribe(lambda: calls.append(1))
    await asyncio.sleep(0.05)
    calls.clear()

    await send(store, mail())
    await asyncio.sleep(0.05)

    assert calls == [1]


@pytest.mark.parametrize("row", POISON)
async def test_no_row_stops_the_others(
    store: AnyStore, foreign: sqlite3.Connection, clock: ManualClock, row: str
) -> None:
    insert(foreign, row)
    (sound,) = await send(store, mail('"sound"'))

    found = [await claim(store)]
    clock.pass_ms(LEASE_MS)
    found += [await claim(store) for _ in range(3)]

    assert sound in [one.id for batch in found for one in batch]
    await store.ready_types(after="", limit=9)
    await store.count_pending(most=9)
    await store.admin.counts()
    await store.admin.list_messages(Query())


@pytest.mark.parametrize("row", POISON)
async def test_every_row_that_is_claimed_can_be_settled_and_looked_at(
    store: AnyStore, foreign: sqlite3.Connection, row: str
) -> None:
    for outcome in Outcome:
        number = insert(foreign, row)
        held = await claim(store)

        ends = [ending(one, outcome, failure=Failure("oops")) for one in held]

        assert await store.settle(ends) == [True] * len(held)
        await store.admin.show(number)
        await store.admin.list_messages(Query(search="x"))
        await store.admin.list_dead_letters(Query(search="x"))
        await store.admin.requeue([number])
        await store.admin.discard([number])


async def test_rows_of_chance_never_stop_the_claims(
    store: AnyStore, foreign: sqlite3.Connection, clock: ManualClock
) -> None:
    chance = random.Random(7)
    for _ in range(400):
        insert(foreign, _row(chance))

    handled = 0
    for _ in range(60):
        held = await claim(store, "mail", "other", limit=40)
        handled += len(held)
        ends = [ending(one, chance.choice(list(Outcome)), failure=Failure("x")) for one in held]
        assert await store.settle(ends[: len(ends) // 2]) == [True] * (len(ends) // 2)
        clock.pass_ms(LEASE_MS)

    assert handled > 150


async def test_message_that_shares_its_id_with_a_dead_letter_can_die_too(
    store: AnyStore, foreign: sqlite3.Connection
) -> None:
    (sent,) = await send(store, mail("1"))
    (held,) = await claim(store)
    await settle(store, held, Outcome.DEAD, failure=Failure("first"))
    insert(foreign, f"id, type, data) VALUES ({sent}, 'mail', '2'")
    (held,) = await claim(store)

    assert await settle(store, held, Outcome.DEAD, failure=Failure("second"))
    (letter,) = await store.admin.list_dead_letters(Query())
    assert (letter.id, letter.data, letter.reason) == (sent, 2, "second")


async def test_messages_too_large_for_one_answer_come_in_several(store: AnyStore) -> None:
    ids = await send(store, *(mail('"' + "x" * 5_000 + '"') for _ in range(20)))
    store._thread.call(lambda c: c.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 40_000))

    found: list[int] = []
    while batch := await claimed_ids(store):
        found += batch

    assert found == ids


async def test_message_too_large_for_any_answer_does_not_hold_up_the_rest(
    store: AnyStore,
) -> None:
    # Six bytes of JSON for each: the answer is larger than a row may be.
    (huge,) = await send(store, mail("\1" * 30_000))
    (sound,) = await send(store, mail('"sound"'))
    store._thread.call(lambda c: c.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 40_000))

    found = [*await claim(store), *await claim(store)]

    assert [one.id for one in found] == [huge, sound]
    assert found[0].data == "\1" * 30_000


async def test_state_that_is_none_is_shown_as_blocked_and_counted(
    store: AnyStore, foreign: sqlite3.Connection
) -> None:
    insert(foreign, "type, state) VALUES ('mail', 99")
    insert(foreign, "type, state) VALUES ('mail', -7")

    (counts,) = await store.admin.counts()

    assert counts.blocked == 2
    assert await claim(store) == []


def _row(chance: random.Random) -> str:
    numbers = (0, 0, 1, 2, 3, 4, -1, MOST, LEAST)
    texts = ("'x'", NO_UTF8, WITH_NUL, "'{'", "'[1]'", "''")
    kind = chance.choice(("'mail'", "'other'", NO_UTF8))
    columns = {"data": chance.choice(texts)}
    for name in ("options", "errors"):
        columns[name] = chance.choice((*texts, "NULL"))
    for name in ("attempt", "crashes", "priority", "due_at_ms", "token", "lease_until_ms"):
        columns[name] = str(chance.choice(numbers))
    columns["state"] = str(chance.choice((0, 0, 1, 3, 4, 77)))
    return f"type, {', '.join(columns)}) VALUES ({kind}, {', '.join(columns.values())}"
