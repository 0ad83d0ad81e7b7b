"""The database locked by another program: waited for, told of, and nobody's death."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kvqueue_fastapi import KvQueue, KvQueueModule, KvQueueSettings, StoreBusyError
from kvqueue_fastapi.store import AnyStore, open_store
from tests.contract.harness import Seen, running, until
from tests.faults.locking import locked
from tests.processes.fleet import Fleet
from tests.store.given import claim, claimed_ids, mail, send, shown
from tests.web.serving import House

LEASE_S = 1
WAYS = ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"]
LONG_S = 60
DEFAULT_PATIENCE_S = 10
"""A third of the default lease."""


@pytest.mark.parametrize("how", WAYS)
async def test_a_lock_that_is_freed_in_time_is_only_waited_for(tmp_path: Path, how: str) -> None:
    seen = Seen()
    async with running(tmp_path, callbacks={"n": seen.take}, lease_s=30) as bench:
        with locked(tmp_path / "q.db", how) as other:
            sending = [asyncio.create_task(bench.queue.send_message("n", n)) for n in range(50)]
            await asyncio.sleep(0.3)
            assert await bench.admin.messages() == ()
            assert not any(task.done() for task in sending)

            other.let_go()

            assert sorted(await asyncio.gather(*sending)) == list(range(1, 51))
        assert sorted(await seen.stay(50)) == list(range(50))


@pytest.mark.parametrize("how", WAYS)
async def test_a_send_to_a_database_that_stays_locked_is_told_so_and_stores_nothing(
    tmp_path: Path, how: str
) -> None:
    async with running(tmp_path, listen=False, lease_s=LEASE_S) as bench:
        with locked(tmp_path / "q.db", how) as other:
            answers = await asyncio.gather(
                bench.queue.send_message("n"), bench.kv.set(("k",), 1), return_exceptions=True
            )
            other.let_go()

        assert {type(answer) for answer in answers} == {StoreBusyError}
        assert {str(answer) for answer in answers} == {BUSY}
        assert (await bench.kv.get(("k",))).versionstamp is None
        assert await bench.queue.send_message("n") == 1


BUSY = (
    "Another program has held the database's lock for 0.333333 s. "
    "Look for a long transaction in another process."
)


async def test_a_program_that_dies_with_the_lock_holds_nobody_up(tmp_path: Path) -> None:
    seen = Seen()
    async with running(tmp_path, callbacks={"n": seen.take}) as bench:
        with locked(tmp_path / "q.db") as other:
            sending = asyncio.create_task(bench.queue.send_message("n", 1))
            await asyncio.sleep(0.1)

            other.kill()

            await sending
        assert await seen.stay(1) == [1]


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[AnyStore]:
    store = await open_store(str(directory / "q.db"), KvQueueSettings(lease_s=LEASE_S))
    try:
        yield store
    finally:
        await store.close()


async def test_a_lock_of_more_than_a_lease_takes_nothing_from_live_holders(tmp_path: Path) -> None:
    async with opened(tmp_path) as holder, opened(tmp_path) as peer:
        await send(holder, mail())
        (held,) = await claim(holder, lease_ms=LEASE_S * 1000)
        with locked(tmp_path / "q.db"):
            await asyncio.sleep(LEASE_S + 0.1)

        # The peer is the first to write again.
        too_early = await claim(peer)
        lost = holder.extend([(held.id, held.token)], 60_000)
        await asyncio.sleep(LEASE_S / 2)

        assert (too_early, lost, await claim(peer)) == ([], frozenset(), [])


async def test_what_nobody_prolongs_after_a_lock_goes_to_a_peer_in_part_of_a_lease(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as holder, opened(tmp_path) as peer:
        sent = await send(holder, mail())
        await claim(holder, lease_ms=LEASE_S * 1000)
        with locked(tmp_path / "q.db"):
            await asyncio.sleep(LEASE_S + 0.1)

        freed_at = time.monotonic()
        await until(lambda: claim(peer))

        assert LEASE_S / 8 < time.monotonic() - freed_at < LEASE_S
        assert (await shown(peer, *sent)).crashes == 1


async def test_a_short_lock_puts_no_takeover_off(tmp_path: Path) -> None:
    async def is_taken_over(directory: Path) -> bool:
        async with opened(directory) as holder, opened(directory) as peer:
            sent = await send(holder, mail())
            await claim(holder, lease_ms=300)
            await asyncio.sleep(0.15)
            await claim(peer)
            with locked(directory / "q.db"):
                await asyncio.sleep(0.15)
            return await claimed_ids(peer) == sent

    # The best of a few: one that stands still for as long as a part of a lease waits, and rightly.
    directories = [tmp_path / str(number) for number in range(5)]
    for directory in directories:
        directory.mkdir()
        if await is_taken_over(directory):
            return
    pytest.fail("a short lock put each takeover off")


async def test_a_server_stops_while_the_database_is_locked_and_its_messages_come_again(
    house: House,
) -> None:
    server = house.uvicorn(shutdown_timeout_s=0.5)
    # Long enough that the lock is there when it ends.
    ended, cut_off = await server.send("sleep", seconds=2), await server.send("sleep", seconds=60)
    await house.noted("begun", cut_off)
    with locked(Path(house.url)):
        await house.noted("ended", ended)
        asked_at = server.signal(signal.SIGTERM)
        # A few seconds for each step; patience would be ten for each.
        assert await server.exited() - asked_at < 12

    house.worker()

    for message_id in (ended, cut_off):
        # It had left word that its end is no crash.
        assert (await house.noted("begun", message_id, times=2)).attempt == 1


@pytest.fixture
async def queue(fleet: Fleet) -> AsyncIterator[KvQueue]:
    async with KvQueueModule(str(fleet.database), listen=False).running() as queue:
        yield queue


@pytest.mark.long
async def test_a_minute_of_lock_delays_and_doubles_nothing(fleet: Fleet, queue: KvQueue) -> None:
    # With the lease of 30 s that is the default: the lock lasts for two of them.
    listeners = await asyncio.gather(fleet.start(), fleet.start())
    ending = await queue.send_messages([("work", {"seconds": 1})] * 5)
    kinds = ["work", "thread"] * 3
    outlasting = await queue.send_messages([(kind, {"seconds": LONG_S + 2}) for kind in kinds])
    for message_id in (*ending, *outlasting):
        await fleet.begun(message_id)

    with locked(fleet.database):
        freed_at = time.time() + LONG_S
        refused = await asyncio.gather(queue.send_message("work"), return_exceptions=True)
        await fleet.ended(*ending)
        await asyncio.sleep(freed_at - DEFAULT_PATIENCE_S / 2 - time.time())
        patient = asyncio.create_task(queue.send_message("work", {}))
        await asyncio.sleep(freed_at - time.time())

    await fleet.ended(*outlasting, await patient)
    await fleet.until(lambda: not fleet.rows("SELECT id FROM kvqueue_messages"))
    assert isinstance(refused[0], StoreBusyError)
    assert set(fleet.ledger.count("begun").values()) == {1}
    lost = [line.lost for line in fleet.ledger.lines("ended") if line.at > freed_at + 1]
    assert lost.count(False) == len(lost) > 0
    assert [listener.poll() for listener in listeners] == [None, None]
