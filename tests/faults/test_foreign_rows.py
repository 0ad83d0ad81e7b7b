"""Rows that another program wrote by hand, in every table, beneath a listener that runs.

Each is handled, becomes a dead letter, waits where a keeper sees it or gives a clear error, and
a good message beside it is always handled. What the store itself makes of single rows is in
tests/store/sqlite/test_foreign_rows.py.
"""

import os
import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvqueue_fastapi import KvQueueError, PayloadError, State, StoreError
from kvqueue_fastapi.store.sqlite.location import boot_id
from tests.contract.harness import Bench, until
from tests.faults.foreign import (
    LEAST,
    MOST,
    NO_UTF8,
    Beside,
    Row,
    beside,
    dead_letters,
    insert,
    messages,
    numbers,
    texts,
)

LISTENER = {
    "id": 7, "host": "h", "boot": boot_id(), "pid": os.getpid(), "since_ms": 0, "types": "[]",
}  # fmt: skip
OVER = object()


async def in_clear(call: Callable[[], Awaitable[Any]]) -> Any:
    """Whatever is answered is fine, and so is an error of ours; any other fails the test."""
    try:
        return await call()
    except KvQueueError as error:
        return str(error)


async def look_everywhere(bench: Bench) -> None:
    for look in (
        bench.admin.counts,
        bench.admin.listeners,
        bench.admin.messages,
        bench.admin.dead_letters,
        lambda: bench.admin.messages(search="x"),
        lambda: bench.admin.dead_letters(search="x"),
    ):
        await look()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(batch=st.lists(messages, min_size=10, max_size=25))
async def test_messages_of_any_content_come_to_an_end_and_stop_no_good_one(
    batch: list[Row],
) -> None:
    with TemporaryDirectory() as where:
        async with beside(Path(where)) as found:
            found.write("kvqueue_messages", *batch)
            await found.handles_good_ones()

            async def all_have_ended() -> bool:
                left = await found.bench.admin.messages(limit=1_000)
                return not any(one.state in (State.READY, State.QUARANTINED) for one in left)

            await until(all_have_ended)
            await look_everywhere(found.bench)
            await found.handles_good_ones()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(batch=st.lists(dead_letters, min_size=10, max_size=20))
async def test_dead_letters_of_any_content_can_be_seen_and_sent_again(batch: list[Row]) -> None:
    with TemporaryDirectory() as where:
        async with beside(Path(where)) as found:
            found.write("kvqueue_dead_letters", *batch)
            await look_everywhere(found.bench)
            letters = await found.bench.admin.dead_letters(limit=1_000)

            requeued = await found.bench.admin.requeue([one.id for one in letters])

            assert len(requeued) == len(letters) == len({row["id"] for row in batch})
            await found.handles_good_ones()


keys = st.sampled_from([b"\x02a\0", b"\x02b\0", b"\x02", b"\xff", b"", b"\x15\0"]) | st.binary()
values = st.sampled_from([b"1", b"{", b"\xff", b"", b"[" * 100_000, bytes(8), b"NaN"]) | st.binary()
pairs = st.fixed_dictionaries(
    {"key": keys, "value": values, "encoding": st.integers(0, 4) | numbers, "version": numbers},
    optional={"expires_at_ms": numbers},
)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(batch=st.lists(pairs, min_size=1, max_size=10))
async def test_keys_and_values_of_any_content_are_read_or_refused(batch: list[Row]) -> None:
    with TemporaryDirectory() as where:
        async with beside(Path(where)) as found:
            kv = found.bench.kv
            found.write("kvqueue_kv", *batch)
            for key in (("a",), ("b",)):
                await in_clear(partial(kv.get, key))
                await in_clear(partial(kv.get, key, int))
                await in_clear(kv.atomic().sum(key, 1).commit)
            listed = kv.list(prefix=())
            while await in_clear(partial(anext, listed, OVER)) is not OVER:
                pass  # an entry that cannot be read ends no list

            assert (await kv.set(("a",), "anew")).ok
            assert (await kv.get(("a",))).value == "anew"
            await found.handles_good_ones()


types = st.fixed_dictionaries(
    {"type": texts, "first_seen_at_ms": numbers, "paused": st.integers(0, 2) | numbers}
)
idempotency = st.fixed_dictionaries(
    {"type": st.just("n") | texts, "key": st.just("k") | texts, "message_id": numbers,
     "digest": st.binary(), "expires_at_ms": numbers}
)  # fmt: skip
listeners = st.fixed_dictionaries(
    {"id": numbers, "host": texts, "boot": st.just(boot_id()) | texts, "since_ms": numbers,
     "pid": st.sampled_from([0, -1, 1, os.getpid()]) | numbers, "types": texts},
    optional={"retired": numbers},
)  # fmt: skip


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    known=st.lists(types, max_size=5),
    once=st.lists(idempotency, max_size=5),
    peers=st.lists(listeners, min_size=1, max_size=5),
)
async def test_other_tables_of_any_content_stop_neither_the_start_nor_a_good_message(
    known: list[Row], once: list[Row], peers: list[Row]
) -> None:
    def write(foreign: sqlite3.Connection) -> None:
        insert(foreign, "kvqueue_types", *known)
        insert(foreign, "kvqueue_idempotency", *once)
        insert(foreign, "kvqueue_listeners", *peers)

    with TemporaryDirectory() as where:
        async with beside(Path(where), write) as found:
            write(found.foreign)
            found.write("kvqueue_messages", {"type": "nobody's"})
            await look_everywhere(found.bench)
            await in_clear(lambda: found.bench.queue.send_message("n", 1, idempotency_key="k"))
            await found.handles_good_ones()


@pytest.mark.parametrize("pid", [MOST, LEAST, 1 << 31, 0, -1])
async def test_listener_whose_process_cannot_be_is_dead(tmp_path: Path, pid: int) -> None:
    def write(foreign: sqlite3.Connection) -> None:
        insert(foreign, "kvqueue_listeners", {**LISTENER, "pid": pid})
        insert(foreign, "kvqueue_messages", {"type": "n", "state": 3, "holder": 7,
                                             "lease_until_ms": MOST})  # fmt: skip

    async with beside(tmp_path, write) as found:
        await until(found.bench.admin.dead_letters)
        (peer,) = await found.bench.admin.listeners()

    assert peer.pid == os.getpid()


@pytest.mark.parametrize("types", ["{", "5", "[[1], null, 5]", NO_UTF8, "[" * 5_000])
async def test_listener_of_types_that_are_none_is_shown_without_them(
    tmp_path: Path, types: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with beside(tmp_path) as found:
        found.write("kvqueue_listeners", {**LISTENER, "types": types})
        found.write("kvqueue_messages", {"type": "nobody's"})
        shown = {one.id: one.types for one in await found.bench.admin.listeners()}

        async def is_reported() -> bool:
            return "nobody's" in caplog.text

        await until(is_reported)

    assert shown[7] == ()
    assert "could not claim" not in caplog.text


async def is_gone(found: Beside, message_id: int) -> bool:
    return await found.bench.admin.message(message_id) is None


async def are_dead(found: Beside, *message_ids: int) -> bool:
    shown = [await found.bench.admin.message(message_id) for message_id in message_ids]
    return all(one is not None and one.state is State.DEAD for one in shown)


async def test_largest_id_is_handled_and_then_no_id_is_left_until_it_is_mended(
    tmp_path: Path,
) -> None:
    async with beside(tmp_path) as found:
        last = await found.bench.queue.send_message("good", "good")
        await found.seen.reach(1)
        found.write("kvqueue_messages", {"id": MOST, "type": "good"})
        await found.seen.reach(2)
        await until(lambda: is_gone(found, MOST))

        with pytest.raises(StoreError, match=f"no message id is left.* id {MOST}, .*seq of kvq"):
            await found.bench.queue.send_message("good", "good")

        found.foreign.execute("UPDATE sqlite_sequence SET seq = ?", (last,))
        assert await found.bench.queue.send_message("good", "good") == last + 1
        await found.seen.reach(3)


async def test_dead_letter_of_a_negative_id_is_shown_page_by_page_and_requeued(
    tmp_path: Path,
) -> None:
    async with beside(tmp_path) as found:
        found.write("kvqueue_messages", *({"id": -9 * n, "type": "n"} for n in (1, 2, 3)))
        await found.handles_good_ones()
        await until(lambda: are_dead(found, -9, -18, -27))
        page = await found.bench.admin.dead_letters(limit=2)
        rest = await found.bench.admin.dead_letters(limit=2, cursor=page.next_cursor)

        assert [one.id for one in (*page, *rest)] == [-27, -18, -9]
        assert await found.bench.admin.message(-9) == rest[0]
        assert await found.bench.admin.requeue_all("n") == 3


async def test_missing_row_of_the_schema_stops_the_start_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"kvqueue_schema has no row.*Restore a backup"):
        async with beside(tmp_path, lambda foreign: foreign.execute("DELETE FROM kvqueue_schema")):
            pass


BROKEN = [
    ("DELETE FROM kvqueue_schema", "kvqueue_schema has no row"),
    (f"UPDATE kvqueue_schema SET kv_version = {MOST}", f"kv_version in .* is {MOST}, allowed"),
    ("UPDATE kvqueue_schema SET kv_version = -5", "kv_version in .* is -5, allowed"),
]


@pytest.mark.parametrize(("statement", "text"), BROKEN)
async def test_where_versions_are_spoilt_keys_are_refused_and_messages_go_on(
    tmp_path: Path, statement: str, text: str
) -> None:
    async with beside(tmp_path) as found:
        found.foreign.execute(statement)

        with pytest.raises(StoreError, match=text):
            await found.bench.kv.set(("a",), 1)

        assert (await found.bench.kv.get(("a",))).value is None
        await found.handles_good_ones()


@pytest.mark.parametrize(("statement", "text"), BROKEN)
async def test_message_dies_though_its_undelivered_keys_cannot_be_written(
    tmp_path: Path, statement: str, text: str
) -> None:
    options = '{"keys_if_undelivered": ["026b00"]}'
    crashed = {"state": 3, "holder": 1, "crashes": 1}  # by a lease that has ended
    async with beside(tmp_path) as found:
        found.foreign.execute(statement)
        for row in ({}, crashed):
            found.write("kvqueue_messages", {"type": "n", "options": options, **row})

        async def both_are_dead() -> bool:
            return len(await found.bench.admin.dead_letters(search="were not written")) == 2

        await until(both_are_dead)
        (first, _) = await found.bench.admin.dead_letters()
        await found.handles_good_ones()

    assert first.reason is not None
    assert first.reason.startswith("ValueError: {}; its keys_if_undelivered were not written: ")


async def test_key_of_a_negative_version_is_refused_until_it_is_set_anew(tmp_path: Path) -> None:
    async with beside(tmp_path) as found:
        kv = found.bench.kv
        row = {"key": b"\x02a\0", "value": b"1", "encoding": 1, "version": -7}
        found.write("kvqueue_kv", row)

        for read in (lambda: kv.get(("a",)), kv.list(prefix=()).__anext__):
            with pytest.raises(PayloadError, match=r"\('a',\): its version is -7, allowed is 0"):
                await read()

        await kv.delete(("a",))
        assert (await kv.get(("a",))).versionstamp is None


@pytest.mark.parametrize(
    ("column", "value"),
    [(name, None) for name in ("type", "data", "state", "due_at_ms", "attempt", "token")]
    + [("attempt", "x"), ("due_at_ms", 1.5), ("priority", b"x"), ("crashes", 1e300)],
)
async def test_null_and_other_types_are_refused_by_the_table_itself(
    tmp_path: Path, column: str, value: Any
) -> None:
    async with beside(tmp_path) as found:
        row = {"type": "n", "data": "1", column: value}
        names, marks = ", ".join(row), ", ".join("?" * len(row))

        with pytest.raises(sqlite3.IntegrityError):
            found.foreign.execute(
                f"INSERT INTO kvqueue_messages ({names}) VALUES ({marks})", list(row.values())
            )
