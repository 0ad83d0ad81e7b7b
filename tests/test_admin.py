import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from kvqueue_fastapi import InvalidOptionError, KvQueueError, Page, PayloadError, State
from kvqueue_fastapi.model import AtomicWrite, Idempotency, Send
from kvqueue_fastapi.testing import FakeClock
from tests.contract.harness import Bench, ManualClock, Seen, by_hand, running, until

ONCE: dict[str, Any] = {"backoff_schedule": ()}


async def fail() -> None:
    raise ValueError("no such customer")


async def dead(bench: Bench, count: int, **options: Any) -> list[int]:
    """Make dead letters of type "bad"."""
    ids = [await bench.queue.send_message("bad", n, **ONCE, **options) for n in range(count)]
    await bench.queue.run_until_idle()
    return ids


async def test_counts_tell_how_many_messages_of_each_type_are_where(tmp_path: Path) -> None:
    async with running(tmp_path, callbacks={"bad": fail}, listen=False) as bench:
        await dead(bench, 2)
        await bench.queue.send_messages([("a", 1), ("a", 2)])
        await bench.queue.send_message("a", 3, delay=60)
        await bench.queue.send_message("b", 4, ordering_key="k")
        await bench.queue.send_message("b", 5, ordering_key="k")
        await bench.admin.pause("c")

        a, b, bad, c = await bench.admin.counts()

    assert (a.type, a.ready, a.delayed, a.blocked, a.running, a.dead) == ("a", 2, 1, 0, 0, 0)
    assert (b.ready, b.blocked, b.paused, b.handled) == (1, 1, False, False)
    assert (bad.dead, bad.ready, bad.oldest_age_s) == (2, 0, None)
    assert (c.type, c.paused, c.ready) == ("c", True, 0)
    assert a.oldest_age_s is not None
    assert 0 <= a.oldest_age_s < 5


async def test_counts_tell_what_runs_and_what_is_handled(tmp_path: Path) -> None:
    seen = Seen()

    async def handle() -> None:
        seen.add("call")
        await asyncio.sleep(60)

    async with running(tmp_path, callbacks={"n": handle}, shutdown_timeout_s=0) as bench:
        await bench.queue.send_message("n")
        await seen.reach(1)
        (counts,) = await bench.admin.counts()

    assert (counts.running, counts.ready, counts.handled) == (1, 0, True)


@pytest.mark.parametrize("limit", [1, 3, 7, 10, 11])
async def test_pages_show_every_message_once_and_in_order(tmp_path: Path, limit: int) -> None:
    shown, cursor, pages = list[int](), None, 0
    async with running(tmp_path, listen=False) as bench:
        ids = await bench.queue.send_messages([("n", number) for number in range(10)])
        while pages == 0 or cursor is not None:
            page = await bench.admin.messages(limit=limit, cursor=cursor)
            assert len(page) <= limit
            shown += [record.id for record in page]
            cursor, pages = page.next_cursor, pages + 1

    assert shown == ids
    assert pages == -(-10 // limit)


async def test_page_is_a_sequence_of_records(tmp_path: Path) -> None:
    async with running(tmp_path, listen=False) as bench:
        await bench.queue.send_messages([("n", number) for number in range(3)])
        page = await bench.admin.messages(limit=2)

    assert isinstance(page, Page)
    assert (len(page), page[0].data, [one.data for one in page[1:]]) == (2, 0, [1])
    assert page == tuple(page)


async def test_cursor_goes_on_behind_what_was_shown_though_that_has_gone(tmp_path: Path) -> None:
    async with running(tmp_path, listen=False) as bench:
        ids = await bench.queue.send_messages([("n", number) for number in range(5)])
        page = await bench.admin.messages(limit=2)
        await bench.admin.discard(ids[:3])
        ids += await bench.queue.send_messages([("n", 5)])

        rest = await bench.admin.messages(limit=9, cursor=page.next_cursor)

    assert [record.id for record in rest] == ids[3:]


@pytest.mark.parametrize(
    ("arguments", "data"),
    [
        ({"type": "a"}, [0, "Needle"]),
        ({"type": "none"}, []),
        ({"state": "delayed"}, [2]),
        ({"state": State.BLOCKED}, [4]),
        ({"ordering_key": "k"}, [3, 4]),
        ({"search": "needle"}, ["Needle"]),
        ({"search": "%"}, []),
        ({"type": "b", "state": "ready", "ordering_key": "k"}, [3]),
        ({"type_pattern": "b*", "reverse": True, "limit": 2}, [4, 3]),
        ({"type_pattern": "*"}, [0, "Needle", 2, 3, 4]),
        ({"type_pattern": "[ab]"}, []),
        ({"error": "needle"}, []),
    ],
)
async def test_messages_can_be_filtered(
    tmp_path: Path, arguments: dict[str, Any], data: list[Any]
) -> None:
    async with running(tmp_path, listen=False) as bench:
        await bench.queue.send_messages([("a", 0), ("a", "Needle")])
        await bench.queue.send_message("b", 2, delay=60)
        await bench.queue.send_message("b", 3, ordering_key="k")
        await bench.queue.send_message("b", 4, ordering_key="k")

        found = await bench.admin.messages(**arguments)

    assert [record.data for record in found] == data


@pytest.mark.parametrize("limit", [1, 3, 10])
async def test_pages_from_the_newest_on_show_every_dead_letter_once(
    tmp_path: Path, limit: int
) -> None:
    shown, cursor, pages = list[int](), None, 0
    async with running(tmp_path, callbacks={"bad": fail}, listen=False) as bench:
        ids = await dead(bench, 7)
        while pages == 0 or cursor is not None:
            page = await bench.admin.dead_letters(reverse=True, limit=limit, cursor=cursor)
            shown += [record.id for record in page]
            cursor, pages = page.next_cursor, pages + 1

    assert shown == ids[::-1]


async def test_dead_letters_can_be_filtered_by_their_errors(tmp_path: Path) -> None:
    async with running(tmp_path, callbacks={"bad": fail}, listen=False) as bench:
        ids = await dead(bench, 3, ordering_key="k")

        first = await bench.admin.dead_letters(type="bad", search="SUCH customer", limit=2)
        rest = await bench.admin.dead_letters(ordering_key="k", cursor=first.next_cursor)
        none = await bench.admin.dead_letters(search="another")

    assert [record.id for record in [*first, *rest]] == ids
    assert (rest.next_cursor, list(none)) == (None, [])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"limit": 0}, "limit is 0, allowed is 1 to 1000. Page with next_cursor"),
        ({"limit": 1_001}, "limit is 1001"),
        ({"limit": True}, "limit is True"),
        ({"limit": "5"}, "limit is '5'"),
        ({"cursor": ""}, "cursor '' is none. Give the next_cursor of a page"),
        ({"cursor": "é"}, "is none"),
        ({"cursor": 7}, "cursor 7 is none"),
        ({"cursor": "OTk5OTk5OTk5OTk5OTk5OTk5OTk5"}, "is none"),
        ({"state": "dead"}, r"state is 'dead', allowed are .*see dead_letters\(\)"),
        ({"state": "odd"}, "state is 'odd', allowed are ready, delayed, blocked, running"),
    ],
)
async def test_wrong_question_is_refused(
    tmp_path: Path, arguments: dict[str, Any], text: str
) -> None:
    async with running(tmp_path, listen=False) as bench:
        with pytest.raises(InvalidOptionError, match=text):
            await bench.admin.messages(**arguments)


@pytest.mark.parametrize("message_id", [0, -1, 99, 2**63, 10**30, "one"])
async def test_id_of_no_message_is_fine_to_ask_for(tmp_path: Path, message_id: Any) -> None:
    async with running(tmp_path, listen=False) as bench:
        assert await bench.admin.message(message_id) is None
        assert await bench.admin.discard([message_id]) == []
        assert await bench.admin.requeue([message_id]) == {}
        with pytest.raises(KvQueueError, match="cannot be cancelled: there is none"):
            await bench.admin.cancel(message_id)


async def test_requeued_dead_letter_is_a_new_message_with_all_attempts_before_it(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, callbacks={"bad": fail}, listen=False) as bench:
        (old,) = await dead(bench, 1, ordering_key="k", headers={"a": "b"}, priority=4)
        await bench.queue.send_message("other", ordering_key="k")

        requeued = await bench.admin.requeue([old, 77, old])

        record = await bench.admin.message(requeued[old])
        assert await bench.admin.message(old) is None
    assert list(requeued) == [old]
    assert record is not None
    assert (record.state, record.attempt, record.errors) == ("blocked", 0, ())
    assert (record.requeued_from, record.headers, record.priority) == (old, {"a": "b"}, 4)


async def test_dead_letter_is_requeued_with_another_payload(tmp_path: Path) -> None:
    seen = Seen()

    async def handle(number: int) -> None:
        if number < 0:
            raise ValueError(number)
        seen.add(number)

    async with running(tmp_path, callbacks={"bad": handle}, listen=False) as bench:
        old = await bench.queue.send_message("bad", -1, headers={"a": "b"}, **ONCE)
        await bench.queue.run_until_idle()

        new = await bench.admin.requeue_as(old, 1)
        record = await bench.admin.message(new)
        await bench.queue.run_until_idle()

        assert not await bench.admin.dead_letters()
    assert record is not None
    assert (record.data, record.headers, record.requeued_from) == (1, {"a": "b"}, old)
    assert seen == [1]


@pytest.mark.parametrize("data", ["no number", {"n": {1, 2}.__class__}])
async def test_payload_that_the_handler_would_not_take_is_not_requeued(
    tmp_path: Path, data: Any
) -> None:
    async def handle(number: int) -> None:
        raise ValueError(number)

    async with running(tmp_path, callbacks={"bad": handle}, listen=False) as bench:
        old = await bench.queue.send_message("bad", -1, **ONCE)
        await bench.queue.run_until_idle()

        with pytest.raises(PayloadError):
            await bench.admin.requeue_as(old, data)

        assert [record.id for record in await bench.admin.dead_letters()] == [old]


async def test_only_a_dead_letter_is_requeued_with_another_payload(tmp_path: Path) -> None:
    async with running(tmp_path, listen=False) as bench:
        waiting = await bench.queue.send_message("n", 1)

        for message_id in (waiting, 99, -1, 2**70, "one"):
            with pytest.raises(KvQueueError, match="cannot be requeued: it is no dead letter"):
                await bench.admin.requeue_as(message_id, 2)  # type: ignore[arg-type]

        assert [record.data for record in await bench.admin.messages()] == [1]


async def test_message_is_sent_again_with_all_that_it_carries(tmp_path: Path) -> None:
    async with running(tmp_path, callbacks={"bad": fail}, listen=False) as bench:
        (old,) = await dead(bench, 1, ordering_key="k", headers={"a": "b"}, priority=4)

        new = await bench.admin.send_again(old)
        newer = await bench.admin.send_again(new)

        records = await bench.admin.messages()
        assert [record.id for record in await bench.admin.dead_letters()] == [old]
        with pytest.raises(KvQueueError, match="cannot be sent again: there is none"):
            await bench.admin.send_again(99)
    assert [record.id for record in records] == [new, newer]
    assert {(record.data, record.priority, record.requeued_from) for record in records} == {
        (0, 4, None)
    }
    assert all(record.headers == {"a": "b"} for record in records)


async def test_discard_all_takes_every_dead_letter_of_a_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvqueue_fastapi.admin.SLICE", 5)
    progress: list[int] = []
    async with running(tmp_path, callbacks={"bad": fail, "other": fail}, listen=False) as bench:
        await dead(bench, 12)
        kept = await bench.queue.send_message("other", **ONCE)
        await bench.queue.run_until_idle()

        count = await bench.admin.discard_all("bad", progress=progress.append)

        assert [record.id for record in await bench.admin.dead_letters()] == [kept]
    assert (count, progress) == (12, [5, 10, 12])


async def test_misfits_are_what_todays_models_do_not_take(tmp_path: Path) -> None:
    async with running(tmp_path, listen=False) as bench:
        good, bad = await bench.queue.send_messages([("n", 1), ("n", {"number": 1})])
        await bench.queue.send_message("nobody's", {"number": 1})

    async def handle(number: int) -> None: ...

    async with running(tmp_path, callbacks={"n": handle}, listen=False) as bench:
        ((record, problem),) = await bench.admin.misfits()

    assert (record.id, good) == (bad, bad - 1)
    assert "valid integer" in problem


async def test_requeue_all_takes_every_dead_letter_of_a_type_in_order(tmp_path: Path) -> None:
    clock = ManualClock()
    async with by_hand(tmp_path, clock) as hand:
        await hand.store.commit(AtomicWrite(sends=[Send("bad", str(n)) for n in range(1_201)]))
        await hand.store.commit(AtomicWrite(sends=[Send("other", "1")]))
    async with running(tmp_path, callbacks={"other": fail}, **no_retry("fail")) as bench:
        await until(lambda: all_dead(bench, 1_202))

    async with running(tmp_path, listen=False) as bench:
        count = await bench.admin.requeue_all("bad")
        records = await bench.admin.messages(limit=1_000)

        assert [record.type for record in await bench.admin.dead_letters()] == ["other"]
    assert count == 1_201
    assert sorted(record.data for record in records) == list(range(1_000))


@pytest.mark.parametrize("verb", ["requeue_all", "discard_all"])
async def test_what_dies_after_the_last_death_that_was_seen_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr("kvqueue_fastapi.admin.SLICE", 2)
    clock = FakeClock()
    async with running(tmp_path, callbacks={"bad": fail}, modules=(clock,), listen=False) as bench:
        older = await bench.queue.send_message("bad", delay=1, **ONCE)
        await dead(bench, 3)
        seen_ms = await bench.admin.last_death_ms()
        clock.advance(1)
        await bench.queue.run_until_idle()

        count = await getattr(bench.admin, verb)("bad", died_by_ms=seen_ms)

        assert [record.id for record in await bench.admin.dead_letters()] == [older]
        for wrong in ("now", True, 1 << 63, 10**5_000):
            with pytest.raises(InvalidOptionError, match=r"died_by_ms is .*, allowed is a time"):
                await getattr(bench.admin, verb)("bad", died_by_ms=wrong)
    assert count == 3


async def test_progress_that_raises_ends_it_after_a_slice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvqueue_fastapi.admin.SLICE", 2)

    def stop(count: int) -> None:
        raise TimeoutError(count)

    async with running(tmp_path, callbacks={"bad": fail}, listen=False) as bench:
        ids = await dead(bench, 6)

        with pytest.raises(TimeoutError, match="2"):
            await bench.admin.discard_all("bad", progress=stop)

        assert [record.id for record in await bench.admin.dead_letters()] == ids[2:]


async def test_requeue_all_ends_though_everything_dies_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvqueue_fastapi.admin.SLICE", 5)
    async with running(tmp_path, callbacks={"bad": fail}, listen=False) as bench:
        requeue = bench.admin.requeue

        async def requeue_and_die(ids: list[int]) -> dict[int, int]:
            requeued = await requeue(ids)
            await bench.queue.run_until_idle()
            return requeued

        await dead(bench, 12)
        monkeypatch.setattr(bench.admin, "requeue", requeue_and_die)
        async with asyncio.timeout(10):
            assert await bench.admin.requeue_all("bad") == 12


async def test_discarded_messages_and_dead_letters_are_gone(tmp_path: Path) -> None:
    async with running(tmp_path, callbacks={"bad": fail}, listen=False) as bench:
        (old,) = await dead(bench, 1)
        waiting, delayed = await bench.queue.send_messages([("n", 1), ("n", 2)])

        gone = await bench.admin.discard([old, delayed, waiting, 99, old])

        assert not await bench.admin.messages()
        assert not await bench.admin.dead_letters()
    assert gone == [old, delayed, waiting]


async def test_running_message_is_neither_discarded_nor_cancelled(tmp_path: Path) -> None:
    seen, go_on = Seen(), asyncio.Event()

    async def handle() -> None:
        seen.add("call")
        await go_on.wait()

    async with running(tmp_path, callbacks={"n": handle}) as bench:
        message_id = await bench.queue.send_message("n")
        await seen.reach(1)

        assert await bench.admin.discard([message_id]) == []
        with pytest.raises(KvQueueError, match="cannot be cancelled: it runs already"):
            await bench.admin.cancel(message_id)
        go_on.set()


async def test_dead_letter_is_not_cancelled(tmp_path: Path) -> None:
    async with running(tmp_path, callbacks={"bad": fail}, listen=False) as bench:
        (old,) = await dead(bench, 1)

        with pytest.raises(KvQueueError, match="cannot be cancelled: it is a dead letter"):
            await bench.admin.cancel(old)

        assert await bench.admin.message(old) is not None


async def test_cancelled_head_lets_its_successor_go(tmp_path: Path) -> None:
    seen = Seen()
    async with running(tmp_path, callbacks={"n": seen.take}) as bench:
        head = await bench.queue.send_message("n", "head", ordering_key="k", delay=60)
        await bench.queue.send_message("n", "next", ordering_key="k")

        await bench.admin.cancel(head)

        assert await seen.stay(1) == ["next"]


@pytest.mark.parametrize("is_dead", [True, False], ids=["dead", "waiting"])
async def test_discarding_frees_the_idempotency_key(
    tmp_path: Path,
    is_dead: bool,  # noqa: FBT001 because pytest gives it
) -> None:
    async with running(tmp_path, callbacks={"bad": fail}, listen=False) as bench:
        first = await bench.queue.send_message("bad", 1, idempotency_key="k", **ONCE)
        if is_dead:
            await bench.queue.run_until_idle()
        kept = await bench.queue.send_message("bad", 1, idempotency_key="k", **ONCE)
        await bench.admin.discard([first])

        fresh = await bench.queue.send_message("bad", 2, idempotency_key="k")

    assert kept == first
    assert fresh != first


async def test_pause_and_resume_can_be_repeated(tmp_path: Path) -> None:
    seen = Seen()
    async with running(tmp_path, callbacks={"n": seen.take}) as bench:
        await bench.admin.pause("n")
        await bench.admin.pause("n")
        await bench.queue.send_message("n", 1)
        (counts,) = await bench.admin.counts()
        await bench.admin.resume("n")
        await bench.admin.resume("n")
        await bench.admin.resume("never paused")

        assert await seen.stay(1) == [1]
    assert counts.paused


async def test_pause_outlives_a_reopening(tmp_path: Path) -> None:
    seen = Seen()
    async with running(tmp_path, listen=False) as bench:
        await bench.admin.pause("n")
        await bench.queue.send_message("n", 1)

    async with running(tmp_path, callbacks={"n": seen.take}) as bench:
        await seen.stay(0)
        await bench.admin.resume("n")

        assert await seen.reach(1) == [1]


@pytest.mark.parametrize("message_type", ["", None, "a\n", 7])
async def test_only_a_message_type_can_be_paused(tmp_path: Path, message_type: Any) -> None:
    async with running(tmp_path, listen=False) as bench:
        for change in (bench.admin.pause, bench.admin.resume):
            with pytest.raises(InvalidOptionError, match="Message type"):
                await change(message_type)

        assert await bench.admin.counts() == []


async def test_listeners_are_those_who_listen_now(tmp_path: Path) -> None:
    seen = Seen()

    async def handle() -> None:
        seen.add("call")
        await asyncio.sleep(60)

    async with (
        running(tmp_path, listen=False) as bench,
        running(tmp_path, callbacks={"b": handle, "a": handle}, shutdown_timeout_s=0),
    ):
        await bench.queue.send_message("b")
        await seen.reach(1)
        (listener,) = await bench.admin.listeners()

    assert (listener.types, listener.leases) == (("a", "b"), 1)
    assert (listener.host, listener.pid) == (socket.gethostname(), os.getpid())
    async with running(tmp_path, listen=False) as bench:
        assert await bench.admin.listeners() == []


async def test_dead_letters_and_idempotency_keys_are_swept_when_their_time_is_over(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    send = Send("n", "1", options='{"backoff_schedule_ms": []}')
    once = send._replace(idempotency=Idempotency("k", b"digest", window_ms=90_000))
    async with by_hand(tmp_path, clock, dead_letter_retention_s=100, max_crashes=1) as hand:
        await hand.store.commit(AtomicWrite(sends=[once]))
        for advance_ms, kept in ((60_000, True), (99_999, True), (1, False)):
            await hand.claim("n", lease_ms=60_000)
            clock.advance(advance_ms)
            await hand.claim("n")
            await asyncio.to_thread(hand.store.sweep)

            assert (await hand.store.admin.show(1) is not None) is kept


def no_retry(unhandled: str = "leave") -> dict[str, Any]:
    return {"backoff_schedule_s": (), "unhandled": unhandled}


async def all_dead(bench: Bench, count: int) -> bool:
    return sum(counts.dead for counts in await bench.admin.counts()) == count


@pytest.mark.parametrize("name", ["type", "type_pattern", "ordering_key", "search", "error"])
@pytest.mark.parametrize("value", ["\ud800", ["a"], 7])
async def test_a_filter_that_is_no_text_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    async with running(tmp_path, listen=False) as bench:
        with pytest.raises(InvalidOptionError, match=f"{name} is"):
            await bench.admin.messages(**{name: value})


async def test_counts_remember_a_type_whose_messages_are_all_handled(tmp_path: Path) -> None:
    seen = Seen()

    async def handle(data: int) -> None:
        seen.add(data)

    async with running(tmp_path, callbacks={"n": handle}, listen=False) as bench:
        await bench.queue.send_message("n", 1)
        await bench.queue.run_until_idle()

        (counts,) = await bench.admin.counts()

    assert seen == [1]
    assert (counts.type, counts.ready, counts.running, counts.dead) == ("n", 0, 0, 0)
