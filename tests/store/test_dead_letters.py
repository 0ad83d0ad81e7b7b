"""Dead letters: nothing is lost when a message is given up."""

import json

import pytest

from kvqueue_fastapi.keeper import AttemptError, Query, State
from kvqueue_fastapi.model import (
    AtomicWrite,
    Check,
    Failure,
    KvSet,
    Outcome,
    Send,
)
from kvqueue_fastapi.store import AnyStore
from tests.store.given import LEASE_MS, ManualClock, claim, crash, mail, send, settle, shown

OOPS = Failure("ValueError: oops", "Traceback …")
KEYS = json.dumps({"headers": {"a": "b"}, "keys_if_undelivered": [b"k1".hex(), b"k2".hex()]})


async def test_given_up_message_is_kept_whole(store: AnyStore, clock: ManualClock) -> None:
    sent_at_ms = clock.now_ms
    (sent,) = await send(store, mail('{"n":1}', priority=4, ordering_key="k", options=KEYS))
    (held,) = await claim(store)
    clock.pass_ms(70)

    await settle(store, held, Outcome.DEAD, failure=OOPS)
    record = await shown(store, sent)

    assert (record.id, record.type, record.data) == (sent, "mail", {"n": 1})
    assert (record.state, record.reason) == (State.DEAD, "ValueError: oops")
    assert (record.priority, record.ordering_key, record.headers) == (4, "k", {"a": "b"})
    assert (record.sent_at_ms, record.due_at_ms) == (sent_at_ms, clock.now_ms)
    assert (record.attempt, record.crashes) == (1, 0)
    assert record.errors == (AttemptError(1, clock.now_ms, "ValueError: oops", "Traceback …"),)


async def test_dead_letter_keeps_the_errors_of_every_attempt(
    store: AnyStore, clock: ManualClock
) -> None:
    (sent,) = await send(store, mail())
    await crash(store, clock)
    (held,) = await claim(store)
    await settle(store, held, Outcome.RETRY, failure=Failure("second"))
    (held,) = await claim(store)

    await settle(store, held, Outcome.DEAD, failure=Failure("third"))
    record = await shown(store, sent)

    assert [(e.attempt, e.text) for e in record.errors[1:]] == [(2, "second"), (3, "third")]
    assert (len(record.errors), record.attempt, record.crashes) == (3, 3, 1)


async def test_dead_letter_is_not_claimed(store: AnyStore, clock: ManualClock) -> None:
    await send(store, mail())
    (held,) = await claim(store)
    await settle(store, held, Outcome.DEAD, failure=OOPS)

    clock.pass_ms(9 * LEASE_MS)

    assert await claim(store) == []
    assert await store.count_pending(most=9) == 0
    assert await store.ready_types(after="", limit=9) == []


async def test_undelivered_keys_are_written_with_the_death(store: AnyStore) -> None:
    await send(store, mail('{"n":1}', options=KEYS))
    (held,) = await claim(store)
    absent = await _have(store, version=None)

    await settle(store, held, Outcome.DEAD, failure=OOPS)

    assert absent == [True, True]
    # One version for both keys, since one commit wrote them.
    assert await _have(store, version=1) == [True, True]


async def test_undelivered_keys_hold_what_sends_the_message_again(store: AnyStore) -> None:
    await send(store, Send("ä", '{"n":1}', options=KEYS))
    (held,) = await claim(store, "ä")

    await settle(store, held, Outcome.DEAD, failure=OOPS)

    assert await _value(store, b"k1") == {"type": "ä", "data": {"n": 1}}
    assert await _value(store, b"k2") == {"type": "ä", "data": {"n": 1}}


async def test_undelivered_keys_overwrite_what_was_there(store: AnyStore) -> None:
    await store.commit(AtomicWrite(mutations=[KvSet(b"k1", b"1", expire_in_ms=1)]))
    await send(store, mail("2", options=KEYS))
    (held,) = await claim(store)

    await settle(store, held, Outcome.DEAD, failure=OOPS)

    assert await _value(store, b"k1") == {"type": "mail", "data": 2}
    assert await _have(store, version=2) == [True, True]


async def test_undelivered_keys_are_written_when_it_crashes_too_often(
    store: AnyStore, clock: ManualClock
) -> None:
    await send(store, mail("3", options=KEYS))
    await crash(store, clock, times=4)

    await claim(store)

    assert await _value(store, b"k2") == {"type": "mail", "data": 3}


async def test_undelivered_keys_are_not_written_while_there_is_hope(store: AnyStore) -> None:
    await send(store, mail("3", options=KEYS))
    (held,) = await claim(store)

    await settle(store, held, Outcome.RETRY, failure=OOPS)

    assert await _have(store, version=None) == [True, True]


@pytest.mark.parametrize("data", ["no json", '{"a":', ""])
async def test_payload_that_is_no_json_is_kept_as_text(store: AnyStore, data: str) -> None:
    (sent,) = await send(store, mail(data, options=KEYS))
    (held,) = await claim(store)

    await settle(store, held, Outcome.DEAD, failure=OOPS)

    assert (await shown(store, sent)).data == data
    assert await _value(store, b"k1") == {"type": "mail", "data": data}


@pytest.mark.parametrize("options", ["", "{", "5", '{"keys_if_undelivered":["zz"]}', "[]"])
async def test_options_that_make_no_sense_do_not_keep_a_message_alive(
    store: AnyStore, options: str
) -> None:
    (sent,) = await send(store, mail(options=options))
    (held,) = await claim(store)

    assert await settle(store, held, Outcome.DEAD, failure=OOPS)
    assert (await shown(store, sent)).reason == OOPS.text


async def test_dead_letters_are_listed_by_id(store: AnyStore) -> None:
    ids = await send(store, *(mail() for _ in range(3)))
    for held in reversed(await claim(store)):
        await settle(store, held, Outcome.DEAD, failure=OOPS)

    assert [one.id for one in await store.admin.list_dead_letters(Query())] == ids
    assert await store.admin.list_messages(Query()) == []


async def _have(store: AnyStore, *, version: int | None) -> list[bool]:
    """Whether each of the two keys has this version."""
    return [
        (await store.commit(AtomicWrite(checks=[Check(key, version)]))).ok for key in (b"k1", b"k2")
    ]


async def _value(store: AnyStore, key: bytes) -> object:
    (found,) = await store.get([key])
    assert found is not None
    return json.loads(found.value)
