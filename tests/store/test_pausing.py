"""Pausing: nobody claims a paused type, until it is resumed."""

import pytest

from kvqueue_fastapi.model import Send, Wanted
from kvqueue_fastapi.store import AnyStore
from kvqueue_fastapi.store.base import ClaimRequest
from tests.store.given import LEASE_MS, ManualClock, claim, claimed_ids, crash, mail, send, settle


async def test_paused_type_is_not_claimed(store: AnyStore) -> None:
    mails = await send(store, mail(), mail())
    other = await send(store, Send("other", "1"))

    await store.admin.set_paused("mail", paused=True)
    paused = await claimed_ids(store, "mail", "other")
    await store.admin.set_paused("mail", paused=False)

    assert paused == other
    assert await claimed_ids(store, "mail", "other") == mails


@pytest.mark.parametrize("crashes", [2, 3])
async def test_message_of_a_paused_type_is_not_claimed_after_crashes(
    store: AnyStore, clock: ManualClock, crashes: int
) -> None:
    await send(store, mail())
    await crash(store, clock, times=crashes)
    await store.admin.set_paused("mail", paused=True)

    told = await store.claim(ClaimRequest([Wanted("mail", 9)], limit=9, lease_ms=LEASE_MS))
    paused = await claim(store, isolated=crashes == 3)
    await store.admin.set_paused("mail", paused=False)

    assert (told.claims, list(told.isolated), paused) == ([], [], [])
    assert len(await claim(store, isolated=crashes == 3)) == 1


async def test_paused_type_takes_no_place_from_the_others(store: AnyStore) -> None:
    await send(store, *(mail() for _ in range(10)))
    others = await send(store, *(Send("other", "1") for _ in range(5)))

    await store.admin.set_paused("mail", paused=True)

    assert await claimed_ids(store, "mail", "other", limit=5) == others


async def test_running_message_of_a_paused_type_can_be_settled(store: AnyStore) -> None:
    await send(store, mail())
    (held,) = await claim(store)

    await store.admin.set_paused("mail", paused=True)

    assert await settle(store, held)


async def test_message_for_a_paused_type_is_taken_and_waits(store: AnyStore) -> None:
    await store.admin.set_paused("mail", paused=True)

    await send(store, mail())

    assert await store.count_pending(most=9) == 1
    assert await claim(store) == []


async def test_paused_types_are_told(store: AnyStore) -> None:
    await store.admin.set_paused("a", paused=True)
    await store.admin.set_paused("b", paused=True)
    await store.admin.set_paused("a", paused=False)
    await store.admin.set_paused("never seen", paused=False)

    assert await store.paused_types() == {"b"}


async def test_pausing_twice_is_fine(store: AnyStore) -> None:
    await store.admin.set_paused("a", paused=True)
    await store.admin.set_paused("a", paused=True)

    assert await store.paused_types() == {"a"}
