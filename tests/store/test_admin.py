"""The keeper's verbs: to look into the store, and to put it right."""

import json

import pytest

from kvqueue_fastapi.keeper import Query, State, TypeCounts
from kvqueue_fastapi.model import Failure, Outcome, Send
from kvqueue_fastapi.store import AnyStore
from tests.store.given import (
    LEASE_MS,
    ManualClock,
    claim,
    claimed_ids,
    crash,
    mail,
    once,
    send,
    settle,
    shown,
)

ALWAYS = 1 << 62
OPTIONS = json.dumps({"headers": {"a": "b"}, "backoff_schedule_ms": [1]})


async def one_of_each_state(store: AnyStore, clock: ManualClock) -> dict[State, int]:
    (isolated,) = await send(store, mail('"isolated"'))
    await crash(store, clock, times=3)
    (quarantined,) = await send(store, mail('"quarantined"'))
    await crash(store, clock, times=2)
    (dead,) = await send(store, mail('"dead"'))
    (held,) = await claim(store, quarantined=False)
    await settle(store, held, Outcome.DEAD, failure=Failure("DeadError: no"))
    (running,) = await send(store, mail('"running"', priority=9))
    await claim(store, limit=1, quarantined=False)
    ready, blocked, delayed = await send(
        store,
        mail('"ready"', ordering_key="k"),
        mail('"blocked"', ordering_key="k"),
        mail('"delayed"', delay_ms=60_000),
    )
    ids = (ready, delayed, blocked, running, quarantined, isolated, dead)
    return dict(zip(State, ids, strict=True))


async def test_each_state_is_shown(store: AnyStore, clock: ManualClock) -> None:
    by_state = await one_of_each_state(store, clock)

    found = {state: await shown(store, number) for state, number in by_state.items()}

    assert {record.state: record.id for record in found.values()} == by_state
    assert [record.data for record in found.values()] == [state.value for state in State]


async def test_counts_tell_how_many_are_in_each_state(store: AnyStore, clock: ManualClock) -> None:
    await one_of_each_state(store, clock)
    clock.pass_ms(500)

    (counts,) = await store.admin.counts()

    assert counts == TypeCounts(
        type="mail",
        **dict.fromkeys(map(str, State), 1),
        oldest_age_s=5 * LEASE_MS / 1000 + 0.5,
        paused=False,
        handled=False,
    )


async def test_counts_name_every_type_in_order(store: AnyStore) -> None:
    await send(store, Send("b", "1"), Send("a", "1"))
    await store.enter_listener(["a", "listened"])
    await store.admin.set_paused("paused", paused=True)

    counts = await store.admin.counts()

    assert [one.type for one in counts] == ["a", "b", "listened", "paused"]
    assert [one.handled for one in counts] == [True, False, True, False]
    assert [one.paused for one in counts] == [False, False, False, True]
    assert [one.oldest_age_s for one in counts] == [0.0, 0.0, None, None]


async def test_list_takes_one_state(store: AnyStore, clock: ManualClock) -> None:
    by_state = await one_of_each_state(store, clock)
    by_state.pop(State.DEAD)

    found = {
        state: [one.id for one in await store.admin.list_messages(Query(state=state))]
        for state in by_state
    }

    assert found == {state: [number] for state, number in by_state.items()}


async def test_list_takes_one_type_or_ordering_key(store: AnyStore) -> None:
    a, b, keyed = await send(
        store, Send("a", "1"), Send("b", "1"), Send("b", "1", ordering_key="k")
    )

    async def found(**fields: str) -> list[int]:
        return [one.id for one in await store.admin.list_messages(Query(**fields))]

    assert await found() == [a, b, keyed]
    assert await found(type="b") == [b, keyed]
    assert await found(ordering_key="k") == [keyed]
    assert await found(type="a", ordering_key="k") == []


async def test_list_searches_payload_and_errors(store: AnyStore) -> None:
    payload, error, _ = await send(store, mail('"An Order"'), mail(), mail('"other"'))
    held = {one.id: one for one in await claim(store)}
    await settle(store, held[error], Outcome.RETRY, failure=Failure('Bad ORDER "quoted"', "trace"))

    async def found(search: str) -> list[int]:
        return [one.id for one in await store.admin.list_messages(Query(search=search))]

    assert await found("order") == [payload, error]
    assert await found("TRACE") == [error]
    assert await found('"quoted"') == [error]
    # Neither a pattern nor how errors are kept.
    assert [await found(text) for text in ("%", "at_ms", "text")] == [[], [], []]


async def test_list_is_paged_by_id(store: AnyStore) -> None:
    ids = await send(store, *(mail() for _ in range(7)))

    pages: list[list[int]] = [[]]
    while page := await store.admin.list_messages(
        Query(after=pages[-1][-1] if pages[-1] else 0, limit=3)
    ):
        pages.append([one.id for one in page])

    assert pages[1:] == [ids[:3], ids[3:6], ids[6:]]


async def test_dead_letters_take_the_same_filters(store: AnyStore) -> None:
    ids = await send(store, Send("a", '"x"'), Send("b", '"y"', ordering_key="k"), Send("b", '"x"'))
    for held in await claim(store, "a", "b"):
        await settle(store, held, Outcome.DEAD, failure=Failure(f"Error {held.data}"))

    async def found(**fields: str | int) -> list[int]:
        return [one.id for one in await store.admin.list_dead_letters(Query(**fields))]

    assert await found() == ids
    assert await found(type="b") == ids[1:]
    assert await found(ordering_key="k") == ids[1:2]
    assert await found(search="X") == [ids[0], ids[2]]
    assert await found(after=ids[0], limit=1) == ids[1:2]


async def test_nothing_is_shown_of_an_id_that_there_is_not(store: AnyStore) -> None:
    assert await store.admin.show(12_345) is None
    assert await store.admin.show(0) is None


async def test_requeued_dead_letter_is_a_new_message(store: AnyStore, clock: ManualClock) -> None:
    (old,) = await send(store, mail('{"n":1}', priority=5, options=OPTIONS))
    (held,) = await claim(store)
    await settle(store, held, Outcome.DEAD, failure=Failure("oops"))
    clock.pass_ms(1_000)

    new = (await store.admin.requeue([old]))[old]
    record = await shown(store, new)

    assert new > old
    assert (record.state, record.requeued_from) == (State.READY, old)
    assert (record.attempt, record.crashes, record.errors, record.reason) == (0, 0, (), None)
    assert (record.data, record.priority, record.headers) == ({"n": 1}, 5, {"a": "b"})
    assert (record.sent_at_ms, record.due_at_ms) == (clock.now_ms, clock.now_ms)
    assert await store.admin.show(old) is None
    assert [one.options for one in await claim(store)] == [OPTIONS]


async def test_requeued_dead_letter_goes_to_the_tail_of_its_key(store: AnyStore) -> None:
    old, next_ = await send(store, mail(ordering_key="k"), mail(ordering_key="k"))
    (held,) = await claim(store)
    await settle(store, held, Outcome.DEAD, failure=Failure("oops"))

    new = (await store.admin.requeue([old]))[old]
    state = (await shown(store, new)).state
    (head,) = await claim(store)
    await settle(store, head)

    assert (head.id, state) == (next_, State.BLOCKED)
    assert await claimed_ids(store) == [new]


async def test_requeue_remembers_where_a_message_came_from_when_it_dies_again(
    store: AnyStore,
) -> None:
    (first,) = await send(store, mail())
    (held,) = await claim(store)
    await settle(store, held, Outcome.DEAD, failure=Failure("oops"))
    second = (await store.admin.requeue([first]))[first]
    (held,) = await claim(store)
    await settle(store, held, Outcome.DEAD, failure=Failure("oops"))

    assert (await shown(store, second)).requeued_from == first


async def test_requeue_takes_dead_letters_only_and_each_once(store: AnyStore) -> None:
    dead, alive = await send(store, mail(), mail())
    held = await claim(store, limit=1)
    await settle(store, held[0], Outcome.DEAD, failure=Failure("oops"))

    requeued = await store.admin.requeue([alive, dead, 99_999, dead])
    again = await store.admin.requeue([dead])

    assert list(requeued) == [dead]
    assert again == {}
    assert await store.count_pending(most=9) == 2


async def test_dead_ids_of_a_type_are_paged(store: AnyStore) -> None:
    await send(store, *(mail() for _ in range(5)), Send("other", "1"))
    for held in await claim(store, "mail", "other"):
        await settle(store, held, Outcome.DEAD, failure=Failure("oops"))

    first = await store.admin.dead_ids("mail", died_by_ms=ALWAYS, after=0, limit=3)
    second = await store.admin.dead_ids("mail", died_by_ms=ALWAYS, after=first[-1], limit=3)

    assert (len(first), len(second)) == (3, 2)
    assert first + second == sorted(first + second)


async def test_dead_ids_are_of_those_that_had_died_by_then(
    store: AnyStore, clock: ManualClock
) -> None:
    await send(store, *(mail() for _ in range(3)))
    early, late, middle = await claim(store)
    for held in (early, middle, late):
        clock.pass_ms(1)
        await settle(store, held, Outcome.DEAD, failure=Failure("oops"))
    last_ms = await store.admin.last_death_ms()
    assert last_ms == clock.wall_ms()
    clock.pass_ms(-1)  # what died in the future is not seen to be the last
    assert await store.admin.last_death_ms() == last_ms - 1
    clock.pass_ms(1)

    by_then = await store.admin.dead_ids("mail", died_by_ms=last_ms - 1, after=0, limit=9)

    assert by_then == [early.id, middle.id]
    assert await store.admin.discard([early.id, middle.id, late.id])
    assert await store.admin.last_death_ms() is None


async def test_discard_takes_all_but_what_runs(store: AnyStore, clock: ManualClock) -> None:
    by_state = await one_of_each_state(store, clock)

    gone = await store.admin.discard([*by_state.values(), 99_999])

    assert gone == {number: state is not State.RUNNING for state, number in by_state.items()}
    assert [one.id for one in await store.admin.list_messages(Query())] == [by_state[State.RUNNING]]
    assert await store.admin.list_dead_letters(Query()) == []


async def test_discard_of_the_same_twice_is_one(store: AnyStore) -> None:
    (sent,) = await send(store, mail())

    assert await store.admin.discard([sent, sent]) == {sent: True}
    assert await store.admin.discard([sent]) == {}


async def test_message_that_was_refused_to_go_can_still_be_settled(store: AnyStore) -> None:
    (sent,) = await send(store, once("k"))
    (held,) = await claim(store)

    await store.admin.discard([sent])

    assert await settle(store, held)
    assert await send(store, once("k")) == [sent]


@pytest.mark.parametrize("data", ["no json", "{", "NaN", "1e999", "[" * 300])
async def test_payload_of_any_text_can_be_looked_at(store: AnyStore, data: str) -> None:
    (sent,) = await send(store, mail(data))

    (listed,) = await store.admin.list_messages(Query())

    assert repr(listed) == repr(await shown(store, sent))


async def test_lists_go_both_ways_by_patterns_and_errors(
    store: AnyStore, clock: ManualClock
) -> None:
    (died,) = await send(store, mail('"100%"'))
    (held,) = await claim(store)
    await settle(store, held, Outcome.DEAD, failure=Failure('TimeoutError: "50%" \\ of it', "text"))
    ids = await send(store, *(Send(kind, "1") for kind in ("a.b", "a_b", "a[b", "a\\b", "A.b")))

    async def types(pattern: str, *, reverse: bool = False) -> list[str]:
        query = Query(type_pattern=pattern, reverse=reverse, after=2**62 if reverse else 0)
        return [record.type for record in await store.admin.list_messages(query)]

    assert await types("a*") == ["a.b", "a_b", "a[b", "a\\b"]
    assert await types("*", reverse=True) == ["A.b", "a\\b", "a[b", "a_b", "a.b"]
    for exact in ("a_b", "a[b", "a\\b", "a?b"):
        assert await types(exact) == [exact][: exact != "a?b"]
    for error, found in (('"50%" \\', [died]), ("timeout", [died]), ("trace", []), ("_", [])):
        letters = await store.admin.list_dead_letters(Query(error=error, reverse=True, after=2**62))
        assert [record.id for record in letters] == found
    assert len(ids) == 5


async def test_payloads_are_those_of_messages_in_order(store: AnyStore, clock: ManualClock) -> None:
    await send(store, mail('"a"'))
    await claim(store)
    await send(store, mail("1"), mail("2"))

    first = await store.admin.payloads(after=0, limit=2)
    rest = await store.admin.payloads(after=first[-1].id, limit=2)

    assert [payload.data for payload in [*first, *rest]] == ['"a"', "1", "2"]


async def test_original_sends_all_that_a_message_carries_but_its_past(
    store: AnyStore, clock: ManualClock
) -> None:
    sent = mail('"x"', ordering_key="k", priority=3, options=OPTIONS)
    (message_id,) = await send(store, sent)

    waiting = await store.admin.original(message_id)
    (held,) = await claim(store)
    await settle(store, held, Outcome.DEAD, failure=Failure("DeadError: no"))

    assert waiting == await store.admin.original(message_id) == sent
    assert await store.admin.original(message_id + 1) is None


async def test_requeue_with_another_payload_changes_nothing_else(
    store: AnyStore, clock: ManualClock
) -> None:
    (old,) = await send(store, mail('"x"', ordering_key="k", priority=3, options=OPTIONS))
    (held,) = await claim(store)
    await settle(store, held, Outcome.DEAD, failure=Failure("DeadError: no"))

    requeued = await store.admin.requeue([old], data='"y"')

    record = await shown(store, requeued[old])
    assert (record.data, record.priority, record.ordering_key) == ("y", 3, "k")
    assert (record.headers, record.requeued_from, record.attempt) == ({"a": "b"}, old, 0)
