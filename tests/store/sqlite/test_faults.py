"""Faults: a full disk, a damaged file, a caller that gives up. Whole or nothing, and told."""

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kvqueue_fastapi.errors import KvQueueClosedError, StoreError
from kvqueue_fastapi.keeper import Query
from kvqueue_fastapi.model import (
    AtomicWrite,
    Check,
    KvSet,
    Outcome,
)
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import AnyStore, open_store
from tests.store.given import ManualClock, claim, claimed_ids, ending, mail, once, send

LARGE = '"' + "x" * 60_000 + '"'


def room_for(store: AnyStore, pages: int) -> None:
    """Let the file grow by so many pages, and no more."""

    def limit(connection: sqlite3.Connection) -> None:
        (now,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {now + pages}").fetchall()

    store._thread.call(limit)


async def test_send_to_a_full_disk_fails_and_stores_nothing(store: AnyStore) -> None:
    room_for(store, pages=20)

    with pytest.raises(StoreError, match=r"full\. Make room on the disk; what was stored is safe"):
        await send(store, mail("small"), mail(LARGE), mail(LARGE))

    assert await claim(store) == []


async def test_sends_go_on_when_the_disk_has_room_again(store: AnyStore) -> None:
    room_for(store, pages=0)
    with pytest.raises(StoreError):
        await send(store, mail(LARGE))

    room_for(store, pages=1_000)
    sent = await send(store, mail(LARGE))

    assert await claimed_ids(store) == sent


async def test_only_those_who_do_not_fit_on_the_disk_fail(store: AnyStore) -> None:
    room_for(store, pages=20)

    answers = await asyncio.gather(
        send(store, mail("1")),
        send(store, mail(LARGE), mail(LARGE)),
        store.commit(AtomicWrite(mutations=[KvSet(b"k", LARGE.encode() * 2)], sends=[mail("no")])),
        send(store, once("k", "2")),
        return_exceptions=True,
    )

    assert [isinstance(answer, StoreError) for answer in answers] == [False, True, True, False]
    assert (await store.commit(AtomicWrite(checks=[Check(b"k", None)]))).ok
    assert [one.data for one in await claim(store)] == ["1", "2"]


async def test_messages_can_be_settled_on_a_full_disk(store: AnyStore) -> None:
    await send(store, *(mail(LARGE) for _ in range(5)))
    held = await claim(store)

    room_for(store, pages=0)

    assert await store.settle([ending(one) for one in held]) == [True] * 5


async def test_damaged_file_is_a_store_error(
    path: Path, settings: KvQueueSettings, clock: ManualClock
) -> None:
    store = await open_store(str(path), settings, clock)
    await send(store, *(mail(f'"{n:0900}"') for n in range(500)))
    await store.close()
    _damage(path)

    with pytest.raises(StoreError, match=r"malformed\. Stop, keep a copy, and restore a backup"):
        await _open_and_claim(path, settings)


async def test_every_verb_of_a_damaged_file_answers(store: AnyStore) -> None:
    store._thread.call(lambda connection: connection.set_authorizer(_deny))
    store.subscribe(lambda: None)
    await asyncio.sleep(0.06)  # it has looked for foreign changes, in vain

    answers = await asyncio.gather(
        *(asyncio.wait_for(verb(store), 2) for name, verb in VERBS.items() if name not in READER),
        return_exceptions=True,
    )

    assert {type(answer) for answer in answers} == {StoreError}
    store._thread.call(lambda connection: connection.set_authorizer(None))
    assert await send(store, mail()) == [1]


@pytest.mark.parametrize("verb", ["counts", "show", "list_messages", "claim"])
async def test_every_verb_of_a_damaged_memory_answers(settings: KvQueueSettings, verb: str) -> None:
    store = await open_store(":memory:", settings)
    store._thread.call(lambda connection: connection.set_authorizer(_deny))

    with pytest.raises(StoreError, match=":memory:: not authorized"):
        await VERBS[verb](store)

    await store.close()


VERBS: dict[str, Callable[[AnyStore], Awaitable[Any]]] = {
    "commit": lambda store: send(store, mail()),
    "claim": claim,
    "settle": lambda store: store.settle([]),
    "ready_types": lambda store: store.ready_types(after="", limit=1),
    "listened_types": lambda store: store.listened_types(),
    "paused_types": lambda store: store.paused_types(),
    "count_pending": lambda store: store.count_pending(most=1),
    "enter_listener": lambda store: store.enter_listener([]),
    "leave_listener": lambda store: asyncio.to_thread(store.leave_listener, 1),
    "settle_now": lambda store: asyncio.to_thread(store.settle_now, []),
    "extend": lambda store: asyncio.to_thread(store.extend, [(1, 1)], 5),
    "end_leases": lambda store: asyncio.to_thread(store.end_leases_of_the_dead),
    "sweep": lambda store: asyncio.to_thread(store.sweep),
    "counts": lambda store: store.admin.counts(),
    "show": lambda store: store.admin.show(1),
    "list_messages": lambda store: store.admin.list_messages(Query()),
    "list_dead_letters": lambda store: store.admin.list_dead_letters(Query()),
    "requeue": lambda store: store.admin.requeue([1]),
    "discard": lambda store: store.admin.discard([1]),
    "set_paused": lambda store: store.admin.set_paused("a", paused=True),
    "dead_ids": lambda store: store.admin.dead_ids("a", died_by_ms=1, after=0, limit=1),
    "last_death_ms": lambda store: store.admin.last_death_ms(),
    "listeners": lambda store: store.admin.listeners(),
}
READER = {
    "counts",
    "show",
    "list_messages",
    "list_dead_letters",
    "dead_ids",
    "last_death_ms",
    "listeners",
}
"""What is read on a connection of its own."""
ALONE = (":memory:", "end_leases")


@pytest.mark.parametrize(
    ("url", "verb"),
    # Nobody else can be in memory, so nobody can be dead there.
    [(url, verb) for url in ("{path}", ":memory:") for verb in VERBS if (url, verb) != ALONE],
)
async def test_every_verb_of_a_closed_store_says_so(
    url: str, verb: str, path: Path, settings: KvQueueSettings
) -> None:
    store = await open_store(url.format(path=path), settings)
    await store.close()

    with pytest.raises(KvQueueClosedError):
        await asyncio.wait_for(VERBS[verb](store), 2)


@pytest.mark.parametrize("turns", range(8))
async def test_cancelled_write_is_whole_or_not_at_all(store: AnyStore, turns: int) -> None:
    write = AtomicWrite(mutations=[KvSet(b"k", b"1")], sends=[mail(), mail(), mail()])

    task = asyncio.ensure_future(store.commit(write))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (last,) = await send(store, mail())

    absent = (await store.commit(AtomicWrite(checks=[Check(b"k", None)]))).ok
    assert (len(await claim(store)), last, absent) in [(1, 1, True), (4, 4, False)]


async def test_batch_whose_callers_are_all_cancelled_takes_no_lock(tmp_path: Path) -> None:
    statements: list[str] = []
    store: Any = await open_store(str(tmp_path / "q.db"), KvQueueSettings())
    gate = threading.Event()
    store._thread.call(lambda connection: connection.set_trace_callback(statements.append))
    store._thread.submit(lambda _connection: gate.wait(), lambda _result, _error: None)

    writes = [store.commit(AtomicWrite(sends=[mail()])) for _ in range(3)]
    for write in writes:
        write.cancel()
    gate.set()
    await store.close()

    assert "BEGIN IMMEDIATE" not in statements


async def test_cancelled_caller_does_not_disturb_the_others(store: AnyStore) -> None:
    tasks = [asyncio.create_task(send(store, mail(str(n)))) for n in range(50)]
    await asyncio.sleep(0)

    for task in tasks[::2]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    data = {one.id: one.data for one in await claim(store)}
    for n in range(1, 50, 2):
        (number,) = answers[n]
        assert data[number] == str(n)


async def test_messages_of_a_cancelled_claim_come_again(
    store: AnyStore, clock: ManualClock
) -> None:
    sent = await send(store, mail())
    task = asyncio.create_task(claim(store, lease_ms=10))
    await asyncio.sleep(0)
    store.extend([], lease_ms=10)  # blocks until its batch is over
    task.cancel()
    hidden = await claimed_ids(store)

    clock.pass_ms(10)

    assert hidden == []
    assert await claimed_ids(store) == sent


async def test_closing_finishes_what_was_submitted(path: Path, settings: KvQueueSettings) -> None:
    store = await open_store(str(path), settings)
    tasks = [asyncio.create_task(send(store, mail())) for _ in range(200)]
    await asyncio.sleep(0)

    await store.close()
    answers = await asyncio.gather(*tasks)

    again = await open_store(str(path), settings)
    assert await claimed_ids(again, limit=999, room=999) == [number for (number,) in answers]
    await again.close()


async def test_cancelled_closing_still_lets_go(path: Path, settings: KvQueueSettings) -> None:
    before = threading.active_count()
    store = await open_store(str(path), settings)
    sending = asyncio.create_task(send(store, mail()))
    await asyncio.sleep(0)

    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, sending, return_exceptions=True)
    await store.close()

    names = [thread.name for thread in threading.enumerate()]
    assert "kvqueue-database" not in names
    assert threading.active_count() <= before + 1  # the loop's own executor


async def test_store_that_is_retained_outlives_its_closing(
    path: Path, settings: KvQueueSettings
) -> None:
    store = await open_store(str(path), settings)
    await send(store, mail())
    (held,) = await claim(store)
    store.retain()

    await store.close()
    await store.close()
    settled = await asyncio.to_thread(store.settle_now, [ending(held, Outcome.RELEASE)])
    await asyncio.to_thread(store.let_go)

    assert settled == [True]
    with pytest.raises(KvQueueClosedError):
        store.settle_now([])


@pytest.mark.parametrize("_turn", range(5))
async def test_threads_that_call_while_it_closes_all_get_an_answer(
    path: Path, settings: KvQueueSettings, _turn: int
) -> None:
    store = await open_store(str(path), settings)

    def call_until_closed() -> bool:
        try:
            while True:
                store.extend([], 5)
        except KvQueueClosedError:
            return True

    callers = [asyncio.create_task(asyncio.to_thread(call_until_closed)) for _ in range(4)]
    await asyncio.sleep(0.02)
    await store.close()

    assert await asyncio.wait_for(asyncio.gather(*callers), 2) == [True] * 4


async def _open_and_claim(path: Path, settings: KvQueueSettings) -> None:
    store = await open_store(str(path), settings)
    try:
        await claim(store, limit=500, room=500)
    finally:
        await store.close()


def _damage(path: Path) -> None:
    """All but the first page."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))


def _deny(*_: object) -> int:
    return sqlite3.SQLITE_DENY
