"""Listeners: who is there, what they take, and who is woken when something may be claimed."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from kvqueue_fastapi.model import AtomicWrite, Failure, KvSet, Outcome
from kvqueue_fastapi.store import AnyStore
from tests.store.given import ManualClock, claim, ending, is_quiet, mail, send


@pytest.fixture
async def woken(store: AnyStore) -> AsyncIterator[asyncio.Event]:
    event = asyncio.Event()
    unsubscribe = store.subscribe(event.set)
    await is_quiet(store)  # the first look at the database wakes once
    event.clear()
    yield event
    unsubscribe()


async def test_listeners_are_told(store: AnyStore, clock: ManualClock) -> None:
    first = await store.enter_listener(["b", "a"])
    clock.pass_ms(5)
    second = await store.enter_listener([])
    await send(store, mail(), mail())
    await claim(store, listener_id=second)

    one, two = await store.admin.listeners()

    assert (one.id, one.types, one.leases) == (first, ("a", "b"), 0)
    assert (two.id, two.types, two.leases) == (second, (), 2)
    assert (one.pid, one.since_ms) == (os.getpid(), clock.now_ms - 5)
    assert one.host


async def test_listened_types_are_those_of_all_listeners(store: AnyStore) -> None:
    await store.enter_listener(["a", "b"])
    leaving = await store.enter_listener(["b", "c"])
    before = await store.listened_types()

    store.leave_listener(leaving)

    assert before == {"a", "b", "c"}
    assert await store.listened_types() == {"a", "b"}


async def test_ids_of_listeners_are_never_the_same(store: AnyStore) -> None:
    ids = []
    for _ in range(20):
        ids.append(await store.enter_listener(["a"]))
        store.leave_listener(ids[-1])

    assert len(set(ids)) == 20
    assert 0 not in ids


async def test_leaving_twice_is_fine(store: AnyStore) -> None:
    listener = await store.enter_listener(["a"])

    store.leave_listener(listener)
    store.leave_listener(listener)

    assert await store.admin.listeners() == []


async def test_send_wakes(store: AnyStore, woken: asyncio.Event) -> None:
    await send(store, mail())

    assert woken.is_set()


async def test_key_value_write_wakes_nobody(store: AnyStore, woken: asyncio.Event) -> None:
    await store.commit(AtomicWrite(mutations=[KvSet(b"k", b"1")]))

    assert not woken.is_set()


async def test_done_message_without_key_wakes_nobody(store: AnyStore, woken: asyncio.Event) -> None:
    await send(store, mail())
    (held,) = await claim(store)
    woken.clear()

    await store.settle([ending(held)])

    assert not woken.is_set()


@pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.LATER, Outcome.RELEASE])
async def test_message_that_comes_again_wakes(
    store: AnyStore, woken: asyncio.Event, outcome: Outcome
) -> None:
    await send(store, mail())
    (held,) = await claim(store)
    woken.clear()

    await store.settle([ending(held, outcome, failure=Failure("oops"))])

    assert woken.is_set()


async def test_end_of_a_head_wakes_for_its_successor(store: AnyStore, woken: asyncio.Event) -> None:
    await send(store, mail(ordering_key="k"), mail(ordering_key="k"))
    (held,) = await claim(store)
    woken.clear()

    await store.settle([ending(held)])

    assert woken.is_set()


async def test_keeper_wakes(store: AnyStore, woken: asyncio.Event) -> None:
    await store.admin.set_paused("mail", paused=False)

    assert woken.is_set()


async def test_leaving_listener_wakes_the_others_for_what_it_held(
    store: AnyStore, woken: asyncio.Event
) -> None:
    await send(store, mail())
    listener = await store.enter_listener(["mail"])
    await claim(store, listener_id=listener)
    woken.clear()

    store.leave_listener(listener)

    assert await asyncio.wait_for(woken.wait(), 1)


async def test_nobody_is_woken_after_unsubscribing(store: AnyStore) -> None:
    calls: list[str] = []
    unsubscribe_first = store.subscribe(lambda: calls.append("first"))
    unsubscribe_second = store.subscribe(lambda: calls.append("second"))
    await is_quiet(store)
    calls.clear()

    await send(store, mail())
    unsubscribe_first()
    await send(store, mail())
    unsubscribe_second()
    await send(store, mail())

    assert calls == ["first", "second", "second"]


async def test_a_listener_has_time_to_begin_however_short_leases_are(store: AnyStore) -> None:
    store._patience.seconds = 0

    listener = await store.enter_listener(["mail"])

    assert [one.id for one in await store.admin.listeners()] == [listener]
