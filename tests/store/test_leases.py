"""Leases: hidden while they last, extended by their holder, and what a crash leaves behind."""

from collections.abc import AsyncIterator

import pytest

from kvqueue_fastapi.keeper import Query, State
from kvqueue_fastapi.model import Outcome, Send, Wanted
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import AnyStore, open_store
from kvqueue_fastapi.store.base import ClaimRequest
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


async def test_extended_lease_hides_message_longer(store: AnyStore, clock: ManualClock) -> None:
    await send(store, mail())
    (held,) = await claim(store)
    clock.pass_ms(LEASE_MS - 1)

    lost = store.extend([(held.id, held.token)], LEASE_MS)
    clock.pass_ms(LEASE_MS - 1)
    hidden = await claim(store)
    clock.pass_ms(1)

    assert (lost, hidden) == (frozenset(), [])
    assert await claimed_ids(store) == [held.id]


async def test_extending_tells_which_leases_were_lost(store: AnyStore, clock: ManualClock) -> None:
    await send(store, *(mail() for _ in range(4)))
    settled, taken, *live = await claim(store)
    await settle(store, settled)
    store.extend([(one.id, one.token) for one in live], 9 * LEASE_MS)
    clock.pass_ms(LEASE_MS)
    await claim(store)

    leases = [(one.id, one.token) for one in (settled, taken, *live)]

    assert store.extend(leases, LEASE_MS) == {settled.id, taken.id}


async def test_extending_with_a_stale_token_prolongs_nothing(
    store: AnyStore, clock: ManualClock
) -> None:
    await send(store, mail())
    stale = await crash(store, clock)
    (live,) = await claim(store)

    lost = store.extend([(stale.id, stale.token)], 9 * LEASE_MS)
    clock.pass_ms(LEASE_MS)

    assert lost == {live.id}
    assert await claimed_ids(store) == [live.id]


async def test_extending_nothing_is_fine(store: AnyStore) -> None:
    assert store.extend([], LEASE_MS) == frozenset()


async def test_lease_ends_by_the_clock_that_never_jumps(
    store: AnyStore, clock: ManualClock
) -> None:
    await send(store, mail())
    await claim(store)
    steady_ms = clock.steady_ms()
    clock.steady_ms = lambda: steady_ms  # type: ignore[method-assign]

    clock.pass_ms(9 * LEASE_MS)

    assert await claim(store) == []


@pytest.mark.parametrize(
    ("crashes", "state"), [(1, State.READY), (2, State.QUARANTINED), (3, State.ISOLATED)]
)
async def test_message_is_kept_apart_the_more_the_oftener_its_lease_was_lost(
    store: AnyStore, clock: ManualClock, crashes: int, state: State
) -> None:
    (sent,) = await send(store, mail())
    await crash(store, clock, times=crashes)

    (held,) = await claim(store, isolated=state is State.ISOLATED)
    await settle(store, held, Outcome.RELEASE)
    record = await shown(store, sent)

    assert (held.attempt, held.crashes) == (crashes + 1, crashes)
    assert (record.state, record.attempt, record.crashes) == (state, crashes, crashes)
    assert {error.text for error in record.errors} == {
        "the lease ended: its holder was frozen or cut off"
    }


async def test_messages_come_together_after_their_first_crash(
    store: AnyStore, clock: ManualClock
) -> None:
    ids = await send(store, *(mail() for _ in range(3)))
    await claim(store)
    clock.pass_ms(LEASE_MS)

    assert await claimed_ids(store) == ids


async def test_quarantined_messages_come_one_at_a_time(store: AnyStore, clock: ManualClock) -> None:
    ids = await send(store, *(mail() for _ in range(3)))
    for _ in range(2):
        await claim(store)
        clock.pass_ms(LEASE_MS)

    assert [await claimed_ids(store) for _ in range(4)] == [*([number] for number in ids), []]


async def test_quarantined_message_comes_only_when_asked_for(
    store: AnyStore, clock: ManualClock
) -> None:
    await send(store, mail())
    await crash(store, clock, times=2)
    (sound,) = await send(store, mail())

    without = await claimed_ids(store, quarantined=False)
    asked = await claim(store, quarantined=True)

    assert without == [sound]
    assert [one.crashes for one in asked] == [2]


async def test_isolated_message_comes_only_when_it_is_asked_for_by_itself(
    store: AnyStore, clock: ManualClock
) -> None:
    (isolated,) = await send(store, mail())
    await crash(store, clock, times=3)
    (sound,) = await send(store, mail())

    told = await store.claim(ClaimRequest([Wanted("mail", 9)], limit=9, lease_ms=LEASE_MS))
    alone = await store.claim(
        ClaimRequest([Wanted("mail", 9)], limit=9, lease_ms=LEASE_MS, isolated=True)
    )

    assert ([one.id for one in told.claims], list(told.isolated)) == ([sound], ["mail"])
    assert ([one.id for one in alone.claims], list(alone.isolated)) == ([isolated], [])


async def test_isolated_messages_come_one_at_a_time_by_their_due_time_over_types(
    store: AnyStore, clock: ManualClock
) -> None:
    ids = await send(store, Send("b", "1"), Send("a", "1", delay_ms=1), mail(delay_ms=2))
    for kind in ("b", "a", "mail"):
        clock.pass_ms(1)
        await crash(store, clock, kind, times=3)

    found = [await claimed_ids(store, "a", "b", "mail", isolated=True) for _ in range(4)]

    assert found == [*([number] for number in ids), []]


async def test_isolated_message_of_a_type_that_is_not_wanted_is_not_told_of(
    store: AnyStore, clock: ManualClock
) -> None:
    await send(store, mail())
    await crash(store, clock, times=3)

    other = await store.claim(ClaimRequest([Wanted("other", 9)], limit=9, lease_ms=LEASE_MS))
    full = await store.claim(ClaimRequest([Wanted("mail", 0)], limit=9, lease_ms=LEASE_MS))

    assert (other.isolated, full.isolated) == ([], [])
    assert await claim(store, "other", isolated=True) == []


async def test_isolated_type_is_among_those_with_something_to_claim(
    store: AnyStore, clock: ManualClock
) -> None:
    await send(store, mail())
    await crash(store, clock, times=3)
    await claim(store, "other")

    assert await store.ready_types(after="", limit=9) == ["mail"]


async def test_quarantined_message_comes_first_and_beside_the_limit(
    store: AnyStore, clock: ManualClock
) -> None:
    (suspect,) = await send(store, mail())
    await crash(store, clock, times=2)
    sound = await send(store, mail(priority=9), mail(), mail())

    assert await claimed_ids(store, limit=2) == [suspect, *sound[:2]]


async def test_quarantined_message_takes_room_of_its_type(
    store: AnyStore, clock: ManualClock
) -> None:
    (suspect,) = await send(store, mail())
    await crash(store, clock, times=2)
    await send(store, mail(), mail(), Send("other", "1"))

    claimed = await store.claim(
        ClaimRequest([Wanted("mail", 1), Wanted("other", 1)], limit=9, lease_ms=LEASE_MS)
    )

    assert [(one.type, one.crashes) for one in claimed.claims] == [("mail", 2), ("other", 0)]
    assert claimed.claims[0].id == suspect


async def test_quarantined_message_of_a_type_without_room_waits(
    store: AnyStore, clock: ManualClock
) -> None:
    await send(store, mail())
    await crash(store, clock, times=2)

    claimed = await store.claim(ClaimRequest([Wanted("mail", 0)], limit=9, lease_ms=LEASE_MS))

    assert claimed.claims == []


async def test_quarantined_messages_come_by_their_due_time_over_types(
    store: AnyStore, clock: ManualClock
) -> None:
    await send(store, Send("a", "late", delay_ms=20), Send("b", "early", delay_ms=10))
    clock.pass_ms(20)
    for _ in range(2):
        await claim(store, "a", "b")
        clock.pass_ms(LEASE_MS)

    found = [one.data for _ in range(2) for one in await claim(store, "a", "b")]

    assert found == ["early", "late"]


@pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.LATER])
async def test_message_stays_quarantined_after_it_was_put_off(
    store: AnyStore, clock: ManualClock, outcome: Outcome
) -> None:
    await send(store, mail())
    await crash(store, clock, times=2)
    (held,) = await claim(store)
    await settle(store, held, outcome, delay_ms=10)
    clock.pass_ms(10)

    assert await claim(store, quarantined=False) == []
    assert [one.crashes for one in await claim(store)] == [2]


async def test_crash_spends_no_attempt_but_counts_as_delivery(
    store: AnyStore, clock: ManualClock
) -> None:
    await send(store, mail())
    await crash(store, clock)
    await crash(store, clock)

    (held,) = await claim(store)

    assert held.attempt - held.crashes == 1
    assert (held.attempt, held.crashes) == (3, 2)


async def test_message_that_crashes_too_often_is_dead(store: AnyStore, clock: ManualClock) -> None:
    (sent,) = await send(store, mail())
    await crash(store, clock, times=4)

    found = await claim(store)
    record = await shown(store, sent)

    assert found == []
    assert (record.state, record.attempt, record.crashes) == (State.DEAD, 4, 4)
    assert record.reason is not None
    assert record.reason.endswith("that was crash 4 of 4")
    assert [error.attempt for error in record.errors] == [1, 2, 3, 4]


async def test_only_those_whose_lease_ended_are_freed(store: AnyStore, clock: ManualClock) -> None:
    short, long = await send(store, mail(), mail())
    await claim(store, limit=1, lease_ms=10)
    await claim(store, limit=1, lease_ms=20)

    clock.pass_ms(10)

    assert await claimed_ids(store) == [short]
    assert (await shown(store, long)).state is State.RUNNING


async def test_more_leases_than_one_slice_end(store: AnyStore, clock: ManualClock) -> None:
    await send(store, *(mail() for _ in range(1_500)))
    await claim(store, limit=2_000, room=2_000)
    clock.pass_ms(LEASE_MS)

    first = await claim(store)
    second = await claim(store)

    (counts,) = await store.admin.counts()
    assert (len(first), len(second)) == (100, 100)
    assert (counts.ready, counts.running) == (1_300, 200)


async def test_leaving_listener_gives_back_what_it_holds(store: AnyStore) -> None:
    await send(store, mail(), mail())
    leaving, staying = [await store.enter_listener(["mail"]) for _ in range(2)]
    await claim(store, limit=1, listener_id=leaving)
    (kept,) = await claim(store, limit=1, listener_id=staying)

    store.leave_listener(leaving)
    (again,) = await claim(store)

    assert (again.attempt, again.crashes) == (1, 0)
    assert await settle(store, kept)


async def test_live_listener_is_not_taken_for_dead(store: AnyStore) -> None:
    await send(store, mail())
    listener = await store.enter_listener(["mail"])
    (held,) = await claim(store, listener_id=listener)

    assert store.end_leases_of_the_dead() == 0
    assert await settle(store, held)


async def test_settlement_of_a_listener_that_left_is_stale(store: AnyStore) -> None:
    await send(store, mail())
    listener = await store.enter_listener(["mail"])
    (held,) = await claim(store, listener_id=listener)

    store.leave_listener(listener)

    assert await store.settle([ending(held)]) == [False]


@pytest.fixture
async def reopened(lasting_url: str, clock: ManualClock) -> AsyncIterator[AnyStore]:
    settings = KvQueueSettings(max_crashes=3)
    first = await open_store(lasting_url, settings, clock)
    await send(first, mail())
    await claim(first)
    await first.close()
    second = await open_store(lasting_url, settings, clock)
    yield second
    await second.close()


async def test_lease_outlives_a_reopening(reopened: AnyStore, clock: ManualClock) -> None:
    running = await reopened.admin.list_messages(Query(state=State.RUNNING))
    hidden = await claim(reopened)
    clock.pass_ms(LEASE_MS)

    assert (len(running), hidden) == (1, [])
    assert [one.crashes for one in await claim(reopened)] == [1]
