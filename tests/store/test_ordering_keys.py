"""Ordering keys: one at a time, by id, across types, whatever the priority."""

import asyncio

import pytest

from kvqueue_fastapi.keeper import State
from kvqueue_fastapi.model import (
    AtomicWrite,
    Failure,
    Outcome,
    Send,
)
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


def keyed(data: str = "null", kind: str = "mail", key: str = "k", **fields: int) -> Send:
    return Send(kind, data, ordering_key=key, **fields)


async def test_one_message_of_a_key_runs_at_a_time(store: AnyStore) -> None:
    first, second = await send(store, keyed(), keyed())

    (held,) = await claim(store)
    meanwhile = await claim(store)
    await settle(store, held)

    assert (held.id, held.ordering_key, meanwhile) == (first, "k", [])
    assert await claimed_ids(store) == [second]


async def test_key_holds_across_types(store: AnyStore) -> None:
    ids = await send(store, keyed(kind="a"), keyed(kind="b"), keyed(kind="a"))

    found: list[int] = []
    while held := await claim(store, "b", "a"):
        found += [one.id for one in held]
        await store.settle([ending(one) for one in held])

    assert found == ids


async def test_key_ignores_priority(store: AnyStore) -> None:
    low, high = await send(store, keyed(priority=-9), keyed(priority=9))

    (held,) = await claim(store)
    await settle(store, held)

    assert held.id == low
    assert await claimed_ids(store) == [high]


async def test_keys_do_not_wait_for_each_other(store: AnyStore) -> None:
    ids = await send(store, keyed(key="a"), keyed(key="a"), keyed(key="b"), mail())

    assert await claimed_ids(store) == [ids[0], *ids[2:]]


async def test_successor_is_shown_as_blocked(store: AnyStore) -> None:
    head, successor = await send(store, keyed(), keyed())

    assert (await shown(store, head)).state is State.READY
    assert (await shown(store, successor)).state is State.BLOCKED


async def test_delayed_head_holds_back_its_successors(store: AnyStore, clock: ManualClock) -> None:
    head, _ = await send(store, keyed(delay_ms=50), keyed())

    early = await claim(store)
    clock.pass_ms(50)

    assert early == []
    assert await claimed_ids(store) == [head]


@pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.LATER])
async def test_head_that_waits_holds_back_its_successors(
    store: AnyStore, clock: ManualClock, outcome: Outcome
) -> None:
    head, successor = await send(store, keyed(), keyed())
    (held,) = await claim(store)

    await settle(store, held, outcome, delay_ms=50, failure=Failure("oops"))
    early = await claim(store)
    clock.pass_ms(50)
    (again,) = await claim(store)
    await settle(store, again)

    assert (early, again.id) == ([], head)
    assert await claimed_ids(store) == [successor]


async def test_released_head_stays_the_head(store: AnyStore) -> None:
    head, _ = await send(store, keyed(), keyed())
    (held,) = await claim(store)

    await settle(store, held, Outcome.RELEASE)

    assert await claimed_ids(store) == [head]


async def test_crashed_head_stays_the_head(store: AnyStore, clock: ManualClock) -> None:
    head, successor = await send(store, keyed(), keyed())
    await crash(store, clock)

    (held,) = await claim(store)
    await settle(store, held)

    assert (held.id, held.crashes) == (head, 1)
    assert await claimed_ids(store) == [successor]


async def test_dead_head_frees_the_next(store: AnyStore) -> None:
    _, successor = await send(store, keyed(), keyed())
    (held,) = await claim(store)

    await settle(store, held, Outcome.DEAD, failure=Failure("oops"))

    assert await claimed_ids(store) == [successor]


async def test_head_that_crashed_too_often_frees_the_next(
    store: AnyStore, clock: ManualClock
) -> None:
    _, successor = await send(store, keyed(), keyed())
    await crash(store, clock, times=4)

    assert await claimed_ids(store) == [successor]


async def test_discarded_head_frees_the_next(store: AnyStore) -> None:
    head, successor = await send(store, keyed(), keyed())

    await store.admin.discard([head])

    assert await claimed_ids(store) == [successor]


async def test_discarded_successor_is_skipped(store: AnyStore) -> None:
    head, gone, last = await send(store, keyed(), keyed(), keyed())
    await store.admin.discard([gone])
    (held,) = await claim(store)

    await settle(store, held)

    assert held.id == head
    assert await claimed_ids(store) == [last]


async def test_delayed_successor_waits_for_its_time_when_it_becomes_the_head(
    store: AnyStore, clock: ManualClock
) -> None:
    _, successor = await send(store, keyed(), keyed(delay_ms=50))
    (held,) = await claim(store)
    await settle(store, held)

    early = await claim(store)
    record = await shown(store, successor)
    clock.pass_ms(50)

    assert (early, record.state) == ([], State.DELAYED)
    assert await claimed_ids(store) == [successor]


async def test_stale_settlement_frees_no_successor(store: AnyStore, clock: ManualClock) -> None:
    await send(store, keyed(), keyed())
    stale = await crash(store, clock)
    (live,) = await claim(store)

    assert not await settle(store, stale)
    assert await claim(store) == []
    assert await settle(store, live)


async def test_key_that_ran_empty_takes_messages_again(store: AnyStore) -> None:
    await send(store, keyed())
    (held,) = await claim(store)
    await settle(store, held)

    ids = await send(store, keyed(), keyed())

    assert await claimed_ids(store) == ids[:1]


@pytest.mark.parametrize("key", ["ä", "😀", "a'b", 'a"b', "a\\b", " ", "1", "null"])
async def test_key_is_any_text(store: AnyStore, key: str) -> None:
    _, successor = await send(store, keyed(key=key), keyed(key=key))
    (held,) = await claim(store)

    await settle(store, held)

    assert held.ordering_key == key
    assert await claimed_ids(store) == [successor]


async def test_many_keys_keep_their_order_under_batches(store: AnyStore) -> None:
    await asyncio.gather(
        *(send(store, keyed(str(n), kind=f"t{n % 3}", key=f"k{n % 7}")) for n in range(210))
    )

    found: dict[str | None, list[int]] = {}
    while held := await claim(store, "t0", "t1", "t2"):
        for one in held:
            found.setdefault(one.ordering_key, []).append(int(one.data))
        await asyncio.gather(*(settle(store, one) for one in held))

    assert found == {f"k{key}": list(range(key, 210, 7)) for key in range(7)}


async def test_send_within_an_atomic_write_frees_the_successor_in_the_same_commit(
    store: AnyStore,
) -> None:
    await send(store, keyed("1"))
    (held,) = await claim(store)

    await store.commit(AtomicWrite(sends=[keyed("2")], settlements=[ending(held)]))

    assert [one.data for one in await claim(store)] == ["2"]


async def test_lease_of_one_key_hides_its_successors_too(
    store: AnyStore, clock: ManualClock
) -> None:
    head, _ = await send(store, keyed(), keyed())
    await claim(store)

    clock.pass_ms(LEASE_MS - 1)
    hidden = await claim(store)
    clock.pass_ms(1)

    assert hidden == []
    assert await claimed_ids(store) == [head]
