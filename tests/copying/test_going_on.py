"""What goes on in the target as it would have gone on in the source."""

from typing import Any

import pytest

from kvqueue_fastapi.errors import IdempotencyConflictError
from kvqueue_fastapi.model import AtomicWrite, Check, KvSet
from tests.copying.filled import HOUR_MS
from tests.copying.pairs import Pair, Side
from tests.store.given import (
    ManualClock,
    claim,
    mail,
    once,
    send,
    settle,
    shown,
)


async def test_messages_come_in_the_order_in_which_they_would_have_come(
    filled: Pair, clock: ManualClock
) -> None:
    await filled.copy()

    came = []
    for side in filled:
        async with side.opened(clock) as store:
            came.append(await _handle_all(store))
    assert came[0] == came[1]
    assert len(came[0]) > 10


async def _handle_all(store: Any) -> list[tuple[Any, ...]]:
    """What comes until nothing is left that is due, with what handlers see of it."""
    seen: list[tuple[Any, ...]] = []
    kinds = ("plain", "ordered", "mail", "failed", "later", "crashed-1", "crashed-2", "crashed-3")
    while True:
        held = await claim(store, *kinds, limit=5)
        held = held or await claim(store, *kinds, isolated=True)
        if not held:
            return seen
        for one in held:
            seen.append(one._replace(token=0))
            await settle(store, one)


async def test_delayed_messages_are_due_when_they_were(filled: Pair, clock: ManualClock) -> None:
    await filled.copy()

    async with filled.target.opened(clock) as store:
        assert await claim(store, "later") == []
        clock.pass_ms(HOUR_MS)
        assert [one.data for one in await claim(store, "later")] == ["4"]


async def test_no_id_is_given_twice(pair: Pair, clock: ManualClock) -> None:
    async with pair.source.opened(clock) as store:
        given = await send(store, *[mail()] * 5)
        await store.admin.discard(given)

    await pair.copy()

    async with pair.target.opened(clock) as store:
        (new,) = await send(store, mail())
    assert new > max(given)


async def test_versionstamps_go_on_and_checks_still_hold(pair: Pair, clock: ManualClock) -> None:
    async with pair.source.opened(clock) as store:
        kept = (await store.commit(AtomicWrite(mutations=[KvSet(b"\x02a\x00", b"1")]))).version
        last = (await store.commit(AtomicWrite(versioned=True))).version

    await pair.copy()

    async with pair.target.opened(clock) as store:
        checked = AtomicWrite(checks=[Check(b"\x02a\x00", kept)], versioned=True)
        assert await store.last_version() == last
        assert (await store.commit(checked)).version == (last or 0) + 1


async def test_an_idempotency_key_still_stands_for_its_message(
    pair: Pair, clock: ManualClock
) -> None:
    async with pair.source.opened(clock) as store:
        first = await send(store, once("paid", "1"))

    await pair.copy()

    async with pair.target.opened(clock) as store:
        assert await send(store, once("paid", "1")) == first
        with pytest.raises(IdempotencyConflictError, match=f"message {first[0]}"):
            await send(store, once("paid", "2"))


async def test_a_paused_type_stays_so_until_it_is_resumed(filled: Pair, clock: ManualClock) -> None:
    await filled.copy()

    async with filled.target.opened(clock) as store:
        assert await claim(store, "stopped") == []
        await store.admin.set_paused("stopped", paused=False)
        assert [one.data for one in await claim(store, "stopped")] == ["9"]


async def test_keys_expire_when_they_would_have(filled: Pair, clock: ManualClock) -> None:
    await filled.copy()

    async with filled.target.opened(clock) as store:
        over, soon = await store.get([b"\x02over\x00", b"\x02soon\x00"])
        clock.pass_ms(HOUR_MS)
        later = await store.get([b"\x02soon\x00", b"\x02json\x00"])
    assert over is None
    assert soon is not None
    assert [found is not None for found in later] == [False, True]


async def test_what_a_dead_process_held_counts_a_crash(pair: Pair, clock: ManualClock) -> None:
    await _leave_claimed(pair.source, clock, retired=False)

    await pair.copy()

    async with pair.target.opened(clock) as store:
        await claim(store, "nothing")
        (held,) = await claim(store)
        assert (held.attempt, held.crashes) == (2, 1)
        (error,) = (await shown(store, held.id)).errors
    assert "the lease ended" in error.text


async def test_what_one_held_that_had_stopped_leaves_no_trace(
    pair: Pair, clock: ManualClock
) -> None:
    await _leave_claimed(pair.source, clock, retired=True)

    await pair.copy()

    async with pair.target.opened(clock) as store:
        (held,) = await claim(store)
        assert (held.attempt, held.crashes) == (1, 0)
        assert (await shown(store, held.id)).errors == ()


async def _leave_claimed(side: Side, clock: ManualClock, *, retired: bool) -> None:
    """Have a message in the hands of a listener whose process is gone."""
    async with side.opened(clock) as store:
        await send(store, mail())
        await claim(store, listener_id=7)
    _enter(side, 7, boot="of another day", retired=retired)


def _enter(side: Side, listener_id: int, *, boot: str, retired: bool = False) -> None:
    if side.is_sqlite:
        side.execute(
            "INSERT INTO kvqueue_listeners (id, host, boot, pid, since_ms, types, retired)"
            " VALUES (?, 'far', ?, 1, 0, '[]', ?)",
            listener_id,
            boot,
            retired,
        )
    else:
        side.execute(
            "INSERT INTO {schema}.kvqueue_listeners (id, host, pid, since_ms, types, retired)"
            " VALUES (?, 'far', 1, 0, '{}', ?)",
            listener_id,
            retired,
        )
