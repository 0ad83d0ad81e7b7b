"""Sweeping: what is past its time goes, a slice at a time, and nothing else."""

import asyncio

from kvqueue_fastapi.keeper import Query
from kvqueue_fastapi.model import (
    AtomicWrite,
    Check,
    Failure,
    KvSet,
    Outcome,
)
from kvqueue_fastapi.store import AnyStore
from tests.store.given import DAY_MS, ManualClock, claim, mail, once, send, settle

RETENTION_MS = 3_600_000


async def die(store: AnyStore, count: int) -> None:
    await send(store, *(mail() for _ in range(count)))
    for held in await claim(store, limit=count, room=count):
        await settle(store, held, Outcome.DEAD, failure=Failure("oops"))


async def test_dead_letter_goes_when_its_retention_ends(
    store: AnyStore, clock: ManualClock
) -> None:
    await die(store, 2)

    clock.pass_ms(RETENTION_MS - 1)
    early = store.sweep()
    clock.pass_ms(1)

    assert early == 0
    assert (store.sweep(), store.sweep()) == (2, 0)
    assert await store.admin.list_dead_letters(Query()) == []


async def test_dead_letters_go_in_slices(store: AnyStore, clock: ManualClock) -> None:
    await die(store, 700)
    clock.pass_ms(RETENTION_MS)

    slices = [store.sweep() for _ in range(3)]

    assert sum(slices) == 700
    assert max(slices) < 700
    assert slices[-1] == 0


async def test_idempotency_key_goes_when_its_window_ends(
    store: AnyStore, clock: ManualClock
) -> None:
    await send(store, once("old"))
    clock.pass_ms(1)
    (young,) = await send(store, once("young"))

    clock.pass_ms(DAY_MS - 1)

    assert (store.sweep(), store.sweep()) == (1, 0)
    assert await send(store, once("young")) == [young]


async def test_key_goes_when_it_expires(store: AnyStore, clock: ManualClock) -> None:
    sets = [
        KvSet(b"old", b"1", expire_in_ms=10),
        KvSet(b"young", b"1", expire_in_ms=11),
        KvSet(b"lasting", b"1"),
    ]
    version = (await store.commit(AtomicWrite(mutations=sets))).version

    clock.pass_ms(10)

    checks = [Check(b"old", None), Check(b"young", version), Check(b"lasting", version)]
    assert (store.sweep(), store.sweep()) == (1, 0)
    assert (await store.commit(AtomicWrite(checks=checks))).ok


async def test_messages_that_wait_are_never_swept(store: AnyStore, clock: ManualClock) -> None:
    await send(store, mail(), mail(delay_ms=5))
    await die(store, 1)

    clock.pass_ms(400 * DAY_MS)
    store.sweep()

    assert await store.count_pending(most=9) == 2


async def test_sweep_goes_on_beside_writes(store: AnyStore, clock: ManualClock) -> None:
    await die(store, 300)
    clock.pass_ms(RETENTION_MS)

    swept, *_ = await asyncio.gather(
        asyncio.to_thread(store.sweep), *(send(store, mail()) for _ in range(50))
    )

    assert swept == 300
    assert await store.count_pending(most=99) == 50
