"""Sending: a message is stored whole, in order, under an id that is never given again."""

import asyncio

import pytest

from kvqueue_fastapi.keeper import State
from kvqueue_fastapi.model import AtomicWrite, Claim, Send
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import AnyStore, open_store
from tests.store.given import ManualClock, claim, claimed_ids, ending, mail, send, settle, shown


async def test_sent_message_comes_back_as_it_was(store: AnyStore, clock: ManualClock) -> None:
    (sent,) = await send(store, Send("mail", '{"to":"ä€😀"}', options='{"headers":{"a":"b"}}'))

    (held,) = await claim(store)

    assert (held.id, held.type, held.data) == (sent, "mail", '{"to":"ä€😀"}')
    assert (held.attempt, held.crashes, held.sent_at_ms) == (1, 0, clock.now_ms)
    assert (held.options, held.ordering_key) == ('{"headers":{"a":"b"}}', None)


@pytest.mark.parametrize("data", ["", '"\\u0000"', "no json", '"' + "x" * 65_534 + '"'])
async def test_any_text_is_kept_as_it_is(store: AnyStore, data: str) -> None:
    await send(store, mail(data))

    (held,) = await claim(store)

    assert held.data == data


@pytest.mark.parametrize("kind", ["order.created", "ä", "😀", "a'b", 'a"b', "%", " "])
async def test_type_is_any_text(store: AnyStore, kind: str) -> None:
    ids = await send(store, Send(kind, "1", ordering_key=kind))

    assert await store.ready_types(after="", limit=9) == [kind]
    assert await claimed_ids(store, kind) == ids


async def test_messages_of_one_commit_keep_their_order(store: AnyStore) -> None:
    ids = await send(store, *(mail(str(n)) for n in range(500)))

    held = await claim(store, limit=1_000, room=1_000)

    assert ids == sorted(ids)
    assert [one.id for one in held] == ids
    assert [one.data for one in held] == [str(n) for n in range(500)]


async def test_each_concurrent_sender_gets_its_own_ids(store: AnyStore) -> None:
    answers = await asyncio.gather(*(send(store, mail(f"{n}a"), mail(f"{n}b")) for n in range(50)))

    data = {one.id: one.data for one in await claim(store)}

    for n, (first, second) in enumerate(answers):
        assert (data[first], data[second]) == (f"{n}a", f"{n}b")


async def test_concurrent_sends_are_claimed_in_the_order_of_their_calls(store: AnyStore) -> None:
    answers = await asyncio.gather(*(send(store, mail(str(n))) for n in range(300)))

    held = await claim(store, limit=300, room=300)

    assert [one.id for one in held] == [number for (number,) in answers]
    assert [one.data for one in held] == [str(n) for n in range(300)]


async def test_write_of_nothing_is_fine(store: AnyStore) -> None:
    committed = await store.commit(AtomicWrite())

    assert (committed.ok, list(committed.message_ids), committed.version) == (True, [], None)


async def test_id_is_not_given_again_after_its_message_went(store: AnyStore) -> None:
    ids = await send(store, *(mail() for _ in range(10)))
    await store.settle([ending(held) for held in await claim(store)])

    (later,) = await send(store, mail())

    assert later > max(ids)


async def test_id_is_not_given_again_after_a_discard(store: AnyStore) -> None:
    ids = await send(store, mail(), mail())
    await store.admin.discard(ids)

    (later,) = await send(store, mail())

    assert later > max(ids)


async def test_id_is_not_given_again_after_reopening(
    lasting_url: str, settings: KvQueueSettings
) -> None:
    first = await open_store(lasting_url, settings)
    ids = await send(first, mail(), mail())
    await first.admin.discard(ids)
    await first.close()

    second = await open_store(lasting_url, settings)
    (later,) = await send(second, mail())
    await second.close()

    assert later > max(ids)


async def test_ids_grow_over_writes_that_failed(store: AnyStore) -> None:
    (held,) = await _sent_and_claimed(store)
    await settle(store, held)
    lost = AtomicWrite(sends=[mail(), mail()], settlements=[ending(held)])

    answers = await asyncio.gather(
        send(store, mail()), store.commit(lost), send(store, mail()), return_exceptions=True
    )
    (last,) = await send(store, mail())

    assert isinstance(answers[1], Exception)
    assert held.id < answers[0][0] < answers[2][0] < last


async def test_delayed_message_is_claimed_when_it_is_due(
    store: AnyStore, clock: ManualClock
) -> None:
    (later,) = await send(store, mail(delay_ms=1_000))

    clock.pass_ms(999)
    early = await claimed_ids(store)
    clock.pass_ms(1)
    due = await claimed_ids(store)

    assert (early, due) == ([], [later])


async def test_delayed_message_lets_those_without_delay_pass(store: AnyStore) -> None:
    later, now = await send(store, mail(delay_ms=1_000), mail())

    assert await claimed_ids(store) == [now]
    assert (await shown(store, later)).state is State.DELAYED


@pytest.mark.parametrize(("ahead_ms", "state"), [(-5_000, "ready"), (0, "ready"), (1, "delayed")])
async def test_point_in_time_that_is_past_means_now(
    store: AnyStore, clock: ManualClock, ahead_ms: int, state: str
) -> None:
    (sent,) = await send(store, mail(deliver_at_ms=clock.now_ms + ahead_ms))

    record = await shown(store, sent)

    assert record.state == state
    assert record.due_at_ms == clock.now_ms + max(0, ahead_ms)


async def test_messages_survive_a_reopening(lasting_url: str, settings: KvQueueSettings) -> None:
    first = await open_store(lasting_url, settings)
    sent = await send(first, mail("1"), mail("2"), mail("3", delay_ms=60_000))
    await first.close()

    second = await open_store(lasting_url, settings)
    found = await claimed_ids(second)
    delayed = await shown(second, sent[2])
    await second.close()

    assert found == sent[:2]
    assert delayed.state is State.DELAYED


async def test_pending_counts_what_waits_but_not_what_runs(store: AnyStore) -> None:
    await send(store, mail(), mail(delay_ms=9), mail(ordering_key="k"), mail(ordering_key="k"))

    before = await store.count_pending(most=100)
    await claim(store, limit=1)

    assert before == 4
    assert await store.count_pending(most=100) == 3


async def _sent_and_claimed(store: AnyStore) -> list[Claim]:
    await send(store, mail())
    return await claim(store)
