"""Atomic writes: checks, keys, settlements and sends in one commit, or none of them."""

import asyncio
from typing import Any

import pytest

from kvqueue_fastapi.errors import IdempotencyConflictError, LeaseLostError
from kvqueue_fastapi.keeper import Query, State
from kvqueue_fastapi.model import (
    AtomicWrite,
    Check,
    Committed,
    Encoding,
    Failure,
    KvDelete,
    KvSet,
    Mutation,
    Outcome,
)
from kvqueue_fastapi.store import AnyStore
from kvqueue_fastapi.store.sqlite.engine import SqliteStore
from tests.store.given import ManualClock, claim, crash, ending, mail, once, send, settle


async def put(store: AnyStore, *mutations: Mutation) -> int:
    version = (await store.commit(AtomicWrite(mutations=mutations))).version
    assert version is not None
    return version


async def attempt(store: AnyStore, write: AtomicWrite) -> Committed:
    return await store.commit(write)


async def holds(store: AnyStore, key: bytes, version: int | None) -> bool:
    return (await store.commit(AtomicWrite(checks=[Check(key, version)]))).ok


async def test_every_commit_with_keys_has_a_larger_version(store: AnyStore) -> None:
    versions = [await put(store, KvSet(b"k", b"1")) for _ in range(5)]
    versions += await asyncio.gather(*(put(store, KvSet(b"k", b"1")) for _ in range(20)))
    versions.append(await put(store, KvDelete(b"absent")))

    assert versions == sorted(set(versions))
    assert versions[0] > 0


async def test_keys_of_one_commit_share_its_version(store: AnyStore) -> None:
    version = await put(store, KvSet(b"a", b"1"), KvSet(b"b", b"2", Encoding.U64))

    assert await holds(store, b"a", version)
    assert await holds(store, b"b", version)


async def test_check_of_the_current_version_lets_the_write_pass(store: AnyStore) -> None:
    old = await put(store, KvSet(b"k", b"1"))
    write = AtomicWrite(checks=[Check(b"k", old)], mutations=[KvSet(b"k", b"2")])

    first = await store.commit(write)
    second = await store.commit(write)

    assert (first.ok, second) == (True, Committed(ok=False))
    assert await holds(store, b"k", first.version)


async def test_check_for_absence(store: AnyStore) -> None:
    absent = await holds(store, b"k", None)
    await put(store, KvSet(b"k", b"1"))
    present = await holds(store, b"k", None)
    await put(store, KvDelete(b"k"))

    assert (absent, present) == (True, False)
    assert await holds(store, b"k", None)


async def test_one_failed_check_of_several_writes_nothing(store: AnyStore) -> None:
    version = await put(store, KvSet(b"a", b"1"))

    committed = await store.commit(
        AtomicWrite(
            checks=[Check(b"a", version), Check(b"b", 7)],
            mutations=[KvSet(b"a", b"2"), KvSet(b"b", b"2")],
            sends=[mail()],
        )
    )

    assert committed == Committed(ok=False)
    assert await holds(store, b"a", version)
    assert await holds(store, b"b", None)
    assert await claim(store) == []


async def test_failed_check_uses_no_version(store: AnyStore) -> None:
    before = await put(store, KvSet(b"k", b"1"))

    await store.commit(AtomicWrite([Check(b"k", 99)], [KvSet(b"k", b"2")]))

    assert await put(store, KvSet(b"k", b"3")) == before + 1


async def test_mutations_apply_in_their_order(store: AnyStore) -> None:
    version = await put(store, KvSet(b"a", b"1"), KvDelete(b"a"), KvDelete(b"b"), KvSet(b"b", b"1"))

    assert await holds(store, b"a", None)
    assert await holds(store, b"b", version)


async def test_expired_key_counts_as_absent(store: AnyStore, clock: ManualClock) -> None:
    version = await put(store, KvSet(b"k", b"1", expire_in_ms=10))

    clock.pass_ms(9)
    before = await holds(store, b"k", version)
    clock.pass_ms(1)

    assert before
    assert await holds(store, b"k", None)


async def test_plain_set_takes_the_expiry_away(store: AnyStore, clock: ManualClock) -> None:
    await put(store, KvSet(b"k", b"1", expire_in_ms=10))
    version = await put(store, KvSet(b"k", b"2"))

    clock.pass_ms(10)
    store.sweep()

    assert await holds(store, b"k", version)


async def test_keys_sends_and_settlement_are_one_commit(store: AnyStore) -> None:
    await send(store, mail("1"))
    (held,) = await claim(store)

    committed = await store.commit(
        AtomicWrite(
            checks=[Check(b"k", None)],
            mutations=[KvSet(b"k", b"1")],
            sends=[mail("2"), mail("3")],
            settlements=[ending(held)],
        )
    )

    assert (committed.ok, len(committed.message_ids)) == (True, 2)
    assert await holds(store, b"k", committed.version)
    assert [one.data for one in await claim(store)] == ["2", "3"]


@pytest.mark.parametrize("outcome", list(Outcome))
async def test_lost_lease_writes_nothing(
    store: AnyStore, clock: ManualClock, outcome: Outcome
) -> None:
    await send(store, mail("1"))
    stale = await crash(store, clock)
    (live,) = await claim(store)
    lost = ending(stale, outcome, failure=Failure("oops"))

    with pytest.raises(LeaseLostError):
        await store.commit(AtomicWrite((), [KvSet(b"k", b"1")], [mail("2")], [lost]))

    assert await holds(store, b"k", None)
    assert [one.data for one in await store.admin.list_messages(Query())] == [1]
    assert await settle(store, live)


async def test_one_lost_lease_of_several_keeps_the_others(
    store: AnyStore, clock: ManualClock
) -> None:
    await send(store, mail())
    stale = await crash(store, clock)
    await send(store, mail())
    _, live = await claim(store)

    with pytest.raises(LeaseLostError):
        await store.commit(AtomicWrite(settlements=[ending(live), ending(stale)]))

    assert await settle(store, live)


async def test_failed_check_leaves_the_claim_alive(store: AnyStore) -> None:
    await send(store, mail())
    (held,) = await claim(store)

    committed = await store.commit(
        AtomicWrite(checks=[Check(b"k", 5)], sends=[mail()], settlements=[ending(held)])
    )

    assert committed == Committed(ok=False)
    assert await settle(store, held)
    assert await claim(store) == []


async def test_failed_writes_leave_their_neighbours_alone(store: AnyStore) -> None:
    await send(store, once("i", "1"))

    answers: list[Any] = await asyncio.gather(
        send(store, mail("a")),
        attempt(store, AtomicWrite(checks=[Check(b"x", 9)], sends=[mail("no")])),
        attempt(store, AtomicWrite(mutations=[KvSet(b"k", b"1")], sends=[mail("b")])),
        send(store, mail("no"), once("i", "2")),
        send(store, mail("c")),
        return_exceptions=True,
    )

    assert answers[1] == Committed(ok=False)
    assert isinstance(answers[3], IdempotencyConflictError)
    assert await holds(store, b"k", answers[2].version)
    claimed = [one.data for one in await claim(store)]
    # On PostgreSQL, what is not awaited one after another has no order among itself.
    ordered = claimed if isinstance(store, SqliteStore) else sorted(claimed)
    assert ordered == ["1", "a", "b", "c"]


async def test_stale_settlement_in_a_batch_leaves_other_writes_alone(
    store: AnyStore, clock: ManualClock
) -> None:
    await send(store, mail("1"))
    stale = await crash(store, clock)
    await claim(store)

    answers: list[Any] = await asyncio.gather(
        send(store, mail("a")),
        store.settle([ending(stale)]),
        put(store, KvSet(b"k", b"1")),
        store.commit(AtomicWrite(sends=[mail("b")], settlements=[ending(stale)])),
        send(store, mail("c")),
        return_exceptions=True,
    )

    assert answers[1] == [False]
    assert isinstance(answers[3], LeaseLostError)
    assert await holds(store, b"k", answers[2])
    assert [one.data for one in await claim(store)] == ["a", "c"]


async def test_twenty_that_count_together_lose_nothing(store: AnyStore) -> None:
    wins = 0
    version: int | None = None
    for _ in range(20):
        write = AtomicWrite([Check(b"n", version)], [KvSet(b"n", b"1")])
        answers = await asyncio.gather(*(store.commit(write) for _ in range(5)))
        wins += sum(answer.ok for answer in answers)
        version = next(answer.version for answer in answers if answer.ok)

    assert wins == 20


async def test_dead_letter_and_new_message_in_one_commit(store: AnyStore) -> None:
    (sent,) = await send(store, mail("1"))
    (held,) = await claim(store)
    dead = ending(held, Outcome.DEAD, failure=Failure("oops"))

    await store.commit(AtomicWrite(sends=[mail("2")], settlements=[dead]))

    (letter,) = await store.admin.list_dead_letters(Query())
    assert (letter.id, letter.state) == (sent, State.DEAD)
    assert [one.data for one in await claim(store)] == ["2"]


async def test_write_that_cannot_be_stored_leaves_its_neighbours_alone(store: AnyStore) -> None:
    answers: list[Any] = await asyncio.gather(
        send(store, mail("a")),
        send(store, mail("a lone surrogate: \ud800")),
        send(store, mail("a number beyond 64 bits", priority=2**70)),
        send(store, mail("b")),
        return_exceptions=True,
    )

    assert [isinstance(answer, Exception) for answer in answers] == [False, True, True, False]
    assert [one.data for one in await claim(store)] == ["a", "b"]
