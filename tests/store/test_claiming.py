"""Claiming: what is due, in order, types taking turns, each message to one holder."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kvqueue_fastapi.model import Outcome, Send, Wanted
from kvqueue_fastapi.store import AnyStore
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
)


async def test_claim_hides_message_until_lease_ends(store: AnyStore, clock: ManualClock) -> None:
    await send(store, mail())

    first = await claim(store)
    clock.pass_ms(LEASE_MS - 1)
    hidden = await claim(store)
    clock.pass_ms(1)
    again = await claim(store)

    assert [one.attempt for one in first] == [1]
    assert hidden == []
    assert [one.attempt for one in again] == [2]


async def test_claim_takes_no_more_than_its_limit(store: AnyStore) -> None:
    ids = await send(store, *(mail() for _ in range(10)))

    batches = [await claimed_ids(store, limit=4) for _ in range(4)]

    assert batches == [ids[:4], ids[4:8], ids[8:], []]


async def test_claim_takes_no_more_of_a_type_than_there_is_room(store: AnyStore) -> None:
    await send(store, *(Send(kind, "1") for kind in "aaabbbccc"))

    wanted = [Wanted("a", 1), Wanted("b", 0), Wanted("c", 2)]
    claimed = await store.claim(ClaimRequest(wanted, limit=100, lease_ms=LEASE_MS))

    assert sorted(one.type for one in claimed.claims) == ["a", "c", "c"]


async def test_claim_leaves_types_that_nobody_asked_for(store: AnyStore) -> None:
    await send(store, Send("a", "1"), Send("b", "1"))

    assert [one.type for one in await claim(store, "b", "c")] == ["b"]
    assert await claim(store, "b", "c") == []


async def test_claim_of_no_type_brings_nothing(store: AnyStore) -> None:
    await send(store, mail())

    claimed = await store.claim(ClaimRequest([], limit=0, lease_ms=LEASE_MS))

    assert claimed.claims == []


async def test_types_take_turns_within_one_claim(store: AnyStore) -> None:
    await send(store, *(Send("flood", "1") for _ in range(100)), Send("b", "1"), Send("c", "1"))

    held = await claim(store, "flood", "b", "c", limit=6)

    assert [one.type for one in held] == ["flood", "b", "c", "flood", "flood", "flood"]


async def test_turns_begin_with_the_type_that_was_named_first(store: AnyStore) -> None:
    await send(store, *(Send(kind, "1") for kind in "aabbcc"))

    held = await claim(store, "c", "a", "b", limit=4)

    assert [one.type for one in held] == ["c", "a", "b", "c"]


async def test_priority_goes_first_within_a_type(store: AnyStore) -> None:
    low, usual, high, high_too = await send(
        store, mail(priority=-5), mail(), mail(priority=9), mail(priority=9)
    )

    assert await claimed_ids(store) == [high, high_too, usual, low]


async def test_priority_of_one_type_does_not_starve_another(store: AnyStore) -> None:
    await send(store, *(Send("loud", "1", priority=1_000_000) for _ in range(9)), Send("a", "1"))

    held = await claim(store, "loud", "a", limit=3)

    assert [one.type for one in held] == ["loud", "a", "loud"]


async def test_what_was_delayed_comes_by_its_due_time_then_by_id(
    store: AnyStore, clock: ManualClock
) -> None:
    late, early, early_too, now = await send(
        store, mail(delay_ms=30), mail(delay_ms=10), mail(delay_ms=10), mail()
    )

    clock.pass_ms(30)

    assert await claimed_ids(store) == [now, early, early_too, late]


async def test_message_that_became_due_goes_before_one_sent_later(
    store: AnyStore, clock: ManualClock
) -> None:
    (delayed,) = await send(store, mail(delay_ms=10))
    clock.pass_ms(20)
    (later,) = await send(store, mail())

    assert await claimed_ids(store) == [delayed, later]


async def test_claim_tells_how_long_until_the_next_is_due(
    store: AnyStore, clock: ManualClock
) -> None:
    nothing = await store.claim(ClaimRequest([Wanted("mail", 9)], limit=9, lease_ms=LEASE_MS))
    await send(store, mail(delay_ms=700), mail(delay_ms=300), mail())

    first = await store.claim(ClaimRequest([Wanted("mail", 9)], limit=9, lease_ms=LEASE_MS))
    clock.pass_ms(300)
    second = await store.claim(ClaimRequest([Wanted("mail", 9)], limit=9, lease_ms=LEASE_MS))

    assert [one.next_due_ms for one in (nothing, first, second)] == [None, 300, 400]


async def test_claim_tells_of_due_messages_of_types_that_it_did_not_ask_for(
    store: AnyStore,
) -> None:
    await send(store, Send("other", "1", delay_ms=50))

    claimed = await store.claim(ClaimRequest([Wanted("mail", 9)], limit=9, lease_ms=LEASE_MS))

    assert claimed.next_due_ms == 50


async def test_more_messages_than_one_slice_become_due_in_order(
    store: AnyStore, clock: ManualClock
) -> None:
    ids = await send(store, *(mail(delay_ms=1 + n // 500) for n in range(2_500)))
    clock.pass_ms(10)

    found: list[int] = []
    while batch := await claimed_ids(store, limit=700, room=700):
        found += batch

    assert found == ids


async def test_no_message_is_claimed_twice_by_many_at_once(store: AnyStore) -> None:
    ids = await send(store, *(mail() for _ in range(100)))

    batches = await asyncio.gather(*(claimed_ids(store, limit=7) for _ in range(30)))

    assert sorted(number for batch in batches for number in batch) == ids


async def test_claims_beside_sends_and_settlements_bring_each_message_once(store: AnyStore) -> None:
    await send(store, mail())
    (held,) = await claim(store)

    sent, _, found = await asyncio.gather(
        send(store, mail()),
        store.settle([ending(held, Outcome.RELEASE)]),
        claimed_ids(store),
    )

    assert sorted([*found, *await claimed_ids(store)]) == [held.id, *sent]


async def test_every_claim_has_a_token_of_its_own(store: AnyStore, clock: ManualClock) -> None:
    await send(store, mail())
    first = await crash(store, clock)

    (second,) = await claim(store)

    assert first.token != second.token
    assert 0 not in (first.token, second.token)


async def test_ready_types_are_paged_in_order(store: AnyStore) -> None:
    await send(store, *(Send(kind, "1") for kind in ("c", "a", "b", "a", "ä", "Z", "😀")))

    first = await store.ready_types(after="", limit=4)
    second = await store.ready_types(after=first[-1], limit=4)

    assert first + second == ["Z", "a", "b", "c", "ä", "😀"]


async def test_ready_types_are_those_with_something_to_claim(
    store: AnyStore, clock: ManualClock
) -> None:
    await send(store, Send("due", "1", delay_ms=5), Send("late", "1", delay_ms=99))
    await send(store, *(Send(kind, "1") for kind in ("done", "held", "crashed")))
    (done,) = await claim(store, "done")
    await settle(store, done)
    await crash(store, clock, "crashed")
    clock.now_ms -= LEASE_MS - 5
    await claim(store, "held", lease_ms=9 * LEASE_MS)
    clock.pass_ms(LEASE_MS - 5)

    assert await store.ready_types(after="", limit=9) == ["crashed", "due", "late"]


@pytest.mark.parametrize(
    "claimer",
    [
        lambda store: claim(store, "other"),
        lambda store: store.ready_types(after="", limit=1),
        lambda store: send(store, mail()),
    ],
    ids=["claim", "ready types", "offer"],
)
async def test_whoever_makes_something_ready_wakes_those_who_may_claim_it(
    store: AnyStore, clock: ManualClock, claimer: Callable[[AnyStore], Awaitable[object]]
) -> None:
    await send(store, Send("late", "1", delay_ms=5), Send("lost", "1"))
    await claim(store, "lost", lease_ms=5)
    woken = asyncio.Event()
    store.subscribe(woken.set)
    await claim(store, "other")  # behind the first look at the file, which wakes as well
    clock.pass_ms(5)
    woken.clear()
    # What is sent is all named by an offer, which keeps no wake-up back that is for others.
    store.offer(ClaimRequest([Wanted("mail", 9)], limit=9, lease_ms=LEASE_MS), woken.set)

    await claimer(store)

    async with asyncio.timeout(5):
        await woken.wait()
    assert await claimed_ids(store, "late", "lost") != []


async def test_claim_tells_whether_it_made_something_ready(
    store: AnyStore, clock: ManualClock
) -> None:
    other = ClaimRequest([Wanted("other", 9)], limit=9, lease_ms=LEASE_MS)
    await send(store, mail(), Send("late", "1", delay_ms=5))

    before = await store.claim(other)
    clock.pass_ms(5)
    answers = [await store.claim(other) for _ in range(2)]

    assert not before.made_ready
    assert [one.made_ready for one in answers] == [True, False]


async def test_claims_at_once_are_answered_in_the_order_in_which_they_began(
    store: AnyStore,
) -> None:
    ids = await send(store, *(mail() for _ in range(30)))

    found = await asyncio.gather(*(claimed_ids(store, limit=10) for _ in range(3)))

    assert found == [ids[:10], ids[10:20], ids[20:]]
