"""Several processes, or several parts of one, on one database."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from kvqueue_fastapi import KvQueue, KvQueueModule, on_queue_message
from tests.engines import ON_BOTH_ENGINES
from tests.processes.fleet import Fleet


@ON_BOTH_ENGINES
@pytest.mark.case(94)
async def test_two_workers_share_a_backlog(fleet: Fleet, queue: KvQueue) -> None:
    ids = await queue.send_messages([("work", {"seconds": 0.05})] * 1_800)
    settings = {"concurrency": 10}

    workers = [await fleet.start(settings=settings) for _ in range(2)]
    await fleet.ended(*ids)

    assert fleet.ledger.count("begun") == dict.fromkeys(ids, 1)
    share = Counter(line.pid for line in fleet.ledger.lines("begun"))

    assert all(share[worker.pid] >= 180 for worker in workers)


@pytest.mark.parametrize(("engine", "lease_s"), [("sqlite", 1), ("sqlite", 30), ("postgres", 1)])
async def test_what_waits_behind_a_long_handler_goes_to_a_free_peer(
    fleet: Fleet, queue: KvQueue, lease_s: float
) -> None:
    # Quick ones first, so that the first worker claims ahead.
    settings = {"concurrency": 1, "lease_s": lease_s}
    quick = ("work", {"seconds": 0.005})
    await fleet.start(settings=settings)
    ids = await queue.send_messages([quick] * 60 + [("work", {"seconds": 60})] + [quick] * 10)
    await fleet.begun(ids[60])

    peer = await fleet.start(settings=settings)

    await fleet.ended(*ids[61:], within_s=10)
    ended_by = {line.pid for one in ids[61:] for line in fleet.ledger.lines("ended", one)}
    assert ended_by == {peer.pid}


@ON_BOTH_ENGINES
@pytest.mark.case(95)
async def test_three_processes_of_three_writers_have_each_message_handled_once(
    fleet: Fleet,
) -> None:
    listener = await fleet.start()

    senders = [await fleet.start("send", writers=3, count=1_000) for _ in range(3)]
    await fleet.until(lambda: len(fleet.ledger.lines("done")) == 3)

    assert [sender.wait() for sender in senders] == [0, 0, 0]
    sent = [line.id for line in fleet.ledger.lines("sent")]
    assert len(sent) == len(set(sent)) == 9_000
    await fleet.ended(*sent)
    assert fleet.ledger.count("begun") == dict.fromkeys(sent, 1)
    assert listener.poll() is None
    assert not fleet.log.read_text()


@pytest.mark.case(96)
@pytest.mark.parametrize("_", range(3))
async def test_a_hundred_open_a_new_file_at_once(fleet: Fleet, _: int) -> None:
    openers = [fleet.launch("open_often", count=25) for _ in range(4)]

    await fleet.until(lambda: all(opener.poll() is not None for opener in openers))

    assert [opener.returncode for opener in openers] == [0] * 4, fleet.log.read_text()
    assert not fleet.log.read_text()
    assert fleet.rows("SELECT count(*) FROM kvqueue_messages") == [(100,)]


@ON_BOTH_ENGINES
async def test_a_forked_child_does_not_keep_its_dead_parent_alive(
    fleet: Fleet, queue: KvQueue
) -> None:
    parent = await fleet.start("listen_and_fork", fresh=True)
    await fleet.until(lambda: fleet.ledger.lines("forked"))
    message_id = await queue.send_message("work", {"seconds": 60})
    await fleet.begun(message_id)
    await fleet.start()

    killed_at = fleet.kill(parent)
    again = await fleet.begun(message_id, times=2)

    assert again.at - killed_at < 3


@ON_BOTH_ENGINES
async def test_the_end_of_a_forked_child_does_not_end_its_parent(
    fleet: Fleet, queue: KvQueue
) -> None:
    await fleet.start("listen_and_fork", fresh=True, child_s=1)
    message_id = await queue.send_message("work", {"seconds": 3})
    await fleet.begun(message_id)
    await fleet.start()

    await fleet.until(lambda: fleet.ledger.lines("child gone"))
    await fleet.ended(message_id)

    assert fleet.ledger.count("begun") == {message_id: 1}


@pytest.mark.parametrize("spelling", ["queue.db", "same/queue.db", "link.db"])
async def test_two_modules_share_one_file_in_one_process(tmp_path: Path, spelling: str) -> None:
    (tmp_path / "same").symlink_to(tmp_path)
    (tmp_path / "link.db").symlink_to(tmp_path / "queue.db")
    handled: Counter[int] = Counter()

    @on_queue_message("work")
    async def work(number: int) -> None:
        handled[number] += 1
        await asyncio.sleep(1)

    first = KvQueueModule(str(tmp_path / "queue.db"), consumers=[work])
    second = KvQueueModule(str(tmp_path / spelling), consumers=[work])
    async with first.running() as queue, second.running():
        await queue.send_messages([("work", number) for number in range(150)])
        await asyncio.sleep(1.7)

    assert handled == dict.fromkeys(range(150), 1)
