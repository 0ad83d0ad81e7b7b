import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from kvqueue_fastapi import KvQueue, KvQueueAdmin
from tests.processes.launcher import launched
from tests.web.serving import HERE, PATIENCE_S, House, Server

SLACK_S = 2
"""What a busy machine may add to a promised time."""
TAKEOVER_S = 2
"""A second or so is the promise; the lease of 30 s would be the failure."""


# --- stopping ---


async def test_a_server_that_stops_gives_back_what_does_not_end_in_the_grace(
    house: House, admin: KvQueueAdmin
) -> None:
    # pitfall 11
    first = house.uvicorn(shutdown_timeout_s=1)
    message_id = await first.send("sleep", seconds=60)
    await house.noted("begun", message_id)

    signalled_at = first.signal(signal.SIGTERM)
    took_s = await first.exited() - signalled_at
    record = await admin.message(message_id)
    house.uvicorn()
    again = await house.noted("begun", message_id, times=2)

    assert 1 <= took_s < 2 + SLACK_S
    assert record is not None
    assert (record.state, record.attempt, record.crashes, record.errors) == ("ready", 0, 0, ())
    assert again.attempt == 1
    assert "Traceback" not in first.log


async def test_a_server_that_stops_lets_handlers_end_within_the_grace(
    house: House, admin: KvQueueAdmin
) -> None:
    server = house.uvicorn()
    ids = [await server.send(kind, seconds=0.7) for kind in ("sleep", "block")]
    await house.noted("begun", times=2)

    signalled_at = server.signal(signal.SIGTERM)
    took_s = await server.exited() - signalled_at

    assert took_s < 0.7 + SLACK_S
    assert sorted(line.id for line in house.lines("ended")) == ids
    assert [await admin.message(message_id) for message_id in ids] == [None, None]
    assert "Traceback" not in server.log


@pytest.mark.case(97)
async def test_an_idle_server_stops_at_once(house: House) -> None:
    server = house.uvicorn()
    await server.started()

    signalled_at = server.signal(signal.SIGTERM)
    took_s = await server.exited() - signalled_at

    assert took_s < SLACK_S
    assert sorted(path.name for path in house.directory.glob("queue.db*")) == ["queue.db"]


@pytest.mark.parametrize(
    ("kind", "number"), [("uvicorn", signal.SIGINT), ("worker", signal.SIGTERM)]
)
async def test_a_thread_that_outlives_the_grace_keeps_its_message(
    house: House, admin: KvQueueAdmin, queue: KvQueue, kind: str, number: signal.Signals
) -> None:
    # pitfall 12; the thread runs for three times its lease
    first: Server = getattr(house, kind)(shutdown_timeout_s=0.5, lease_s=1)
    message_id = await queue.send_message("block", {"seconds": 3})
    begun = await house.noted("begun", message_id)

    first.signal(number)
    peer = house.worker(lease_s=1)
    await house.noted("ended", message_id)
    await first.exited()
    await asyncio.sleep(1)

    assert [(line.pid, line.attempt) for line in house.lines("begun")] == [(begun.pid, 1)]
    assert await admin.message(message_id) is None
    assert len(await admin.dead_letters()) == 0
    assert peer.process.poll() is None


async def test_a_thread_that_ends_together_with_uvicorn_spends_no_attempt(
    house: House, admin: KvQueueAdmin, queue: KvQueue
) -> None:
    # uvicorn raises SIGTERM again after its shutdown, which ends the process at once
    first = house.uvicorn(shutdown_timeout_s=0.5)
    message_id = await queue.send_message("block", {"seconds": 4})
    await house.noted("begun", message_id)
    house.worker()
    await house.noted("running")

    first.signal(signal.SIGTERM)
    await first.exited()
    await house.noted("begun", message_id, times=2, within_s=TAKEOVER_S + SLACK_S)

    record = await admin.message(message_id)
    assert record is not None
    assert (record.attempt, record.crashes) == (1, 0)


@pytest.mark.parametrize("kind", ["sleep", "block"])
async def test_a_second_ctrl_c_in_the_shutdown_changes_nothing(house: House, kind: str) -> None:
    # pitfall 11: uvicorn ignores it then, so the grace alone must bound the shutdown
    server = house.uvicorn(shutdown_timeout_s=1.5)
    message_id = await server.send(kind, seconds=1)
    await house.noted("begun", message_id)

    server.signal(signal.SIGINT)
    await server.logs("Waiting for application shutdown")
    server.signal(signal.SIGINT)
    await server.exited(1 + SLACK_S)

    assert [line.id for line in house.lines("ended")] == [message_id]


@pytest.mark.parametrize("kind", ["sleep", "block"])
async def test_a_forced_end_gives_messages_back_and_the_process_exits(
    house: House, admin: KvQueueAdmin, kind: str
) -> None:
    # the second Ctrl+C skips the lifespan's shutdown while a request hangs
    server = house.uvicorn()
    message_id = await server.send(kind, seconds=2)
    await house.noted("begun", message_id)
    hanging = await server.connect("/hang")
    await house.noted("hanging")

    server.signal(signal.SIGINT)
    await server.logs("Shutting down")
    server.signal(signal.SIGINT)
    # From Python 3.12 on uvicorn itself waits for its connections, forced or not.
    hanging.close()
    await server.exited(2 + SLACK_S)

    record = await admin.message(message_id)
    state = (record.state, record.attempt, record.crashes) if record else None
    assert state == (("ready", 0, 0) if kind == "sleep" else None)


# --- starting ---


@pytest.mark.case(96)
def test_six_processes_open_a_fresh_file_at_the_same_time(tmp_path: Path) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [launched([str(HERE / "opener.py")], **pipes) for _ in range(6)]

    for number in range(20):
        for process in processes:
            process.stdin.write(f"{tmp_path}/{number}.db\n".encode())
        assert [process.stdout.readline() for process in processes] == [b"opened\n"] * 6

    for process in processes:
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0


async def test_uvicorn_workers_start_on_a_fresh_file(house: House) -> None:
    server = house.uvicorn("--workers", "4")

    await server.started(times=4)

    assert "ERROR" not in server.log
    message_id = await server.send("sleep")
    await house.noted("ended", message_id)


async def test_a_start_that_fails_ends_the_server_and_says_why(house: House) -> None:
    # pitfall 16
    server = house.uvicorn(url=str(house.directory / "missing" / "queue.db"))

    await server.exited()

    assert server.process.returncode == 3
    assert "Check that its directory exists" in server.log
    assert "Application startup failed" in server.log


# --- several processes ---


@pytest.mark.case(94)
async def test_workers_share_a_backlog(house: House, queue: KvQueue) -> None:
    ids = await queue.send_messages([("sleep", {"seconds": 0.05})] * 900)

    house.uvicorn("--workers", "2", concurrency=10)
    await house.noted("ended", times=len(ids))

    handled = Counter(line.id for line in house.lines("begun"))
    shares = Counter(line.pid for line in house.lines("begun"))
    assert handled == Counter(ids)
    assert len(shares) == 2
    assert min(shares.values()) >= len(ids) / 10


async def test_a_web_process_that_only_sends_leaves_handling_to_a_worker(house: House) -> None:
    # pitfall 17
    server = house.uvicorn(listen="false")
    ids = [await server.send(kind, seconds=0) for kind in ("sleep", "block")]
    assert house.lines("begun") == []

    worker = house.worker()
    await house.noted("ended", times=2)

    assert {line.pid for line in house.lines("begun")} == {worker.process.pid}
    assert sorted(line.id for line in house.lines("ended")) == ids


def copied_app(directory: Path, version: str = "one") -> Path:
    text = (HERE / "served.py").read_text().replace('VERSION = "one"', f'VERSION = "{version}"')
    directory.mkdir(exist_ok=True)
    (directory / "served.py").write_text(text)
    return directory


async def test_reload_goes_on_with_the_new_code(house: House) -> None:
    source = copied_app(house.directory / "source")
    server = house.uvicorn("--reload", "--reload-dir", str(source), source=source)
    before = await server.send("sleep", seconds=0.5)
    await house.noted("begun", before)

    copied_app(source, version="second")
    await server.started(times=2)
    after = await server.send("sleep")
    await house.noted("ended", after)

    assert [line.version for line in house.lines("begun", before)] == ["one"]
    assert [line.version for line in house.lines("begun", after)] == ["second"]
    assert len(house.lines("ended", before)) == 1


# --- kill -9 ---


@pytest.mark.case(88)
@pytest.mark.case(91)
async def test_a_restart_right_after_a_kill_delivers_again(
    house: House, admin: KvQueueAdmin
) -> None:
    first = house.uvicorn()
    message_id = await first.send("sleep", seconds=60)
    await house.noted("begun", message_id)

    first.signal(signal.SIGKILL)
    await first.exited()
    second = house.uvicorn()
    await second.started()
    again = await house.noted("begun", message_id, times=2, within_s=TAKEOVER_S)

    record = await admin.message(message_id)
    assert record is not None
    assert (again.attempt, record.crashes) == (2, 1)
    assert "the process that handled it died" in record.errors[0].text


@pytest.mark.case(88)
async def test_a_live_worker_takes_over_from_a_killed_one(house: House) -> None:
    server = house.uvicorn("--workers", "2")
    await server.started(times=2)
    message_id = await server.send("sleep", seconds=60)
    begun = await house.noted("begun", message_id)

    os.kill(begun.pid, signal.SIGKILL)
    killed_at = time.time()
    again = await house.noted("begun", message_id, times=2)

    assert again.pid != begun.pid
    assert again.at - killed_at < TAKEOVER_S


# --- a store that fails ---


async def test_a_listener_whose_claim_failed_goes_on(house: House) -> None:
    # pitfall 13: a third of the lease is what it waits for a lock
    server = house.uvicorn(lease_s=1)
    await house.noted("ended", await server.send("sleep"))
    await asyncio.sleep(0.5)

    with contextlib.closing(sqlite3.connect(house.url, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await server.logs("The listener could not claim")
        other.execute("ROLLBACK")
    await house.noted("ended", await server.send("sleep"))

    assert server.log.count("The listener could not claim; it tries again") == 1
    assert "lease keeper" not in server.log
