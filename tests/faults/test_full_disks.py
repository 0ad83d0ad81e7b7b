"""A disk without room: told to whoever sends, harmless to what is stored, over when it is over."""

import asyncio
import logging
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from kvqueue_fastapi import Kv, KvQueue, KvQueueSettings, StoreError
from kvqueue_fastapi.store import AnyStore, open_store
from tests.contract.harness import Bench, Seen, running, until
from tests.faults.small_disk import SmallDisk
from tests.store.given import claim, mail, send, shown

LEASE_S = 1
KILOBYTE = "x" * 1_000


async def test_a_send_to_a_full_disk_names_the_file_and_the_remedy(small_disk: SmallDisk) -> None:
    async with running(small_disk.path, listen=False) as bench:
        before = await bench.queue.send_message("n", "before")
        small_disk.fill()

        with pytest.raises(StoreError) as one:
            await bench.queue.send_message("n", "no")
        with pytest.raises(StoreError) as many:
            await bench.queue.send_messages([("n", KILOBYTE)] * 20)

        small_disk.free()
        after = await bench.queue.send_message("n", "after")
        assert await stored_ids(bench) == [before, after]
    assert str(one.value) == str(many.value) == full(small_disk)


async def test_of_many_who_send_to_a_full_disk_each_is_told_what_became_of_his(
    small_disk: SmallDisk,
) -> None:
    async with running(small_disk.path, listen=False) as bench:
        small_disk.fill(leave_bytes=300_000)

        answers = await asyncio.gather(
            *(send_ten(bench.queue, n) for n in range(100)), return_exceptions=True
        )

        small_disk.free()
        sent = [ids for ids in answers if isinstance(ids, list)]
        refused = [error for error in answers if not isinstance(error, list)]
        assert {str(error) for error in refused} == {full(small_disk)}
        assert sent
        # All ten or none: nothing but what was returned.
        assert await stored_ids(bench) == sorted(i for ids in sent for i in ids)
    assert integrity(small_disk) == "ok"


async def test_keys_are_all_written_or_none_when_the_disk_is_full(small_disk: SmallDisk) -> None:
    async with Kv.open(f"{small_disk.path}/q.db") as kv:
        await kv.set(("kept",), 1)
        small_disk.fill(leave_bytes=40_000)
        operation = kv.atomic().set(("kept",), 2).sum(("count",), 1).enqueue("no")
        for n in range(50):
            operation.set(("many", n), KILOBYTE)

        with pytest.raises(StoreError) as caught:
            await operation.commit()

        assert (await kv.get(("kept",))).value == 1
        assert [one async for one in kv.list(start=("count",), end=("zzz",))] == [
            await kv.get(("kept",))
        ]
        small_disk.free()
        assert (await operation.commit()).ok
    assert str(caught.value) == full(small_disk)
    assert integrity(small_disk) == "ok"


async def test_what_was_handled_on_a_full_disk_is_settled_and_not_handled_twice(
    small_disk: SmallDisk, caplog: pytest.LogCaptureFixture
) -> None:
    begun, ended, gate = Seen(), Seen(), asyncio.Event()

    async def handle(data: int) -> None:
        begun.add(data)
        await gate.wait()
        ended.add(data)

    async with running(small_disk.path, callbacks={"n": handle}, lease_s=LEASE_S) as bench:
        await bench.queue.send_messages([("n", n) for n in range(20)])
        await begun.reach(20)
        small_disk.fill()
        gate.set()
        await asyncio.sleep(2.5 * LEASE_S)

        small_disk.free()
        # It wakes the listener, which claims before the others are settled.
        await bench.queue.send_message("n", 20)
        await until(lambda: is_idle(bench))

    assert Counter(begun) == Counter(ended) == Counter(range(21))
    # A log on the same disk is not to fill it again.
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert 0 < len(errors) <= 12


async def test_a_peer_takes_nothing_from_a_holder_whom_the_full_disk_kept_from_prolonging(
    small_disk: SmallDisk,
) -> None:
    async with opened(small_disk) as holder, opened(small_disk) as peer:
        await send(holder, mail())
        (held,) = await claim(holder, lease_ms=100)
        small_disk.fill()
        await asyncio.sleep(0.11)
        with pytest.raises(StoreError, match="full"):
            await claim(peer)

        small_disk.free()
        too_early = await claim(peer)
        lost = holder.extend([(held.id, held.token)], 60_000)
        await asyncio.sleep(LEASE_S / 2)

        assert (too_early, lost, await claim(peer)) == ([], frozenset(), [])


async def test_what_nobody_prolongs_when_there_is_room_again_goes_to_a_peer(
    small_disk: SmallDisk,
) -> None:
    async with opened(small_disk) as holder, opened(small_disk) as peer:
        sent = await send(holder, mail())
        await claim(holder, lease_ms=100)
        small_disk.fill()
        await asyncio.sleep(0.11)
        with pytest.raises(StoreError, match="full"):
            await claim(peer)

        small_disk.free()
        too_early = await claim(peer)

        assert too_early == []
        await until(lambda: claim(peer))
        assert (await shown(peer, *sent)).crashes == 1


async def test_the_listener_goes_on_by_itself_when_there_is_room_again(
    small_disk: SmallDisk, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    async with running(small_disk.path, callbacks={"n": seen.take}) as bench:
        await bench.queue.send_message("n", 1, delay=0.3)
        small_disk.fill()
        await until(lambda: said(caplog, "could not claim; it tries again"))

        small_disk.free()

        assert await seen.stay(1) == [1]


@pytest.mark.parametrize("leave_bytes", [0, 4_096, 16_384, 65_536])
async def test_a_first_start_on_a_full_disk_says_so_and_the_next_one_works(
    small_disk: SmallDisk, leave_bytes: int
) -> None:
    small_disk.fill(leave_bytes)

    with pytest.raises(StoreError) as caught:
        async with running(small_disk.path, callbacks={"n": Seen().take}):
            pytest.fail("it started")

    small_disk.free()
    async with running(small_disk.path, listen=False) as bench:
        assert await bench.queue.send_message("n", 1) == 1
    assert str(caught.value) in (full(small_disk), broken(small_disk))


@pytest.mark.parametrize("leave_bytes", [0, 4_096, 16_384])
async def test_a_start_with_messages_on_a_full_disk_says_so_and_loses_none(
    small_disk: SmallDisk, leave_bytes: int
) -> None:
    async with running(small_disk.path, listen=False) as bench:
        sent = await bench.queue.send_message("n", 1)
    small_disk.fill(leave_bytes)

    with pytest.raises(StoreError) as caught:
        async with running(small_disk.path, callbacks={"n": Seen().take}):
            pytest.fail("it started")

    small_disk.free()
    async with running(small_disk.path, listen=False) as bench:
        assert await stored_ids(bench) == [sent]
    assert str(caught.value) in (full(small_disk), broken(small_disk))


async def test_a_log_that_filled_the_disk_is_emptied_when_there_is_room_again(
    small_disk: SmallDisk,
) -> None:
    log = small_disk.path / "q.db-wal"
    async with running(small_disk.path, listen=False) as bench:
        small_disk.fill(leave_bytes=500_000)
        sent = await send_until_full(bench.queue)
        with pytest.raises(sqlite3.OperationalError, match="full"):
            empty_log(small_disk)

        small_disk.free()
        emptied = empty_log(small_disk)

        assert (emptied, log.stat().st_size) == ((0, 0, 0), 0)
        assert await stored_ids(bench) == sent


async def test_a_queue_that_is_closed_on_a_full_disk_keeps_all_that_was_sent(
    small_disk: SmallDisk,
) -> None:
    async with running(small_disk.path, listen=False) as bench:
        small_disk.fill(leave_bytes=500_000)
        sent = await send_until_full(bench.queue)

    small_disk.free()

    async with running(small_disk.path, listen=False) as bench:
        assert await stored_ids(bench) == sent
    assert integrity(small_disk) == "ok"


def full(disk: SmallDisk) -> str:
    return (
        f"{disk.path}/q.db: database or disk is full. "
        "Make room on the disk; what was stored is safe."
    )


def broken(disk: SmallDisk) -> str:
    """What SQLite says where it cannot make its index of the log."""
    return f"{disk.path}/q.db: disk I/O error. Check the disk: it may be full, gone or damaged."


@asynccontextmanager
async def opened(disk: SmallDisk) -> AsyncIterator[AnyStore]:
    store = await open_store(f"{disk.path}/q.db", KvQueueSettings(lease_s=LEASE_S))
    try:
        yield store
    finally:
        await store.close()


async def send_ten(queue: KvQueue, number: int) -> list[int]:
    return await queue.send_messages([("n", f"{number} {KILOBYTE}")] * 10)


async def send_until_full(queue: KvQueue) -> list[int]:
    sent: list[int] = []
    try:
        while True:
            sent += await send_ten(queue, 0)
    except StoreError:
        return sent


async def stored_ids(bench: Bench) -> list[int]:
    return [one.id for one in await bench.admin.messages(limit=1_000)]


async def is_idle(bench: Bench) -> bool:
    return not await bench.admin.messages()


async def said(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return text in caplog.text


def integrity(disk: SmallDisk) -> Any:
    return _ask(disk.path, "PRAGMA integrity_check")[0]


def empty_log(disk: SmallDisk) -> tuple[Any, ...]:
    return _ask(disk.path, "PRAGMA wal_checkpoint(TRUNCATE)")


def _ask(directory: Path, question: str) -> tuple[Any, ...]:
    with closing(sqlite3.connect(directory / "q.db")) as connection:
        return tuple(connection.execute(question).fetchone())
