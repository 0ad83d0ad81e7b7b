"""Programs that know nothing of this package but the table, and what listening costs."""

import asyncio
import fcntl
import os
import shutil
import sqlite3
import statistics
import subprocess
import time
from pathlib import Path

import pytest

from kvqueue_fastapi import KvQueue
from tests.processes.fleet import Fleet

IDLE_S = 3
INSERT = """INSERT INTO kvqueue_messages (type, data) VALUES ('work', '{"key": "foreign"}')"""


async def test_a_row_that_a_foreign_program_inserts_is_handled_soon(fleet: Fleet) -> None:
    await fleet.start()
    connection = sqlite3.connect(fleet.database, timeout=10, isolation_level=None)

    waits_s = []
    for number in range(1, 31):
        began_at = time.time()
        connection.execute(INSERT)
        waits_s.append((await fleet.begun(number)).at - began_at)

    connection.close()
    assert statistics.median(waits_s) < 0.2
    assert max(waits_s) < 1


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="there is no sqlite3 program")
async def test_the_sqlite3_program_can_send(fleet: Fleet) -> None:
    await fleet.start()

    await asyncio.to_thread(
        subprocess.run, ["sqlite3", "-cmd", ".timeout 5000", fleet.database, INSERT], check=True
    )

    line = await fleet.begun(1, within_s=5)
    assert line.key == "foreign"


@pytest.mark.case(68)
async def test_a_message_from_another_process_wakes_a_listener(
    fleet: Fleet, queue: KvQueue
) -> None:
    await fleet.start()

    waits_s = []
    for _ in range(100):
        began_at = time.time()
        message_id = await queue.send_message("work", {})
        waits_s.append((await fleet.begun(message_id)).at - began_at)

    waits_s.sort()
    print(f"wake-up across processes: p50 {waits_s[50]:.4f} s, p99 {waits_s[98]:.4f} s")
    assert waits_s[50] < 0.1
    assert waits_s[98] < 1


async def test_listening_idly_costs_next_to_nothing(fleet: Fleet) -> None:
    listener = await fleet.start()
    before_s = cpu_s(listener.pid)

    await asyncio.sleep(IDLE_S)

    percent = (cpu_s(listener.pid) - before_s) / IDLE_S * 100
    print(f"idle: {percent:.1f} % of a core")
    assert percent < 10


async def test_a_foreign_lock_holds_messages_up_and_ends_nobody(
    fleet: Fleet, queue: KvQueue
) -> None:
    listener = await fleet.start(settings={"lease_s": 1})
    before = await queue.send_message("work", {"seconds": 2})
    await fleet.begun(before)
    foreign = sqlite3.connect(fleet.database, isolation_level=None)

    foreign.execute("BEGIN IMMEDIATE")
    await asyncio.sleep(2.5)
    foreign.execute(INSERT)
    foreign.execute("COMMIT")

    foreign.close()
    await fleet.ended(before, before + 1)
    assert listener.poll() is None


async def test_a_program_that_recovers_the_log_stops_nobody_for_good(fleet: Fleet) -> None:
    # What others see of a process that repairs the index after a crash in mid-commit.
    listener = await fleet.start()
    foreign = sqlite3.connect(fleet.database, isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    index = os.open(f"{fleet.database}-shm", os.O_RDWR)
    byte = os.pread(index, 1, 8)
    os.pwrite(index, bytes([byte[0] ^ 255]), 8)
    fcntl.lockf(index, fcntl.LOCK_EX, 1, 122)  # SQLite's lock for a recovery

    await asyncio.sleep(0.5)

    os.pwrite(index, byte, 8)
    foreign.execute(INSERT)
    foreign.execute("COMMIT")
    os.close(index)
    foreign.close()
    await fleet.ended(1)
    assert listener.poll() is None


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
