"""An offer is a claim that waits for a send, and is taken up in its commit."""

import asyncio
from collections.abc import Callable

import pytest

from kvqueue_fastapi.errors import StoreError
from kvqueue_fastapi.model import AtomicWrite, Check, Claimed, Outcome, Send, Wanted
from kvqueue_fastapi.store import AnyStore
from kvqueue_fastapi.store.base import ClaimRequest
from tests.store.given import (
    LEASE_MS,
    claim,
    claimed_ids,
    ending,
    is_quiet,
    mail,
    once,
    send,
    settle,
    spoil_batches,
    spoil_writing,
)


def ignore() -> None: ...


def offer(
    store: AnyStore, *, room: int = 10, wake: Callable[[], None] = ignore
) -> asyncio.Future[Claimed]:
    return store.offer(ClaimRequest([Wanted("mail", room)], limit=room, lease_ms=LEASE_MS), wake)


async def answer(offered: asyncio.Future[Claimed]) -> Claimed:
    async with asyncio.timeout(5):
        return await offered


async def test_offer_takes_what_is_sent_as_soon_as_it_is_stored(store: AnyStore) -> None:
    offered = offer(store)

    ids = await send(store, mail(), mail(), Send("other", "1"))

    assert [one.id for one in (await answer(offered)).claims] == ids[:2]
    assert await claimed_ids(store) == []
    assert await claimed_ids(store, "other") == ids[2:]


async def test_offer_is_answered_no_later_than_the_sender(store: AnyStore) -> None:
    offered = offer(store)
    was_answered: list[bool] = []

    async def sending() -> None:
        await send(store, mail())
        was_answered.append(offered.done())

    await asyncio.gather(*(sending() for _ in range(300)))

    assert was_answered == [True] * 300


async def test_offer_takes_no_more_than_its_room(store: AnyStore) -> None:
    offered = offer(store, room=2)

    ids = await send(store, *(mail() for _ in range(3)))

    assert [one.id for one in (await answer(offered)).claims] == ids[:2]
    assert await claimed_ids(store) == ids[2:]


async def test_offer_is_taken_up_once(store: AnyStore) -> None:
    offered = offer(store)

    first = await send(store, mail())
    second = await send(store, mail())

    assert [one.id for one in (await answer(offered)).claims] == first
    assert await claimed_ids(store) == second


async def test_offer_that_is_withdrawn_is_never_taken_up(store: AnyStore) -> None:
    offered = offer(store)

    withdrawn = store.withdraw(offered)
    ids = await send(store, mail())

    assert withdrawn
    assert not offered.done()
    assert await claimed_ids(store) == ids


async def test_offer_that_was_taken_up_cannot_be_withdrawn(store: AnyStore) -> None:
    offered = offer(store)

    await send(store, mail())

    assert not store.withdraw(offered)
    assert len((await answer(offered)).claims) == 1


async def test_only_who_made_no_offer_is_woken_by_what_it_takes(store: AnyStore) -> None:
    woken: list[str] = []

    def first() -> None:
        woken.append("first")

    def second() -> None:
        woken.append("second")

    store.subscribe(first)
    store.subscribe(second)
    await is_quiet(store)
    woken.clear()

    await answer_of_a_send(store, offer(store, wake=first))
    while_offering = list(woken)
    await send(store, mail())

    assert while_offering == ["second"]
    assert woken == ["second", "first", "second"]


async def answer_of_a_send(store: AnyStore, offered: asyncio.Future[Claimed]) -> None:
    await send(store, mail())
    await answer(offered)


async def test_who_made_an_offer_is_woken_by_more_than_it_names(store: AnyStore) -> None:
    woken: list[str] = []

    def wake() -> None:
        woken.append("woken")

    store.subscribe(wake)
    await is_quiet(store)
    woken.clear()
    offered = offer(store, wake=wake)

    await send(store, mail(), Send("other", "1"))

    assert len((await answer(offered)).claims) == 1
    assert woken == ["woken"]


async def test_closing_cancels_an_offer(store: AnyStore) -> None:
    offered = offer(store)

    await store.close()

    assert offered.cancelled()
    assert offer(store).cancelled()


async def test_offer_tells_when_a_delayed_message_is_due(store: AnyStore) -> None:
    offered = offer(store)

    await send(store, mail(delay_ms=500))

    claimed = await answer(offered)
    assert (list(claimed.claims), claimed.next_due_ms) == ([], 500)


async def test_offer_takes_the_successor_that_a_settlement_frees(store: AnyStore) -> None:
    first, second = await send(store, mail(ordering_key="k"), mail(ordering_key="k"))
    (held,) = await claim(store)
    offered = offer(store)

    await settle(store, ending(held, Outcome.DONE))

    assert held.id == first
    assert [one.id for one in (await answer(offered)).claims] == [second]


async def test_claims_and_writes_of_keys_take_up_no_offer(store: AnyStore) -> None:
    offered = offer(store)

    await claim(store)
    await store.commit(AtomicWrite(checks=[Check(b"k", None)], versioned=True))

    assert store.withdraw(offered)


async def test_offer_in_a_batch_that_is_done_one_by_one_still_comes_last(store: AnyStore) -> None:
    (kept,) = await send(store, once("key", "1"))
    assert await claimed_ids(store) == [kept]
    offered = offer(store)

    with pytest.MonkeyPatch.context() as patch:
        spoil_batches(store, patch)
        ids = await send(store, mail())

    assert [one.id for one in (await answer(offered)).claims] == ids


async def test_offer_shares_the_error_of_a_batch_that_cannot_be_written(store: AnyStore) -> None:
    offered = offer(store)

    with pytest.MonkeyPatch.context() as patch:
        spoil_writing(store, patch)
        with pytest.raises(StoreError, match="no such luck"):
            await send(store, mail())

    with pytest.raises(StoreError, match="no such luck"):
        await answer(offered)


async def test_offer_of_many_types_takes_those_that_are_sent(store: AnyStore) -> None:
    wanted = [Wanted(f"t{n}", 10) for n in range(40)]
    offered = store.offer(ClaimRequest(wanted, limit=10, lease_ms=LEASE_MS), ignore)

    first, _, third = await send(store, *(Send(kind, "1") for kind in ("t7", "other", "t31")))

    assert [one.id for one in (await answer(offered)).claims] == [first, third]


async def test_offer_of_many_types_leaves_what_one_claim_cannot_take(store: AnyStore) -> None:
    wanted = [Wanted(f"t{n}", 10) for n in range(40)]
    woken: list[str] = []
    store.subscribe(lambda: woken.append("woken"))
    offered = store.offer(ClaimRequest(wanted, limit=10, lease_ms=LEASE_MS), ignore)

    await send(store, *(Send(f"t{n}", "1") for n in range(17)))

    assert store.withdraw(offered)
    assert woken
