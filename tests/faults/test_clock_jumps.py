"""The wall clock is set forward an hour, or back an hour, while messages are on their way.

Leases are kept by a clock that never jumps, so no live handler is doubled. What is stored with
a wall-clock time follows the wall clock: delays, retries, windows, retention, expiry.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from kvqueue_fastapi import Kv, KvQueueSettings, Message, RetryLater
from kvqueue_fastapi.model import Outcome
from kvqueue_fastapi.store import AnyStore, open_store
from tests.contract.harness import Seen, running
from tests.faults.clocks import HOUR_MS, HOUR_S, JumpingClock, TwoClocks
from tests.processes.fleet import Fleet
from tests.store.given import claim, claimed_ids, crash, mail, once, send, settle

BOTH_WAYS = pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S], ids=["forward", "back"])
LEASE_S = 1


@pytest.fixture
def jumping(tmp_path: Path) -> JumpingClock:
    return JumpingClock(tmp_path / "clock")


@pytest.fixture
def clock() -> TwoClocks:
    return TwoClocks()


@pytest.fixture
async def store(clock: TwoClocks) -> AsyncIterator[AnyStore]:
    settings = KvQueueSettings(max_crashes=3, dead_letter_retention_s=2 * HOUR_S)
    store = await open_store(":memory:", settings, clock)
    yield store
    await store.close()


@pytest.fixture
async def kv(clock: TwoClocks) -> AsyncIterator[Kv]:
    async with Kv.open(":memory:", clock=clock) as kv:
        yield kv


# --- who holds a message keeps it ---


@BOTH_WAYS
async def test_no_live_handler_of_one_process_is_doubled(
    tmp_path: Path, jumping: JumpingClock, jump_s: int
) -> None:
    begun, ended = Seen(), Seen()

    async def slow(message: Message) -> None:
        begun.add(message.id)
        await asyncio.sleep(2 * LEASE_S)
        ended.add(message.lease_lost)

    here = {"callbacks": {"n": slow}, "modules": (jumping,), "lease_s": LEASE_S}
    async with running(tmp_path, **here) as bench, running(tmp_path, **here):
        message_id = await bench.queue.send_message("n")
        await begun.reach(1)
        jumping.jump(jump_s)
        await ended.reach(1)

        assert await begun.stay(1) == [message_id]
    assert ended == [False]


@BOTH_WAYS
async def test_no_live_handler_of_several_processes_is_doubled(
    fleet: Fleet, jumping: JumpingClock, jump_s: int
) -> None:
    role = {"role": "listen_by_a_wrong_clock", "clock": str(jumping.file)}
    for _ in range(2):
        await fleet.start(**role, settings={"lease_s": LEASE_S, "concurrency": 3})
    async with running(str(fleet.database), listen=False, modules=(jumping,)) as bench:
        ids = await bench.queue.send_messages([("work", {"seconds": 2 * LEASE_S})] * 4)
        ids += await bench.queue.send_messages([("thread", {"seconds": 2 * LEASE_S})] * 2)
        await fleet.until(lambda: len(fleet.ledger.lines("begun")) >= 6)

        jumping.jump(jump_s)
        await fleet.start(**role, settings={"lease_s": LEASE_S})  # its start looks for the dead
        await fleet.ended(*ids)

    assert fleet.ledger.count("begun") == dict.fromkeys(ids, 1)
    assert {line.lost for line in fleet.ledger.lines("ended")} == {False}


async def test_lease_of_a_frozen_holder_ends_on_time_after_a_jump_back(
    store: AnyStore, clock: TwoClocks
) -> None:
    (message_id,) = await send(store, mail())
    (held,) = await claim(store, lease_ms=1_000)
    clock.pass_ms(500)
    store.extend([(held.id, held.token)], 1_000)

    clock.jump_ms(-HOUR_MS)
    clock.pass_ms(999)
    too_early = await claimed_ids(store)
    clock.pass_ms(1)

    assert (too_early, await claimed_ids(store)) == ([], [message_id])


# --- what was not delayed does not wait ---


async def test_message_that_was_ready_before_a_jump_back_stays_ready(
    store: AnyStore, clock: TwoClocks
) -> None:
    ids = await send(store, mail(), mail())
    clock.jump_ms(-HOUR_MS)

    assert await claimed_ids(store) == ids


@pytest.mark.parametrize("outcome", [Outcome.DONE, Outcome.DEAD])
async def test_ordering_key_goes_on_after_a_jump_back(
    store: AnyStore, clock: TwoClocks, outcome: Outcome
) -> None:
    ids = await send(store, *[mail(ordering_key="k") for _ in range(3)])
    (head,) = await claim(store)
    clock.jump_ms(-HOUR_MS)

    await settle(store, head, outcome)
    (second,) = await claim(store)
    await settle(store, second, outcome)

    assert [head.id, second.id, *await claimed_ids(store)] == ids


async def test_ordering_key_goes_on_behind_a_head_that_is_discarded_after_a_jump_back(
    store: AnyStore, clock: TwoClocks
) -> None:
    head, second = await send(store, mail(ordering_key="k"), mail(ordering_key="k"))
    clock.jump_ms(-HOUR_MS)

    await store.admin.discard([head])

    assert await claimed_ids(store) == [second]


async def test_ordering_key_goes_on_behind_poison_after_a_jump_back(
    store: AnyStore, clock: TwoClocks
) -> None:
    _, second = await send(store, mail(ordering_key="k"), mail(ordering_key="k"))
    clock.jump_ms(-HOUR_MS)

    await crash(store, clock, times=3)

    assert await claimed_ids(store) == [second]


@pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.LATER, Outcome.RELEASE])
async def test_message_that_comes_again_at_once_does_so_after_a_jump_back(
    store: AnyStore, clock: TwoClocks, outcome: Outcome
) -> None:
    (message_id,) = await send(store, mail())
    (held,) = await claim(store)
    clock.jump_ms(-HOUR_MS)

    await settle(store, held, outcome, delay_ms=0)

    assert await claimed_ids(store) == [message_id]


async def test_successor_with_a_delay_of_its_own_waits_for_its_time_by_the_wall_clock(
    store: AnyStore, clock: TwoClocks
) -> None:
    _, second = await send(store, mail(ordering_key="k"), mail(ordering_key="k", delay_ms=1_000))
    (head,) = await claim(store)
    clock.jump_ms(-HOUR_MS)
    await settle(store, head)

    clock.pass_ms(HOUR_MS + 999)
    too_early = await claimed_ids(store)
    clock.pass_ms(1)

    assert (too_early, await claimed_ids(store)) == ([], [second])


# --- what was delayed follows the wall clock ---


async def test_jump_forward_makes_delayed_messages_due_at_once_and_in_their_order(
    store: AnyStore, clock: TwoClocks
) -> None:
    late, early, beyond = await send(
        store, mail(delay_ms=HOUR_MS), mail(delay_ms=60_000), mail(delay_ms=HOUR_MS + 1)
    )

    clock.jump_ms(HOUR_MS)

    assert await claimed_ids(store) == [early, late]
    clock.pass_ms(1)
    assert await claimed_ids(store) == [beyond]


async def test_jump_back_makes_delayed_messages_wait_for_their_time(
    store: AnyStore, clock: TwoClocks
) -> None:
    (message_id,) = await send(store, mail(delay_ms=60_000))

    clock.jump_ms(-HOUR_MS)
    clock.pass_ms(HOUR_MS + 59_999)
    too_early = await claimed_ids(store)
    clock.pass_ms(1)

    assert (too_early, await claimed_ids(store)) == ([], [message_id])


@pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.LATER])
async def test_retries_follow_the_wall_clock_both_ways(
    store: AnyStore, clock: TwoClocks, outcome: Outcome
) -> None:
    for _ in range(2):
        await send(store, mail())
        (held,) = await claim(store)
        await settle(store, held, outcome, delay_ms=60_000)
        clock.jump_ms(-HOUR_MS)

    assert await claimed_ids(store) == []
    clock.jump_ms(HOUR_MS)
    clock.pass_ms(60_000)
    assert await claimed_ids(store) == [2]
    clock.jump_ms(HOUR_MS)
    assert await claimed_ids(store) == [1]


async def test_listener_that_waits_for_a_delayed_message_notices_a_jump_forward(
    tmp_path: Path, jumping: JumpingClock
) -> None:
    seen = Seen()
    async with running(
        tmp_path, callbacks={"n": seen.take}, modules=(jumping,), poll_interval_s=0.2
    ) as bench:
        await bench.queue.send_message("n", "delayed", delay=HOUR_S)
        await seen.stay(0)

        jumping.jump(HOUR_S)

        assert await seen.reach(1) == ["delayed"]


async def test_listener_goes_on_in_order_through_jumps_both_ways(
    tmp_path: Path, jumping: JumpingClock
) -> None:
    seen = Seen()

    async def handle(number: int) -> None:
        if seen.add(number) == 1 and number % 10 == 0:
            raise RetryLater(0)

    async with running(tmp_path, callbacks={"n": handle}, modules=(jumping,)) as bench:
        for number in range(40):
            await bench.queue.send_message("n", number, ordering_key="k")
            if number % 5 == 0:
                jumping.jump((-1) ** number * HOUR_S * number)
        came = await seen.stay(44)

    assert [number for place, number in enumerate(came) if number not in came[:place]] == list(
        range(40)
    )


# --- what is kept for a time is kept by the wall clock ---


async def test_idempotency_window_follows_the_wall_clock(store: AnyStore, clock: TwoClocks) -> None:
    (first,) = await send(store, once("order-1"))

    clock.jump_ms(-HOUR_MS)
    clock.pass_ms(24 * HOUR_MS)
    after_a_jump_back = await send(store, once("order-1"))
    clock.jump_ms(HOUR_MS)
    after_a_jump_forward = await send(store, once("order-1"))

    assert after_a_jump_back == [first]
    assert after_a_jump_forward == [first + 1]


async def test_dead_letter_retention_follows_the_wall_clock(
    store: AnyStore, clock: TwoClocks
) -> None:
    await send(store, mail())
    (held,) = await claim(store)
    await settle(store, held, Outcome.DEAD)

    clock.jump_ms(-HOUR_MS)
    clock.pass_ms(2 * HOUR_MS)
    after_a_jump_back = store.sweep()
    clock.jump_ms(HOUR_MS)

    assert (after_a_jump_back, store.sweep()) == (0, 1)


async def test_key_that_expires_follows_the_wall_clock(kv: Kv, clock: TwoClocks) -> None:
    await kv.set(("session",), "ada", expire_in=HOUR_S)

    clock.jump_ms(HOUR_MS)
    forward = (await kv.get(("session",))).value
    clock.jump_ms(-2 * HOUR_MS)
    clock.pass_ms(2 * HOUR_MS - 1)
    back = (await kv.get(("session",))).value
    clock.pass_ms(1)

    assert (forward, back, (await kv.get(("session",))).value) == (None, "ada", None)


async def test_versionstamps_grow_through_a_jump_back(kv: Kv, clock: TwoClocks) -> None:
    before = await kv.set(("a",), 1)
    clock.jump_ms(-HOUR_MS)
    after = await kv.set(("a",), 2)

    assert after.versionstamp > before.versionstamp


async def test_watch_shows_the_expiry_that_a_jump_forward_brings(kv: Kv, clock: TwoClocks) -> None:
    await kv.set(("session",), "ada", expire_in=HOUR_S)

    async with asyncio.timeout(5), aclosing(kv.watch([("session",)])) as shown:
        assert (await anext(shown))[0].value == "ada"
        await asyncio.sleep(0.1)  # until it waits for the time that it knows of
        clock.jump_ms(HOUR_MS)
        assert (await anext(shown))[0].value is None
