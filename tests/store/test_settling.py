"""Settling: how a claim ends, and that only its holder can end it."""

import json

import pytest

from kvqueue_fastapi.keeper import AttemptError, Query, State
from kvqueue_fastapi.model import Failure, Outcome
from kvqueue_fastapi.store import AnyStore
from tests.store.given import (
    LEASE_MS,
    ManualClock,
    claim,
    claimed_ids,
    crash,
    ending,
    mail,
    send,
    settle,
    shown,
)

OOPS = Failure("ValueError: oops", "Traceback …")
EVERYTHING = Query(limit=1_000)


async def test_done_message_is_gone(store: AnyStore) -> None:
    (sent,) = await send(store, mail())
    (held,) = await claim(store)

    assert await settle(store, held)
    assert await store.admin.show(sent) is None


async def test_released_message_is_ready_again_without_a_trace(store: AnyStore) -> None:
    (sent,) = await send(store, mail("1", priority=3))
    before = await shown(store, sent)
    (held,) = await claim(store)

    assert await settle(store, held, Outcome.RELEASE)
    assert await shown(store, sent) == before
    assert [one.attempt for one in await claim(store)] == [1]


async def test_released_message_keeps_its_place(store: AnyStore, clock: ManualClock) -> None:
    first, second = await send(store, mail(), mail())
    (held,) = await claim(store, limit=1)
    clock.pass_ms(5)

    await settle(store, held, Outcome.RELEASE)

    assert await claimed_ids(store) == [first, second]


async def test_failed_message_comes_again_after_its_delay(
    store: AnyStore, clock: ManualClock
) -> None:
    (sent,) = await send(store, mail())
    (held,) = await claim(store)

    await settle(store, held, Outcome.RETRY, delay_ms=5_000, failure=OOPS)
    clock.pass_ms(4_999)
    early = await claim(store)
    clock.pass_ms(1)
    (again,) = await claim(store)

    assert early == []
    assert (again.id, again.attempt, again.data) == (sent, 2, held.data)


async def test_failed_message_tells_what_went_wrong_each_time(
    store: AnyStore, clock: ManualClock
) -> None:
    (sent,) = await send(store, mail())
    begun_ms = clock.now_ms
    for failure in (OOPS, Failure("second")):
        (held,) = await claim(store)
        await settle(store, held, Outcome.RETRY, delay_ms=10, failure=failure)
        clock.pass_ms(10)

    record = await shown(store, sent)

    assert record.due_at_ms == begun_ms + 20
    assert record.errors == (
        AttemptError(1, begun_ms, "ValueError: oops", "Traceback …"),
        AttemptError(2, begun_ms + 10, "second", ""),
    )


async def test_failed_message_without_delay_is_ready_at_once(store: AnyStore) -> None:
    await send(store, mail())
    (held,) = await claim(store)

    await settle(store, held, Outcome.RETRY, failure=OOPS)

    assert [one.attempt for one in await claim(store)] == [2]


async def test_deferred_message_spends_no_attempt(store: AnyStore, clock: ManualClock) -> None:
    (sent,) = await send(store, mail())
    (held,) = await claim(store)

    await settle(store, held, Outcome.LATER, delay_ms=7)
    record = await shown(store, sent)
    early = await claim(store)
    clock.pass_ms(7)

    assert (record.state, record.attempt, record.errors) == (State.DELAYED, 0, ())
    assert record.due_at_ms == clock.now_ms
    assert early == []
    assert [one.attempt for one in await claim(store)] == [1]


async def test_deferred_message_can_be_deferred_for_ever(
    store: AnyStore, clock: ManualClock
) -> None:
    await send(store, mail())

    for _ in range(30):
        (held,) = await claim(store)
        await settle(store, held, Outcome.LATER, delay_ms=1)
        clock.pass_ms(1)

    assert [one.attempt for one in await claim(store)] == [1]


@pytest.mark.parametrize("outcome", list(Outcome))
async def test_stale_token_changes_nothing(
    store: AnyStore, clock: ManualClock, outcome: Outcome
) -> None:
    (sent,) = await send(store, mail(options=json.dumps({"keys_if_undelivered": ["aa"]})))
    stale = await crash(store, clock)
    (live,) = await claim(store)
    before = await shown(store, sent)

    held = await settle(store, stale, outcome, delay_ms=5, failure=OOPS)

    assert not held
    assert await shown(store, sent) == before
    assert await store.admin.list_dead_letters(EVERYTHING) == []
    assert await settle(store, live)


@pytest.mark.parametrize("outcome", list(Outcome))
async def test_message_is_settled_once_only(store: AnyStore, outcome: Outcome) -> None:
    (sent,) = await send(store, mail())
    (held,) = await claim(store)
    await settle(store, held, outcome, delay_ms=5, failure=OOPS)
    before = await store.admin.show(sent)

    again = [await settle(store, held, any_outcome, delay_ms=9) for any_outcome in Outcome]

    assert again == [False] * len(Outcome)
    assert await store.admin.show(sent) == before


@pytest.mark.parametrize("outcome", list(Outcome))
async def test_stale_settlement_does_not_touch_its_neighbours(
    store: AnyStore, clock: ManualClock, outcome: Outcome
) -> None:
    ids = await send(store, mail())
    stale = await crash(store, clock)
    ids += await send(store, *(mail() for _ in range(6)))
    held = await claim(store)
    by_id = {one.id: one for one in held}
    others = [by_id[number] for number in ids[1:]]

    answers = await store.settle(
        [*map(ending, others[:3]), ending(stale, outcome, failure=OOPS), *map(ending, others[3:])]
    )

    assert answers == [True, True, True, False, True, True, True]
    assert [one.id for one in await store.admin.list_messages(EVERYTHING)] == [stale.id]
    assert await settle(store, by_id[stale.id])


async def test_same_settlement_twice_in_a_batch_holds_once(store: AnyStore) -> None:
    await send(store, mail(), mail())
    first, second = await claim(store)

    answers = await store.settle([ending(first), ending(first), ending(second)])

    assert answers == [True, False, True]


async def test_settlements_of_several_claims_and_outcomes_go_together(
    store: AnyStore, clock: ManualClock
) -> None:
    ids = await send(store, *(mail() for _ in range(5)))
    held = [one for _ in ids for one in await claim(store, limit=1)]
    endings = zip(held, Outcome, strict=True)

    answers = await store.settle([ending(o, how, delay_ms=1, failure=OOPS) for o, how in endings])
    clock.pass_ms(1)

    assert answers == [True] * 5
    assert sorted(await claimed_ids(store)) == [ids[1], ids[2], ids[3]]


async def test_settling_nothing_is_fine(store: AnyStore) -> None:
    assert await store.settle([]) == []


async def test_thread_without_event_loop_can_settle(store: AnyStore) -> None:
    await send(store, mail(), mail())
    first, second = await claim(store)

    answers = store.settle_now([ending(first), ending(second), ending(second)])

    assert answers == [True, True, False]
    assert await store.count_pending(most=9) == 0


async def test_settling_after_the_lease_but_before_anyone_took_it_over_holds(
    store: AnyStore, clock: ManualClock
) -> None:
    await send(store, mail())
    (held,) = await claim(store)

    clock.pass_ms(LEASE_MS + 1)

    assert await settle(store, held)
