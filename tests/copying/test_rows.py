"""What is copied: every row and column of it."""

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from kvqueue_fastapi import (
    CopyProgress,
    State,
)
from kvqueue_fastapi.keeper import Query
from kvqueue_fastapi.store import copies, open_copy_source
from kvqueue_fastapi.store.copies import MESSAGES, TABLES
from kvqueue_fastapi.store.postgres import copies as postgres_copies
from kvqueue_fastapi.store.sqlite import copies as sqlite_copies
from tests.copying.pairs import Pair, Side
from tests.store.given import (
    ManualClock,
    mail,
    send,
)


async def test_every_row_is_in_the_target_and_counted(filled: Pair) -> None:
    copied = await filled.copy()

    rows = await filled.source.rows()
    assert await filled.target.rows() == rows
    assert {State.READY, State.DELAYED, State.BLOCKED} <= _states(rows["kvqueue_messages"])
    assert {State.QUARANTINED, State.ISOLATED} <= _states(rows["kvqueue_messages"])
    assert copied.messages == len(rows["kvqueue_messages"]) > 15
    assert copied.dead_letters == len(rows["kvqueue_dead_letters"]) == 2
    assert copied.keys == len(rows["kvqueue_kv"]) == 7
    assert copied.idempotency_keys == len(rows["kvqueue_idempotency"]) == 2
    assert copied.types == len(rows["kvqueue_types"]) > 5


def _states(messages: list[copies.Row]) -> set[State]:
    return {list(State)[row[3]] for row in messages}


async def test_the_records_of_the_keeper_are_the_same(filled: Pair, clock: ManualClock) -> None:
    await filled.copy()

    async with filled.source.opened(clock) as source, filled.target.opened(clock) as target:
        everything = Query(limit=1_000)
        assert await target.admin.list_messages(everything) == await source.admin.list_messages(
            everything
        )
        assert await target.admin.list_dead_letters(
            everything
        ) == await source.admin.list_dead_letters(everything)
        assert await target.admin.counts() == await source.admin.counts()


async def test_rows_of_any_content_are_the_same_when_they_are_back(
    make_side: Callable[[str, str], Side], clock: ManualClock
) -> None:
    first, there, back = (
        make_side("sqlite", "first"),
        make_side("postgres", "there"),
        make_side("sqlite", "back"),
    )
    async with first.opened(clock):
        pass
    _write_any_rows(first, random.Random(7))

    await Pair(first, there).copy()
    await Pair(there, back).copy()

    for table in TABLES:
        every = f"SELECT * FROM {table.name} ORDER BY 1, 2"
        assert back.execute(every) == first.execute(every)
        assert len(first.execute(every)) > 100


def _write_any_rows(side: Side, chance: random.Random) -> None:
    with closing(sqlite3.connect(side.url)) as foreign, foreign:
        for table in TABLES:
            rows = [
                [_any_value(table.name, column, chance) for column in table.columns]
                for _ in range(150)
            ]
            names, marks = ", ".join(table.columns), ", ".join("?" * len(table.columns))
            statement = f"INSERT OR IGNORE INTO {table.name} ({names}) VALUES ({marks})"
            foreign.executemany(statement, rows)


def _any_value(table: str, column: str, chance: random.Random) -> Any:
    if column in ("value", "digest") or (table, column) == ("kvqueue_kv", "key"):
        return chance.randbytes(chance.randrange(40))
    if column in ("ordering_key", "options", "errors", "requeued_from", "expires_at_ms") and (
        table != "kvqueue_idempotency" and chance.random() < 0.3
    ):
        return None
    if column in ("type", "data", "key", "ordering_key", "options", "errors", "reason"):
        return "".join(
            chance.choices("ab\n'\"{}\\%ä🫖\x01\x7f\ufffd\uffff", k=chance.randrange(30))
        )
    if column in ("state", "lane"):
        return chance.choice([0, 1, 2, 4, 5, 77, -1])
    if column == "paused":
        return chance.randrange(2)
    bits = {"encoding": 15, "priority": 31}.get(column, 63)
    few = [0, 1, -1, (1 << bits) - 1, -(1 << bits)]
    return chance.choice(few) if chance.random() < 0.2 else chance.getrandbits(bits)


async def test_text_that_is_no_utf_8_is_the_same_in_another_file(
    files: Pair, clock: ManualClock
) -> None:
    async with files.source.opened(clock):
        pass
    insert = "INSERT INTO kvqueue_messages (type, data, errors) VALUES ('n', CAST(? AS TEXT), ?)"
    files.source.execute(insert, b"\xff\x00\xe2", "a\0b")

    await files.copy()

    shape = "SELECT CAST(data AS BLOB), CAST(errors AS BLOB) FROM kvqueue_messages"
    assert files.target.execute(shape) == [(b"\xff\x00\xe2", b"a\0b")]


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
async def test_no_column_is_left_out_but_those_of_a_claim(
    engine: str, make_side: Callable[[str, str], Side], clock: ManualClock
) -> None:
    side = make_side(engine, "source")
    async with side.opened(clock):
        pass

    left_out = {}
    for table in TABLES:
        if engine == "sqlite":
            there = side.execute(f"SELECT name FROM pragma_table_info('{table.name}')")
        else:
            there = side.execute(
                "SELECT column_name::text FROM information_schema.columns"
                " WHERE table_schema = ? AND table_name = ?",
                "source",
                table.name,
            )
        left_out[table.name] = {name for (name,) in there} - set(table.columns)

    claims = left_out.pop("kvqueue_messages")
    assert claims == {"token", "holder", "lease_until_ms"}
    assert not any(left_out.values())


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
async def test_a_slice_of_large_payloads_is_short(
    engine: str,
    make_side: Callable[[str, str], Side],
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    side = make_side(engine, "source")
    async with side.opened(clock) as store:
        ids = await send(store, *[mail("1" * 1_000)] * 5)
    for module in (sqlite_copies, postgres_copies):
        monkeypatch.setattr(module, "SLICE_BYTES", 2_500)

    source = await open_copy_source(side.url, side.settings)
    first = await source.read(MESSAGES, None, 100)
    second = await source.read(MESSAGES, (first[-1][0],), 100)
    await source.close()

    assert [row[0] for row in first + second] == ids
    assert len(first) == 3


async def test_thousands_of_rows_are_copied_in_slices(pair: Pair, clock: ManualClock) -> None:
    async with pair.source.opened(clock) as store:
        for _ in range(5):
            await send(store, *[mail("1")] * 1_000)
    told: list[CopyProgress] = []

    copied = await pair.copy(told.append)

    counts = [one.rows for one in told if (one.step, one.table) == ("copy", "kvqueue_messages")]
    assert counts == [2_000, 4_000, 5_000]
    assert copied.messages == 5_000
