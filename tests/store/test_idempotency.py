"""Idempotency: within its window one key is one message, whoever sends and how often."""

import asyncio
from typing import Any

import pytest

from kvqueue_fastapi.errors import IdempotencyConflictError
from kvqueue_fastapi.keeper import Query
from kvqueue_fastapi.model import (
    AtomicWrite,
    Failure,
    KvSet,
    Outcome,
    Send,
)
from kvqueue_fastapi.store import AnyStore
from tests.store.given import DAY_MS, ManualClock, claim, claimed_ids, mail, once, send, settle


async def test_same_key_and_body_is_one_message(store: AnyStore) -> None:
    (first,) = await send(store, once("k"))
    (second,) = await send(store, once("k"))

    assert first == second
    assert await claimed_ids(store) == [first]


async def test_same_key_with_another_body_is_an_error(store: AnyStore) -> None:
    (first,) = await send(store, once("k", "1"))

    with pytest.raises(IdempotencyConflictError) as caught:
        await send(store, once("k", "2"))

    assert caught.value.message_id == first
    assert (caught.value.message_type, caught.value.idempotency_key) == ("mail", "k")
    assert await claimed_ids(store) == [first]


async def test_keys_of_different_types_are_different(store: AnyStore) -> None:
    one = once("k", "1")

    ids = await send(store, one, one._replace(type="other", data="2"))

    assert len(set(ids)) == 2


async def test_key_holds_after_its_message_was_handled(store: AnyStore) -> None:
    (first,) = await send(store, once("k"))
    (held,) = await claim(store)
    await settle(store, held)

    (second,) = await send(store, once("k"))

    assert second == first
    assert await claim(store) == []


async def test_window_runs_from_the_first_send(store: AnyStore, clock: ManualClock) -> None:
    (first,) = await send(store, once("k"))

    clock.pass_ms(DAY_MS - 1)
    (within,) = await send(store, once("k"))
    clock.pass_ms(1)
    (after,) = await send(store, once("k", "another body"))

    assert within == first
    assert after > first


async def test_new_window_begins_when_the_old_one_ended(
    store: AnyStore, clock: ManualClock
) -> None:
    await send(store, once("k"))
    clock.pass_ms(DAY_MS)
    (second,) = await send(store, once("k"))

    clock.pass_ms(DAY_MS - 1)

    assert await send(store, once("k")) == [second]


async def test_two_of_one_write_see_each_other(store: AnyStore) -> None:
    first, other, again = await send(store, once("k"), mail(), once("k"))

    assert first == again
    assert await claimed_ids(store) == [first, other]


async def test_two_writes_of_one_batch_see_each_other(store: AnyStore) -> None:
    answers = await asyncio.gather(*(send(store, once("k")) for _ in range(20)))

    assert len({number for (number,) in answers}) == 1
    assert len(await claim(store)) == 1


async def test_first_of_two_concurrent_bodies_wins(store: AnyStore) -> None:
    first, second, third = await asyncio.gather(
        send(store, once("k", "1")),
        send(store, once("k", "2")),
        send(store, once("k", "1")),
        return_exceptions=True,
    )

    assert first == third
    assert isinstance(second, IdempotencyConflictError)
    assert [one.data for one in await claim(store)] == ["1"]


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_conflict_anywhere_stores_nothing_of_the_write(store: AnyStore, place: int) -> None:
    (first,) = await send(store, once("k", "1"))
    sends = [mail("a"), once("new")]
    sends.insert(place, once("k", "2"))

    with pytest.raises(IdempotencyConflictError):
        await store.commit(AtomicWrite(sends=sends, mutations=[KvSet(b"k", b"1")]))

    assert await claimed_ids(store) == [first]
    # The key that came before the conflict is still free.
    assert await send(store, once("new", "another body")) != [first]


async def test_conflict_leaves_its_neighbours_alone(store: AnyStore) -> None:
    (first,) = await send(store, once("k", "1"))

    answers: list[Any] = await asyncio.gather(
        send(store, mail("a")),
        send(store, mail("b"), once("k", "2")),
        send(store, once("k", "1"), mail("c")),
        return_exceptions=True,
    )

    assert isinstance(answers[1], IdempotencyConflictError)
    assert answers[2][0] == first
    assert [one.data for one in await claim(store)] == ["1", "a", "c"]


async def test_discarding_the_message_frees_its_key(store: AnyStore) -> None:
    (first,) = await send(store, once("k", "1"))

    await store.admin.discard([first])
    (second,) = await send(store, once("k", "2"))

    assert second > first
    assert await claimed_ids(store) == [second]


async def test_dead_letter_keeps_its_key(store: AnyStore) -> None:
    (first,) = await send(store, once("k"))
    (held,) = await claim(store)
    await settle(store, held, Outcome.DEAD, failure=Failure("oops"))

    assert await send(store, once("k")) == [first]
    assert await claim(store) == []


async def test_discarding_the_dead_letter_frees_its_key(store: AnyStore) -> None:
    (first,) = await send(store, once("k"))
    (held,) = await claim(store)
    await settle(store, held, Outcome.DEAD, failure=Failure("oops"))

    await store.admin.discard([first])

    assert await send(store, once("k", "2")) != [first]


async def test_key_goes_with_its_message_when_that_is_requeued(store: AnyStore) -> None:
    (first,) = await send(store, once("k"))
    (held,) = await claim(store)
    await settle(store, held, Outcome.DEAD, failure=Failure("oops"))
    requeued = await store.admin.requeue([first])

    again = await send(store, once("k"))
    await store.admin.discard(again)

    assert again == [requeued[first]]
    assert await send(store, once("k", "2")) != again
    assert len(await store.admin.list_messages(Query())) == 1


async def test_other_options_do_not_make_another_body(store: AnyStore) -> None:
    (first,) = await send(store, once("k"))

    (second,) = await send(store, once("k")._replace(delay_ms=5_000, priority=7))

    assert second == first


async def test_key_and_ordering_key_go_together(store: AnyStore) -> None:
    keyed: list[Send] = [once(str(n))._replace(ordering_key="o") for n in range(3)]
    ids = await send(store, *keyed)

    again = await send(store, *keyed)
    (held,) = await claim(store)
    await settle(store, held)

    assert again == ids
    assert await claimed_ids(store) == ids[1:2]
