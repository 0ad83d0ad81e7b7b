import asyncio
import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kvqueue_fastapi import Message, OutgoingMessage, RetryLater, SendOptions, on_queue_message
from kvqueue_fastapi.deliveries import Deliveries
from kvqueue_fastapi.listener import Listener
from kvqueue_fastapi.message import Hold
from kvqueue_fastapi.model import AtomicWrite, Claimed, Send, Settlement
from kvqueue_fastapi.settling import Settler
from kvqueue_fastapi.store.sqlite.engine import SqliteStore
from kvqueue_fastapi.turns import Turns
from tests.contract.harness import Bench, Crowd, ManualClock, Seen, by_hand, running, until


@contextmanager
def other_program(where: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(where / "q.db", timeout=5, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def typed(seen: Seen) -> Any:
    """Make a handler that keeps the type of its message."""

    async def handle(message: Message) -> None:
        seen.add(message.type)

    return handle


async def test_flood_of_one_type_does_not_starve_another(tmp_path: Path) -> None:
    seen = Seen()
    async with running(tmp_path, listen=False) as bench:
        await bench.queue.send_messages([("flood", n) for n in range(500)])
        await bench.queue.send_messages([("drop", n) for n in range(5)])

    callbacks = {"flood": typed(seen), "drop": typed(seen)}
    async with running(tmp_path, callbacks=callbacks, concurrency=1):
        await seen.reach(505)

    assert seen[:30].count("drop") == 5


@pytest.mark.parametrize("unhandled", ["leave", "fail"])
async def test_forty_types_take_turns_however_little_room_there_is(
    tmp_path: Path, unhandled: str
) -> None:
    seen = Seen()
    types = [f"t{number:02}" for number in range(40)]
    async with running(tmp_path, listen=False) as bench:
        await bench.queue.send_messages([(kind, n) for kind in types for n in range(25)])

    async with running(
        tmp_path, callbacks=dict.fromkeys(types, typed(seen)), concurrency=1, unhandled=unhandled
    ):
        await seen.reach(1_000)

    early = Counter(seen[:500])
    assert len(early) == 40
    assert set(Counter(seen).values()) == {25}


async def test_forty_types_that_nobody_handles_all_fail(tmp_path: Path) -> None:
    types = [f"t{number:02}" for number in range(40)]
    seen = Seen()
    async with running(
        tmp_path, callbacks={"known": seen.take}, unhandled="fail", backoff_schedule_s=()
    ) as bench:
        await bench.queue.send_messages([(kind, 1) for kind in types])
        await bench.queue.send_message("known", 1)
        await until(lambda: has_dead(bench, 40))
        await seen.reach(1)

        assert {dead.type for dead in await bench.admin.dead_letters()} == set(types)


@pytest.mark.parametrize("nobody_takes", ["unhandled", "paused"])
async def test_backlog_of_many_types_is_not_held_up_behind_one_that_nobody_takes(
    tmp_path: Path, nobody_takes: str
) -> None:
    seen = Seen()
    types = [f"t{number:02}" for number in range(16)]
    callbacks = dict.fromkeys([*types, "zpaused"], seen.take)
    async with running(tmp_path, listen=False) as bench:
        await bench.admin.pause("zpaused")
        await bench.queue.send_message(f"z{nobody_takes}", 0)
        await bench.queue.send_messages([(kind, n) for n in range(50) for kind in types])

    async with running(tmp_path, callbacks=callbacks, concurrency=10, poll_interval_s=3_600):
        assert len(await seen.reach(800)) == 800


async def test_every_type_has_its_share_beside_one_with_a_limit(tmp_path: Path) -> None:
    came: Counter[str] = Counter()
    enough = asyncio.Event()

    async def take(message: Message[Any]) -> None:
        came[message.type] += 1
        if came.total() == 6_000:
            enough.set()

    @on_queue_message("limited", concurrency=2)
    async def take_two_at_a_time(message: Message[Any]) -> None:
        await take(message)

    types = [f"t{number:02}" for number in range(20)]
    async with running(tmp_path, listen=False) as bench:
        for kind in (*types, "limited"):
            await bench.queue.send_messages([(kind, None)] * 1_000)

    callbacks = dict.fromkeys(types, take)
    async with running(tmp_path, take_two_at_a_time, callbacks=callbacks):
        await asyncio.wait_for(enough.wait(), 30)

    assert min(came[kind] for kind in types) > 100
    assert came["limited"] > 20


async def test_type_that_nobody_handles_is_reported_once_by_each_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvqueue_fastapi.unhandled.REPORT_S", 0.01)
    async with (
        running(tmp_path, callbacks={"here": print_}, poll_interval_s=0.05) as bench,
        running(tmp_path, callbacks={"there": print_}, poll_interval_s=0.05),
    ):
        await bench.admin.pause("there")
        await bench.queue.send_messages([("nobody", 1), ("nobody", 2), ("there", 3)])
        await until(lambda: said(caplog, "'nobody'"))
        await asyncio.sleep(1)

    reported = Counter(r.getMessage() for r in caplog.records if r.module == "unhandled")
    assert list(reported.values()) == [2]


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_handlers_own_concurrency_is_never_exceeded_and_leaves_room_for_others(
    tmp_path: Path,
    is_async: bool,  # noqa: FBT001 because pytest gives it
) -> None:
    seen, crowd = Seen(), Crowd()

    def sync(message: Message) -> None:
        crowd.enter("few")
        time.sleep(0.005)
        crowd.leave("few")
        seen.add(message.type)

    async def slow(message: Message) -> None:
        crowd.enter("few")
        await asyncio.sleep(0.005)
        crowd.leave("few")
        seen.add(message.type)

    limited = on_queue_message("few", concurrency=2)(slow if is_async else sync)
    async with running(tmp_path, limited, callbacks={"many": typed(seen)}, concurrency=5) as bench:
        await bench.queue.send_messages([("few", n) for n in range(60)])
        await bench.queue.send_messages([("many", n) for n in range(60)])
        await seen.reach(120)

    assert crowd.most["few"] == 2
    assert seen[:80].count("many") == 60


async def test_no_more_sync_handlers_run_than_there_are_threads(tmp_path: Path) -> None:
    seen, crowd = Seen(), Crowd()

    def handle(data: int) -> None:
        crowd.enter("threads")
        time.sleep(0.005)
        crowd.leave("threads")
        seen.add(data)

    async with running(tmp_path, callbacks={"a": handle, "b": handle}, sync_concurrency=3) as bench:
        await bench.queue.send_messages([("ab"[n % 2], n) for n in range(100)])
        await seen.reach(100)

    assert crowd.most["threads"] == 3


async def test_waiting_for_a_thread_takes_no_slot_from_async_handlers(tmp_path: Path) -> None:
    seen, go_on = Seen(), threading.Event()

    def block() -> None:
        go_on.wait(5)

    blocked = dict.fromkeys([f"s{number}" for number in range(8)], block)
    settings = {"sync_concurrency": 8, "concurrency": 24}
    async with running(tmp_path, callbacks=blocked | {"n": seen.take}, **settings) as bench:
        await bench.queue.send_messages([(kind, None) for kind in blocked for _ in range(20)])
        await until(lambda: has_state(bench, "running", 8))
        await bench.queue.send_message("n", 1)

        assert await seen.reach(1) == [1]
        assert len(await bench.admin.messages(state="running", limit=1_000)) < 16
        go_on.set()


async def test_no_message_waits_for_a_thread_in_the_hands_of_a_process(tmp_path: Path) -> None:
    # Another process may have a thread free for it.
    go_on = threading.Event()

    def block() -> None:
        go_on.wait(5)

    types = [f"s{number}" for number in range(16)]
    async with running(
        tmp_path, callbacks=dict.fromkeys(types, block), sync_concurrency=2
    ) as bench:
        await bench.queue.send_messages([(kind, None) for kind in types])
        await until(lambda: has_state(bench, "running", 2))
        await asyncio.sleep(0.1)
        running_now = await bench.admin.messages(state="running")
        go_on.set()
        await until(lambda: has_state(bench, "ready", 0))

    assert len(running_now) == 2


async def test_sync_and_async_types_take_turns_at_one_slot(tmp_path: Path) -> None:
    seen = Seen()

    def in_thread(message: Message) -> None:
        seen.add(message.type)

    callbacks = {"thread": in_thread, "loop": typed(seen)}
    async with running(tmp_path, listen=False) as bench:
        await bench.queue.send_messages([(kind, n) for n in range(50) for kind in callbacks])

    async with running(tmp_path, callbacks=callbacks, concurrency=1):
        await seen.reach(100)

    assert 10 < seen[:50].count("thread") < 40


async def test_messages_of_one_key_run_one_at_a_time_in_order_across_types(
    tmp_path: Path,
) -> None:
    seen, crowd = Seen(), Crowd()

    async def handle(data: tuple[str, int], message: Message) -> None:
        crowd.enter(data[0], "all")
        await asyncio.sleep(0.001)
        crowd.leave(data[0], "all")
        seen.add(data)

    async with running(tmp_path, callbacks={"a": handle, "b": handle}) as bench:
        for number in range(30):
            for key in ("x", "y", "z"):
                await bench.queue.send_message(
                    "ab"[number % 2], (key, number), ordering_key=key, priority=number
                )
        await seen.reach(90)

    for key in ("x", "y", "z"):
        assert [number for k, number in seen if k == key] == list(range(30))
        assert crowd.most[key] == 1
    assert crowd.most["all"] > 1


async def test_failed_head_holds_its_successors_back_until_it_is_dead(tmp_path: Path) -> None:
    seen = Seen()

    async def handle(data: str) -> None:
        seen.add(data)
        if data == "bad":
            raise ValueError

    async with running(tmp_path, callbacks={"n": handle}, backoff_schedule_s=(0.05, 0.05)) as bench:
        for data, key in [("bad", "k"), ("next", "k"), ("other", "l"), ("free", None)]:
            await bench.queue.send_message("n", data, ordering_key=key)

        came = await seen.reach(6)

    assert [data for data in came if data in {"bad", "next"}] == ["bad", "bad", "bad", "next"]
    assert came.index("other") < 4
    assert came.index("free") < 4


@pytest.mark.parametrize("delay", [0, 0.1])
async def test_head_that_asks_for_later_keeps_its_key_blocked(tmp_path: Path, delay: float) -> None:
    seen = Seen()

    async def handle(data: str) -> None:
        if seen.add(data) <= 2 and data == "head":
            raise RetryLater(delay)

    async with running(tmp_path, callbacks={"n": handle}) as bench:
        await bench.queue.send_message("n", "head", ordering_key="k")
        await bench.queue.send_message("n", "next", ordering_key="k")

        assert await seen.stay(4) == ["head", "head", "head", "next"]


async def test_key_goes_on_behind_a_message_whose_failure_could_not_be_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen()

    class Broken(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            if record.levelno == logging.ERROR:
                raise RuntimeError
            return True

    async def handle(data: str) -> None:
        seen.add(data)
        if data == "bad":
            raise ValueError

    monkeypatch.setattr(logging.getLogger("kvqueue_fastapi"), "filters", [Broken()])
    async with running(tmp_path, callbacks={"n": handle}, backoff_schedule_s=(0,)) as bench:
        await bench.queue.send_message("n", "bad", ordering_key="k")
        await bench.queue.send_message("n", "next", ordering_key="k")

        assert await seen.reach(3) == ["bad", "bad", "next"]
    assert not [record for record in caplog.records if record.levelno == logging.ERROR]


async def test_delayed_head_holds_its_successors_back(tmp_path: Path) -> None:
    seen = Seen()
    async with running(tmp_path, callbacks={"n": seen.take}) as bench:
        await bench.queue.send_message("n", "head", ordering_key="k", delay=0.15)
        await bench.queue.send_message("n", "next", ordering_key="k")
        states = [record.state for record in await bench.admin.messages()]

        assert await seen.reach(2) == ["head", "next"]
    assert states == ["delayed", "blocked"]


async def test_higher_priority_goes_first_within_a_type(tmp_path: Path) -> None:
    seen = Seen()
    async with running(tmp_path, listen=False) as bench:
        for priority in (0, -1, 5, 0, 1_000_000, -1_000_000):
            await bench.queue.send_message("n", priority, priority=priority)

    async with running(tmp_path, callbacks={"n": seen.take}, concurrency=1):
        assert await seen.reach(6) == [1_000_000, 5, 0, 0, -1, -1_000_000]


async def test_paused_type_waits_in_every_process_while_others_go_on(tmp_path: Path) -> None:
    seen = Seen()
    callbacks = {"paused": typed(seen), "other": typed(seen)}
    async with (
        running(tmp_path, callbacks=callbacks) as bench,
        running(tmp_path, callbacks=callbacks),
    ):
        await bench.admin.pause("paused")
        await bench.queue.send_messages([("paused", 1), ("other", 2)])
        await seen.stay(1)
        await bench.admin.resume("paused")

        assert await seen.stay(2) == ["other", "paused"]


async def test_pause_gives_back_what_has_not_started_and_lets_the_running_finish(
    tmp_path: Path,
) -> None:
    seen, go_on = Seen(), asyncio.Event()

    async def handle(data: int) -> None:
        seen.add(data)
        if data >= 500:
            await go_on.wait()

    async with running(tmp_path, callbacks={"n": handle}, concurrency=2) as bench:
        await bench.queue.send_messages([("n", number) for number in range(520)])
        await seen.reach(502)
        await bench.admin.pause("n")
        async with asyncio.timeout(2):
            await until(lambda: has_state(bench, "running", 2))
        go_on.set()
        await until(lambda: has_state(bench, "running", 0))

        left = await bench.admin.messages()
    assert [(record.data, record.attempt) for record in left] == [(n, 0) for n in range(502, 520)]
    assert len(seen) == 502


async def test_loop_that_is_blocked_while_a_claim_is_under_way_keeps_what_it_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen()
    claim = SqliteStore.claim

    async def claim_then_block(*args: Any, **options: Any) -> Claimed:
        claimed = await claim(*args, **options)
        if claimed.claims:
            time.sleep(1.6)  # noqa: ASYNC251 because blocking is what is tried
        return claimed

    async def handle(message: Message) -> None:
        seen.add((message.attempt, message.lease_lost))
        await asyncio.sleep(0.5)

    monkeypatch.setattr(SqliteStore, "claim", claim_then_block)
    async with running(tmp_path, callbacks={"n": handle}, lease_s=1, poll_interval_s=0.1) as bench:
        await bench.queue.send_message("n")
        await seen.reach(1)
        await until(lambda: has_state(bench, "running", 0))

        assert await seen.stay(1) == [(1, False)]


async def test_settling_what_was_lost_keeps_the_lease_of_a_newer_claim(tmp_path: Path) -> None:
    clock = ManualClock()
    async with by_hand(tmp_path, clock) as hand:
        await hand.store.commit(AtomicWrite(sends=(Send("n", "1"),)))
        (old,) = await hand.claim("n", lease_ms=1_000)
        clock.advance(1_000)
        (new,) = await hand.claim("n", lease_ms=1_000)
        holds = {new.id: Hold(new, 0.0)}
        settler = Settler(hand.store, holds, Deliveries())

        settler.add(Hold(old, 0.0), Settlement(old.id, old.token))
        settler.finish()
        await settler.run()

    assert (old.id, list(holds)) == (new.id, [new.id])


async def test_listener_goes_on_after_the_database_was_locked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen, begun = Seen(), Seen()

    async def slow(data: int) -> None:
        begun.add(data)
        await asyncio.sleep(0.1)
        seen.add(data)

    async with running(tmp_path, callbacks={"n": slow}, lease_s=1, poll_interval_s=0.05) as bench:
        await bench.queue.send_message("n", 1)
        await begun.reach(1)
        with other_program(tmp_path) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            await until(lambda: said(caplog, "could not claim; it tries again"))
            await until(lambda: said(caplog, "could not be settled; the listener tries again"))
            connection.execute("ROLLBACK")
        await bench.queue.send_message("n", 2)

        assert await seen.stay(2) == [1, 2]
        assert not await bench.admin.messages()


async def test_listener_goes_on_after_any_error_of_the_store(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    async with running(tmp_path, callbacks={"n": seen.take}, poll_interval_s=0.05) as bench:
        with other_program(tmp_path) as connection:
            connection.execute("ALTER TABLE kvqueue_types RENAME TO away")
            await until(lambda: said(caplog, "could not claim; it tries again"))
            connection.execute("ALTER TABLE away RENAME TO kvqueue_types")
        await bench.queue.send_message("n", 1)

        assert await seen.stay(1) == [1]


async def test_shutdown_while_the_store_fails_is_bounded_and_raises_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    with other_program(tmp_path) as connection:
        async with running(tmp_path, callbacks={"n": seen.take}, lease_s=1, poll_interval_s=0.05):
            connection.execute("BEGIN EXCLUSIVE")
            await until(lambda: said(caplog, "could not claim; it tries again"))
            began = time.monotonic()
        connection.execute("ROLLBACK")

    assert time.monotonic() - began < 3


async def test_delayed_messages_wake_the_listener_one_by_one(tmp_path: Path) -> None:
    seen = Seen()
    async with running(tmp_path, callbacks={"n": seen.take}, poll_interval_s=3_600) as bench:
        began = time.monotonic()
        await bench.queue.send_messages(
            [OutgoingMessage("n", n, SendOptions(delay=n / 10)) for n in (3, 1, 2)]
        )
        await seen.reach(3)

    assert seen == [1, 2, 3]
    lateness = [at - began - n / 10 for n, at in zip(seen, seen.times, strict=True)]
    assert all(0 <= late < 1 for late in lateness)


async def test_lease_that_nobody_extends_wakes_the_listener_when_it_ends(tmp_path: Path) -> None:
    seen = Seen()
    async with running(tmp_path, callbacks={"n": seen.take}, poll_interval_s=3_600):
        frozen = "INSERT INTO kvqueue_messages (type, state, lease_until_ms) VALUES ('n', 3, ?)"
        with other_program(tmp_path) as connection:
            connection.execute(frozen, (time.monotonic_ns() // 1_000_000 + 300,))

        assert await seen.reach(1) == [None]


async def test_ten_thousand_messages_are_each_handled_once(tmp_path: Path) -> None:
    seen = Seen()
    async with running(tmp_path, callbacks={"n": seen.take}) as bench:
        await bench.queue.send_messages([("n", number) for number in range(10_000)])
        came = await seen.stay(10_000)
        counts = await bench.admin.counts()

    assert sorted(came) == list(range(10_000))
    assert (counts[0].ready, counts[0].running, counts[0].dead) == (0, 0, 0)


async def test_quick_handlers_with_one_slot_see_their_messages_in_order(tmp_path: Path) -> None:
    seen = Seen()
    async with running(tmp_path, callbacks={"n": seen.take}, concurrency=1) as bench:
        for start in range(0, 2_000, 50):
            await bench.queue.send_messages([("n", n) for n in range(start, start + 50)])
        await seen.reach(2_000)

    assert all(before < after for before, after in pairwise(seen))


def print_() -> None: ...


async def has_dead(bench: Bench, count: int) -> bool:
    return len(await bench.admin.dead_letters(limit=1_000)) == count


async def has_state(bench: Bench, state: str, count: int) -> bool:
    return len(await bench.admin.messages(state=state, limit=1_000)) == count


async def said(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return text in caplog.text


async def test_stop_is_bounded_while_another_program_holds_the_write_lock(tmp_path: Path) -> None:
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def handle() -> None:
        gate.set()

    async with running(
        tmp_path, callbacks={"n": handle}, lease_s=60, shutdown_timeout_s=0.1
    ) as bench:
        other = sqlite3.connect(tmp_path / "q.db", isolation_level=None)
        await bench.queue.send_message("n")
        await gate.wait()
        other.execute("BEGIN IMMEDIATE")
        begun = loop.time()
    took = loop.time() - begun
    other.close()

    assert took < 15  # a few seconds for each step; the patience of a lease would be 20 each


@pytest.mark.parametrize("types", [1, 20, 300])
async def test_what_an_idle_listener_is_sent_is_claimed_in_the_commit_that_stores_it(
    tmp_path: Path, types: int
) -> None:
    statements: list[str] = []
    commits: list[int] = []

    async def handle() -> None:
        commits.append(statements.count("COMMIT"))

    callbacks = {f"t{n}": handle for n in range(types)}
    async with running(tmp_path, callbacks=callbacks, poll_interval_s=3_600) as bench:
        store: Any = bench.queue._handle.store
        while types <= 256 and not store._offers._made:
            await asyncio.sleep(0)
        store._thread.call(lambda connection: connection.set_trace_callback(statements.append))
        await bench.queue.send_message("t0")
        while not commits:
            await asyncio.sleep(0)

    # Where an offer would have to name too many types, it is stored first and claimed then.
    assert commits == [1] if types <= 256 else commits > [1]


async def test_an_idle_listener_is_ready_for_the_next_message_of_any_type(tmp_path: Path) -> None:
    statements: list[str] = []
    commits: list[int] = []

    async def handle() -> None:
        commits.append(statements.count("COMMIT"))

    def handle_in_thread() -> None:
        commits.append(statements.count("COMMIT"))

    callbacks = {"a": handle, "t": handle_in_thread}
    async with running(tmp_path, callbacks=callbacks, poll_interval_s=3_600) as bench:
        store: Any = bench.queue._handle.store

        async def is_idle() -> bool:
            return not await bench.admin.messages()

        while len(store._offers._made) < 2:
            await asyncio.sleep(0)
        store._thread.call(lambda connection: connection.set_trace_callback(statements.append))
        for number, kind in enumerate("aattaat", start=1):
            statements.clear()
            await bench.queue.send_message(kind)
            while len(commits) < number:
                await asyncio.sleep(0)
            await until(is_idle)

    assert commits == [1] * 7


async def test_one_commit_brings_an_idle_listener_no_more_than_it_has_slots_for(
    tmp_path: Path,
) -> None:
    seen = Seen()
    running_beside: list[int] = []

    async def handle() -> None:
        running_beside.append(len(await bench.admin.messages(state="running")))
        seen.add("a")

    def handle_in_thread() -> None:
        running = asyncio.run_coroutine_threadsafe(bench.admin.messages(state="running"), loop)
        running_beside.append(len(running.result(10)))
        seen.add("t")

    loop = asyncio.get_running_loop()
    callbacks = {"a": handle, "t": handle_in_thread}
    async with running(
        tmp_path, callbacks=callbacks, concurrency=1, poll_interval_s=3_600
    ) as bench:
        store: Any = bench.queue._handle.store
        while not store._offers._made:
            await asyncio.sleep(0)
        await bench.queue.send_messages([("a", None), ("t", None)])
        await seen.reach(2)

    assert running_beside[0] == 1


@pytest.mark.parametrize(("types", "owner", "name"), [(2, Listener, "_claim"), (20, Turns, "next")])
async def test_what_becomes_due_between_two_looks_of_a_round_is_handled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, types: int, owner: type, name: str
) -> None:
    # `def` and `async def` types are claimed one after the other, and more than 16 are looked
    # up first. Whatever is claimed makes ready all that is due.
    look = getattr(owner, name)
    is_held_up = False

    async def held_up(*args: Any, **named: Any) -> Any:
        nonlocal is_held_up
        found = await look(*args, **named)
        if is_held_up:
            is_held_up = False
            await asyncio.sleep(0.15)
        return found

    monkeypatch.setattr(owner, name, held_up)
    seen = Seen()

    def handle_in_thread(number: int) -> None:
        seen.add(number)

    callbacks: dict[str, Any] = {f"t{number}": seen.take for number in range(types)}
    async with running(
        tmp_path, callbacks=callbacks | {"t1": handle_in_thread}, poll_interval_s=3_600
    ) as bench:
        for number in range(6):
            await bench.queue.send_message("t0", number, delay=0.1)
            is_held_up = True
            await bench.admin.resume("any")  # which has the listener look
            await seen.reach(number + 1)

    assert seen == list(range(6))
