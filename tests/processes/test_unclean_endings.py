"""Event loops that end while messages are being handled, without a proper stop."""

import subprocess

import pytest

from kvqueue_fastapi import KvQueue, KvQueueAdmin
from tests.processes.fleet import Fleet

EXIT_S = 5
"""The loops end themselves after half a second or a second."""


@pytest.mark.parametrize(
    ("engine", "role", "code"),
    [
        ("sqlite", "listen_until_exit", 7),
        ("sqlite", "listen_until_error", 1),
        ("sqlite", "listen_until_cancelled", 1),
        ("sqlite", "listen_on_a_dropped_loop", 0),
        ("sqlite", "stop_the_loop", 0),
        ("postgres", "listen_until_exit", 7),
        ("postgres", "stop_the_loop", 0),
    ],
)
async def test_the_process_exits_and_its_messages_come_again(
    fleet: Fleet, queue: KvQueue, admin: KvQueueAdmin, role: str, code: int
) -> None:
    ids = await queue.send_messages([("work", {"seconds": 60}), ("work", {"seconds": 61})])
    leaver = await fleet.start(role, fresh=True, settings={"shutdown_timeout_s": 0.2})
    await fleet.begun(ids[0])
    await fleet.begun(ids[1])

    try:
        assert leaver.wait(EXIT_S) == code
    except subprocess.TimeoutExpired:
        pytest.fail(f"{role} did not exit; {fleet.log.read_text()}")
    await fleet.start()

    # One at a time where the ending counts as a crash.
    await fleet.begun(ids[0], times=2, within_s=5)
    assert not await admin.dead_letters()


@pytest.mark.parametrize(
    ("engine", "role"),
    [
        ("sqlite", "listen_until_exit"),
        ("sqlite", "listen_until_error"),
        ("sqlite", "listen_until_cancelled"),
        ("postgres", "listen_until_exit"),
    ],
)
async def test_a_thread_that_outlives_the_loop_settles_its_message(
    fleet: Fleet, queue: KvQueue, role: str
) -> None:
    message_id = await queue.send_message("thread", {"seconds": 2})
    leaver = await fleet.start(role, fresh=True, settings={"shutdown_timeout_s": 0.2})
    await fleet.begun(message_id)
    await fleet.start()

    await fleet.until(lambda: leaver.poll() is not None, within_s=10)

    assert fleet.ledger.count("ended") == {message_id: 1}
    assert fleet.ledger.count("begun") == {message_id: 1}
    assert not fleet.rows("SELECT id FROM kvqueue_messages")
