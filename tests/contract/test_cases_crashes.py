"""Cases 87 to 95: leases, crashes, and how many run at once."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kvqueue_fastapi import KvQueueSettings, on_queue_message
from kvqueue_fastapi.model import AtomicWrite, Claim, Failure, Outcome, Send, Settlement
from kvqueue_fastapi.store import open_store
from tests.contract.harness import Crowd, Hand, ManualClock, Seen, by_hand, running, until

LEASE_MS = 30_000
PLAIN = AtomicWrite(sends=[Send("n", "1")])
NO_RETRY = AtomicWrite(sends=[Send("n", "1", options='{"backoff_schedule_ms": []}')])


@on_queue_message("n")
async def fails() -> None:
    raise ValueError


@pytest.mark.case(87)
async def test_messages_of_handlers_that_never_end_come_again_after_a_reopening(
    place: str,
) -> None:
    begun, again = Seen(), Seen()

    async def never(data: int) -> None:
        begun.add(data)
        await asyncio.Event().wait()

    async with running(place, callbacks={"n": never}, shutdown_timeout_s=0) as bench:
        await bench.queue.send_messages([("n", number) for number in range(3)])
        await begun.reach(3)

    async with running(place, callbacks={"n": again.take}):
        assert sorted(await again.stay(3)) == [0, 1, 2]


@pytest.mark.case(89)
async def test_handler_that_takes_three_leases_is_started_once(place: str) -> None:
    seen, ended = Seen(), Seen()

    async def slow(data: int) -> None:
        seen.add(data)
        await asyncio.sleep(3.1)
        ended.add(data)

    async with (
        running(place, callbacks={"n": slow}, lease_s=1) as bench,
        running(place, callbacks={"n": slow}, lease_s=1),
    ):
        await bench.queue.send_message("n", 1)
        await ended.stay(1)

    assert seen == [1]


@pytest.mark.case(90)
async def test_message_that_waited_long_is_not_taken_twice(tmp_path: Path) -> None:
    clock = ManualClock()
    async with by_hand(tmp_path, clock) as first:
        await first.store.commit(PLAIN)
        clock.advance(2 * LEASE_MS)

        taken = await first.claim("n")
        async with by_hand(tmp_path, clock) as second:
            clock.advance(LEASE_MS - 1)
            again = await second.claim("n")

    assert len(taken) == 1
    assert again == []


@pytest.mark.case(91)
async def test_crash_spends_no_retry(tmp_path: Path) -> None:
    clock = ManualClock()
    async with by_hand(tmp_path, clock, fails) as hand:
        await hand.store.commit(NO_RETRY)
        await crash(hand, clock)

        (claim,) = await hand.claim()
        settlement = await hand.handle(claim)

    assert (claim.attempt, claim.crashes) == (2, 1)
    assert settlement is not None
    assert settlement.outcome is Outcome.DEAD


@pytest.mark.case(91)
async def test_crashes_leave_the_whole_schedule_to_the_handler(tmp_path: Path) -> None:
    clock = ManualClock()
    ends: list[Outcome] = []
    async with by_hand(tmp_path, clock, fails, backoff_schedule_s=(0, 0)) as hand:
        await hand.store.commit(PLAIN)
        for _ in range(3):
            await crash(hand, clock)
            (claim,) = await hand.claim()
            settlement = await hand.handle(claim)
            assert settlement is not None
            await hand.store.settle([settlement])
            ends.append(settlement.outcome)

    assert ends == [Outcome.RETRY, Outcome.RETRY, Outcome.DEAD]


@pytest.mark.case(91)
async def test_message_that_has_crashed_its_holder_too_often_is_a_dead_letter(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    async with by_hand(tmp_path, clock, max_crashes=3) as hand:
        await hand.store.commit(NO_RETRY)
        for _ in range(3):
            await crash(hand, clock)

        assert await hand.claim("n") == []
        dead = await hand.store.admin.show(1)

    assert dead is not None
    assert (dead.state, dead.crashes) == ("dead", 3)
    assert dead.reason is not None
    assert "crash 3 of 3" in dead.reason


@pytest.mark.case(91)
async def test_message_with_crashes_on_its_record_runs_apart_and_its_neighbours_go_on(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    async with by_hand(tmp_path, clock) as hand:
        await hand.store.commit(AtomicWrite(sends=[Send("n", str(n)) for n in range(5)]))
        after_one = await crash(hand, clock)
        after_two = await crash(hand, clock)
        await hand.store.commit(AtomicWrite(sends=[Send("n", "5")]))

        claims = await hand.claim("n")

    assert [claim.data for claim in after_one] == ["0", "1", "2", "3", "4"]
    assert [claim.data for claim in after_two] == ["0", "1", "2", "3", "4"]
    assert [claim.data for claim in claims] == ["0", "5"]


@pytest.mark.case(92)
async def test_never_more_handlers_run_than_the_concurrency_allows(place: str) -> None:
    seen, crowd = Seen(), Crowd()

    async def handle(data: int) -> None:
        crowd.enter("all")
        await asyncio.sleep(0.001 * (data % 3))
        crowd.leave("all")
        seen.add(data)

    async with running(place, callbacks={"a": handle, "b": handle}, concurrency=7) as bench:
        await bench.queue.send_messages([("ab"[n % 2], n) for n in range(300)])
        await seen.reach(300)

    assert crowd.most["all"] == 7
    assert KvQueueSettings.model_fields["concurrency"].default == 100


@pytest.mark.case(93)
@pytest.mark.parametrize(
    "late",
    [
        Settlement(0, 0),
        Settlement(0, 0, Outcome.RETRY, 0, Failure("late")),
        Settlement(0, 0, Outcome.LATER, 5),
        Settlement(0, 0, Outcome.RELEASE),
        Settlement(0, 0, Outcome.DEAD, failure=Failure("late")),
    ],
    ids=lambda settlement: settlement.outcome.name,
)
async def test_whatever_comes_after_the_lease_was_lost_changes_nothing(
    tmp_path: Path, late: Settlement
) -> None:
    clock = ManualClock()
    async with by_hand(tmp_path, clock) as hand:
        await hand.store.commit(PLAIN)
        (stale,) = await crash(hand, clock)
        (fresh,) = await hand.claim("n")

        kept = await hand.store.settle([late._replace(id=stale.id, token=stale.token)])
        record = await hand.store.admin.show(fresh.id)
        ended = await hand.store.settle([Settlement(fresh.id, fresh.token)])

    assert (kept, ended) == ([False], [True])
    assert record is not None
    assert (record.state, record.attempt) == ("running", 2)


@pytest.mark.case(95)
async def test_three_writers_on_one_file_lose_nothing_and_see_no_busy_error(
    tmp_path: Path,
) -> None:
    seen = Seen()
    stores = [await open_store(str(tmp_path / "q.db"), KvQueueSettings()) for _ in range(3)]

    async def write(writer: int) -> None:
        for start in range(0, 3_000, 100):
            sends = (Send("n", str(3_000 * writer + n)) for n in range(start, start + 100))
            await asyncio.gather(
                *(stores[writer].commit(AtomicWrite(sends=[send])) for send in sends)
            )

    async with running(tmp_path, callbacks={"n": seen.take}):
        await asyncio.gather(*map(write, range(3)))
        came = await seen.stay(9_000)
    await asyncio.gather(*(store.close() for store in stores))

    assert sorted(came) == list(range(9_000))


async def test_claims_are_fenced_so_that_a_lost_lease_is_not_extended(tmp_path: Path) -> None:
    clock = ManualClock()
    async with by_hand(tmp_path, clock) as hand:
        await hand.store.commit(PLAIN)
        (stale,) = await crash(hand, clock)
        (fresh,) = await hand.claim("n")

        leases = [(stale.id, stale.token), (fresh.id, fresh.token)]
        lost = await asyncio.to_thread(hand.store.extend, leases[:1], LEASE_MS)
        kept = await asyncio.to_thread(hand.store.extend, leases[1:], LEASE_MS)

    assert (lost, kept) == ({stale.id}, frozenset())


async def test_frozen_peers_message_is_handled_and_its_late_end_is_only_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen, go_on = Seen(), asyncio.Event()

    async def handle() -> None:
        if seen.add("call") == 1:
            await go_on.wait()

    async with running(tmp_path, callbacks={"n": handle}) as bench:
        message_id = await bench.queue.send_message("n")
        await seen.reach(1)
        await steal(tmp_path)
        await seen.reach(2)
        go_on.set()
        await until(lambda: said(caplog, "settled too late"))

        assert await bench.admin.message(message_id) is None
    assert len(seen) == 2


async def crash(hand: Hand, clock: ManualClock) -> list[Claim]:
    """Claim what there is, be it isolated, and let the lease end."""
    claims = await hand.claim("n") or await hand.claim("n", isolated=True)
    clock.advance(LEASE_MS)
    return claims


async def steal(where: Path) -> None:
    """End all leases, as when this process had been frozen."""

    def expire(connection: Any) -> None:
        connection.execute("UPDATE kvqueue_messages SET lease_until_ms = 0 WHERE state = 3")

    store = await open_store(str(where / "q.db"), KvQueueSettings())
    await store._transact(expire)
    await store.close()


async def said(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return text in caplog.text
