"""Reports: what listeners say of themselves, and what ended in which minute."""

import asyncio

from kvqueue_fastapi.keeper import Minute
from kvqueue_fastapi.model import Report, Send, Tally
from kvqueue_fastapi.store import AnyStore
from kvqueue_fastapi.store.base import MINUTE_MS
from kvqueue_fastapi.version import __version__
from tests.store.given import ManualClock, send

HOUR_MS = 3_600_000


def minute_of(clock: ManualClock) -> int:
    return clock.now_ms // MINUTE_MS * MINUTE_MS


async def test_listener_is_as_it_last_said(store: AnyStore, clock: ManualClock) -> None:
    listener_id = await store.enter_listener(["a"])
    (fresh,) = await store.admin.listeners()
    clock.pass_ms(2_000)

    await asyncio.to_thread(store.report, listener_id, Report(3, 250), ())

    (seen,) = await store.admin.listeners()
    assert (fresh.running, fresh.loop_lag_ms, fresh.seen_ms) == (0, 0, fresh.since_ms)
    assert (seen.running, seen.loop_lag_ms, seen.seen_ms) == (3, 250, clock.now_ms)
    assert seen.version == fresh.version == __version__


async def test_what_ended_adds_up_by_type_and_minute(store: AnyStore, clock: ManualClock) -> None:
    one, two = await store.enter_listener(["a"]), await store.enter_listener(["a"])
    clock.pass_ms(MINUTE_MS - clock.now_ms % MINUTE_MS)
    first = minute_of(clock)

    store.report(one, Report(0, 0), [Tally("a", 1, 2, 3), Tally("b", 1, 0, 0)])
    clock.pass_ms(MINUTE_MS - 1)
    store.report(two, Report(0, 0), [Tally("b", 4, 5, 6), Tally("a", 10, 20, 30)])
    clock.pass_ms(1)
    store.report(two, Report(0, 0), [Tally("a", 7, 0, 0)])

    assert await store.admin.minutes() == [
        Minute("a", first, 11, 22, 33),
        Minute("a", first + MINUTE_MS, 7, 0, 0),
        Minute("b", first, 5, 5, 6),
    ]


async def test_minutes_are_kept_for_an_hour(store: AnyStore, clock: ManualClock) -> None:
    listener_id = await store.enter_listener(["a"])
    clock.pass_ms(MINUTE_MS - clock.now_ms % MINUTE_MS)
    store.report(listener_id, Report(0, 0), [Tally("a", 1, 0, 0)])

    clock.pass_ms(HOUR_MS - 1)
    assert (store.sweep(), len(await store.admin.minutes())) == (0, 1)
    clock.pass_ms(1)

    assert await store.admin.minutes() == []
    assert (store.sweep(), store.sweep()) == (1, 0)


async def test_reports_of_one_type_at_once_all_count(store: AnyStore, clock: ManualClock) -> None:
    listener_id = await store.enter_listener(["a"])
    tallies = [Tally("b", 1, 0, 0), Tally("a", 1, 0, 0)]

    await asyncio.gather(
        *(
            asyncio.to_thread(store.report, listener_id, Report(0, 0), tallies[:: 1 - n % 2 * 2])
            for n in range(20)
        )
    )

    assert [minute.handled for minute in await store.admin.minutes()] == [20, 20]


async def test_oldest_is_found_over_types_and_priorities(
    store: AnyStore, clock: ManualClock
) -> None:
    async def send_at(kind: str, ago_ms: int, priority: int = 0) -> None:
        clock.pass_ms(-ago_ms)
        await send(store, Send(kind, "1", priority=priority))
        clock.pass_ms(ago_ms)

    await send_at("a", 200, priority=5)
    await send_at("a", 300, priority=-5)
    await send_at("b", 400)
    await send_at("c", 900)
    await send(store, Send("d", "1", delay_ms=60_000))

    unheard = await store.admin.oldest_ready_age_ms()
    first = await store.enter_listener(["a", "d"])
    one_type = await store.admin.oldest_ready_age_ms()
    await store.enter_listener(["b", "d", "none"])
    all_types = await store.admin.oldest_ready_age_ms()
    await store.admin.set_paused("b", paused=True)
    paused = await store.admin.oldest_ready_age_ms()
    store.leave_listener(first)

    assert (unheard, one_type, all_types, paused) == (None, 300, 400, 300)
    assert await store.admin.oldest_ready_age_ms() is None


async def test_engine_that_could_not_write_of_late_says_so(store: AnyStore) -> None:
    before = store.can_write
    store._patience.outages.has_failed()

    assert (before, store.can_write) == (True, False)
