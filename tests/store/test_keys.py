"""Keys: read together, written together, each commit with a version of its own."""

import asyncio
from typing import Any

import pytest

from kvqueue_fastapi.codec import encode_options, encode_u64
from kvqueue_fastapi.errors import InvalidOptionError
from kvqueue_fastapi.keys import versionstamp_of, with_versionstamp
from kvqueue_fastapi.model import (
    Arithmetic,
    AtomicWrite,
    Check,
    Committed,
    Encoding,
    Failure,
    KvArithmetic,
    KvDelete,
    KvSet,
    Mutation,
    Options,
    Outcome,
)
from kvqueue_fastapi.store import AnyStore
from kvqueue_fastapi.store.base import MAX_READ_KEYS
from tests.store.given import ManualClock, claim, count_rows, ending, mail, send


async def write(store: AnyStore, *mutations: Mutation) -> Committed:
    return await store.commit(AtomicWrite(mutations=mutations))


async def values(store: AnyStore, *keys: bytes) -> list[bytes | None]:
    return [found and found.value for found in await store.get(keys)]


async def numbered(store: AnyStore, count: int) -> list[bytes]:
    keys = [b"%05d" % n for n in range(count)]
    await asyncio.gather(*(write(store, KvSet(key, key)) for key in keys))
    return keys


@pytest.mark.parametrize("count", [1, 2, 127, 128, 129, 300, 1_000])
async def test_keys_of_any_batch_are_all_written_and_deleted(store: AnyStore, count: int) -> None:
    keys = await numbered(store, count)
    written = await values(store, *keys)
    await asyncio.gather(*(write(store, KvDelete(key)) for key in keys))

    assert written == keys
    assert await values(store, *keys) == [None] * count


async def test_writes_that_share_a_batch_have_consecutive_versions(store: AnyStore) -> None:
    committed = await asyncio.gather(*(write(store, KvSet(b"k", b"%d" % n)) for n in range(50)))

    assert [one.version for one in committed] == list(range(1, 51))
    (found,) = await store.get([b"k"])
    assert found is not None
    assert (found.value, found.version) == (b"49", 50)


async def test_later_write_of_a_batch_sees_the_earlier_one(store: AnyStore) -> None:
    only_if_absent = AtomicWrite([Check(b"k", None)], [KvSet(b"k", b"first")])
    add = KvArithmetic(b"n", Arithmetic.SUM, 1)

    committed = await asyncio.gather(
        *(store.commit(only_if_absent) for _ in range(3)), *(write(store, add) for _ in range(20))
    )

    assert [one.ok for one in committed[:3]] == [True, False, False]
    assert await values(store, b"n") == [encode_u64(20)]


async def test_failed_arithmetic_leaves_nothing_and_takes_no_version(store: AnyStore) -> None:
    await write(store, KvSet(b"text", b'"x"'))
    bad = AtomicWrite(
        mutations=[KvSet(b"p", b"1"), KvArithmetic(b"text", Arithmetic.SUM, 1)], sends=[mail()]
    )

    answers: list[Any] = await asyncio.gather(
        write(store, KvSet(b"a", b"1")),
        store.commit(bad),
        write(store, KvSet(b"b", b"1")),
        return_exceptions=True,
    )

    assert isinstance(answers[1], InvalidOptionError)
    assert (answers[0].version, answers[2].version) == (2, 3)
    assert await values(store, b"a", b"p", b"b") == [b"1", None, b"1"]
    assert await claim(store) == []


async def test_versioned_write_without_keys_has_a_version(store: AnyStore) -> None:
    first = await store.commit(AtomicWrite(versioned=True))
    plain = await store.commit(AtomicWrite(sends=[mail()]))
    second = await store.commit(AtomicWrite(sends=[mail()], versioned=True))

    assert (first.version, plain.version, second.version) == (1, None, 2)
    assert await store.last_version() == 2


async def test_versionstamp_becomes_the_last_part_of_a_key(store: AnyStore) -> None:
    committed = await write(store, KvSet(b"\x02log\x00", b"1", versionstamped=True))

    assert committed.version is not None
    key = with_versionstamp(b"\x02log\x00", committed.version)
    assert key.endswith(b"\x02" + versionstamp_of(committed.version).encode() + b"\x00")
    assert await values(store, key) == [b"1"]


async def test_keys_of_a_dead_letter_have_a_version_of_their_own(store: AnyStore) -> None:
    options = encode_options(Options(keys_if_undelivered=(b"dead",)))
    await send(store, mail("1", options=options))
    (held,) = await claim(store)
    dead = ending(held, Outcome.DEAD, failure=Failure("oops"))

    before, _, after = await asyncio.gather(
        write(store, KvSet(b"k", b"1")), store.settle([dead]), write(store, KvSet(b"k", b"2"))
    )

    (found,) = await store.get([b"dead"])
    assert found is not None
    assert [before.version, found.version, after.version] == [1, 2, 3]
    assert found.value == b'{"type":"mail","data":1}'


async def test_each_of_many_readers_gets_its_own_keys(store: AnyStore) -> None:
    keys = await numbered(store, 50)

    found = await asyncio.gather(
        *(store.get([keys[n % 50], b"absent", keys[n % 50]]) for n in range(MAX_READ_KEYS))
    )

    assert [[one and one.value for one in three] for three in found] == [
        [keys[n % 50], None, keys[n % 50]] for n in range(MAX_READ_KEYS)
    ]


async def test_most_keys_that_can_be_read_at_once(store: AnyStore) -> None:
    keys = await numbered(store, MAX_READ_KEYS)

    assert await values(store, *keys) == keys


async def test_scan_goes_either_way_from_its_bounds(store: AnyStore) -> None:
    keys = await numbered(store, 10)

    forward = await store.scan(keys[2], keys[8], limit=4, reverse=False)
    backward = await store.scan(keys[2], keys[8], limit=4, reverse=True)

    assert [one.key for one in forward] == keys[2:6]
    assert [one.key for one in backward] == keys[7:3:-1]


async def test_expired_key_is_absent_at_once_and_told_how_long_it_stays(
    store: AnyStore, clock: ManualClock
) -> None:
    await write(store, KvSet(b"k", b"1", Encoding.JSON, 10))
    clock.pass_ms(4)
    (found,) = await store.get([b"k"])
    clock.pass_ms(6)

    assert found is not None
    assert found.expires_in_ms == 6
    assert await values(store, b"k") == [None]
    assert await store.scan(b"", b"\xff", limit=9, reverse=False) == []


async def test_what_has_expired_goes_with_the_writes_that_follow(
    store: AnyStore, clock: ManualClock
) -> None:
    await write(store, *(KvSet(b"%d" % n, b"1", expire_in_ms=1) for n in range(10)))
    clock.pass_ms(1)

    for n in range(5):
        await write(store, KvSet(b"k%d" % n, b"1"))

    assert await count_rows(store, "kvqueue_kv") == 5


async def test_key_watchers_are_woken_by_what_may_change_keys(store: AnyStore) -> None:
    woken: list[str] = []
    await send(store, mail("1"))
    (held,) = await claim(store)
    unsubscribe = store.subscribe_to_keys(lambda: woken.append("woken"))

    await write(store, KvSet(b"k", b"1"))
    after_set = len(woken)
    await store.settle([ending(held, Outcome.DEAD, failure=Failure("oops"))])
    after_dead = len(woken)
    unsubscribe()
    await write(store, KvSet(b"k", b"2"))

    assert 0 < after_set < after_dead == len(woken)
