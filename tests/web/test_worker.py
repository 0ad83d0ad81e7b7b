import asyncio
import re
import signal
import time
from pathlib import Path

import pytest

from kvqueue_fastapi import KvQueue, KvQueueAdmin
from kvqueue_fastapi.worker import LINGER_S
from tests.engines import ON_BOTH_ENGINES
from tests.web.serving import HERE, House, until

SLACK_S = 2
"""What a busy machine may add to a promised time."""
TAKEOVER_S = 2
"""A second or so is the promise; the lease of 30 s would be the failure."""
LISTENS = r"Worker \d+ listens at .*"
LONG = {"seconds": 60}


# --- listening ---


async def test_a_worker_handles_what_a_web_process_sent_that_only_sends(house: House) -> None:
    # the same environment for both
    web = house.uvicorn(listen="false")
    worker = house.command("served:app", listen="false")
    pid = worker.process.pid

    ids = [await web.send(kind) for kind in ("sleep", "block")]
    await house.noted("ended", times=2)
    worker.signal(signal.SIGTERM)
    await worker.exited()

    assert sorted(line.id for line in house.lines("ended")) == ids
    assert {line.pid for line in house.lines("begun")} == {pid}
    said = [line.partition("INFO kvqueue_fastapi: ")[2] for line in worker.log.splitlines()]
    assert said == [
        f"Worker {pid} listens at {house.url} to sleep, block",
        f"Worker {pid} stopped",
    ]
    assert worker.process.returncode == 0


@pytest.mark.parametrize(
    ("engine", "number"),
    [("sqlite", signal.SIGTERM), ("sqlite", signal.SIGINT), ("postgres", signal.SIGTERM)],
)
async def test_a_signal_lets_handlers_end_while_the_apps_resources_are_up(
    house: House, queue: KvQueue, admin: KvQueueAdmin, number: signal.Signals
) -> None:
    worker = house.command("workshop:app")
    message_id = await queue.send_message("build", {"seconds": 0.2})
    await house.noted("begun", message_id)

    worker.signal(number)
    await worker.exited()

    assert worker.process.returncode == 0
    assert [line.version for line in house.lines("built", message_id)] == ["saw"]
    times = [house.lines(event)[0].at for event in ("startup", "begun", "ended", "shutdown")]
    assert times == sorted(times)
    assert await admin.message(message_id) is None
    assert "Traceback" not in worker.log


@pytest.mark.parametrize(
    "target", [["--factory", "workshop:create_app"], ["workshop:queue_module"]]
)
async def test_a_factory_and_a_module_have_workers_as_well(
    house: House, queue: KvQueue, target: list[str]
) -> None:
    house.command(*target)

    await house.noted("built", await queue.send_message("build", {}))

    assert len(house.lines("startup")) == ("--factory" in target)


async def test_concurrency_is_that_of_the_command(house: House, queue: KvQueue) -> None:
    ids = await queue.send_messages([("build", {"seconds": 0.1})] * 2)

    house.command("workshop:app", "--concurrency", "1", concurrency=2)
    await house.noted("ended", times=2)

    first_ended = house.lines("ended", ids[0])[0].at
    assert first_ended < house.lines("begun", ids[1])[0].at


async def test_a_worker_without_handlers_says_so(house: House) -> None:
    source = deployed(house.directory / "bare", handlers="")

    worker = house.command("served:app", source=source)

    said = await worker.logs(r"WARNING .*Worker \d+ has no handlers.*")
    assert "Put its consumers into KvQueueModule(consumers=[…])." in said


# --- stopping ---


async def test_what_does_not_end_in_the_grace_is_given_back(
    house: House, queue: KvQueue, admin: KvQueueAdmin
) -> None:
    worker = house.command("workshop:app", shutdown_timeout_s=0)
    message_id = await queue.send_message("build", LONG)
    await house.noted("begun", message_id)

    worker.signal(signal.SIGTERM)
    await worker.exited()

    record = await admin.message(message_id)
    assert record is not None
    assert (record.state, record.attempt, record.crashes) == ("ready", 0, 0)
    assert worker.process.returncode == 0


async def test_a_thread_that_outlives_the_grace_ends_with_the_worker(
    house: House, queue: KvQueue, admin: KvQueueAdmin
) -> None:
    worker = house.command("served:app", shutdown_timeout_s=0)
    message_id = await queue.send_message("block", LONG)
    await house.noted("begun", message_id)

    signalled_at = worker.signal(signal.SIGTERM)
    took_s = await worker.exited() - signalled_at
    house.command("served:app")
    await house.noted("begun", message_id, times=2, within_s=TAKEOVER_S + SLACK_S)

    record = await admin.message(message_id)
    assert record is not None
    assert (record.attempt, record.crashes) == (1, 0)
    assert worker.process.returncode == 0
    assert took_s < LINGER_S + 1 + SLACK_S


@pytest.mark.parametrize(
    ("number", "message_type"),
    [(signal.SIGTERM, "build"), (signal.SIGINT, "build"), (signal.SIGTERM, "hold up")],
)
async def test_a_second_signal_ends_it_at_once(
    house: House, queue: KvQueue, number: signal.Signals, message_type: str
) -> None:
    worker = house.command("workshop:app", shutdown_timeout_s=60)
    await worker.logs(LISTENS)
    await house.noted("begun", await queue.send_message(message_type, LONG))

    # Again and again, because two that come together are one.
    await until(lambda: worker.signal(number) and worker.process.poll() is not None, SLACK_S)

    assert worker.process.returncode == 128 + number
    assert not house.lines("shutdown")


async def test_signals_that_come_together_are_one_wish(house: House, queue: KvQueue) -> None:
    worker = house.command("workshop:app", shutdown_timeout_s=60)
    await worker.logs(LISTENS)
    message_id = await queue.send_message("build", {"seconds": 1})
    await house.noted("begun", message_id)

    worker.signal(signal.SIGINT)
    worker.signal(signal.SIGTERM)
    await worker.exited()

    assert worker.process.returncode == 0
    assert house.lines("ended", message_id)


async def test_no_signal_kills_a_worker_that_has_stopped(house: House, queue: KvQueue) -> None:
    worker = house.command("served:app", shutdown_timeout_s=0)
    await house.noted("begun", await queue.send_message("block", LONG))

    worker.signal(signal.SIGTERM)
    await worker.logs(r"Worker \d+ stopped")
    # From here on its thread alone goes on, for as long as it may linger.
    while worker.process.poll() is None:
        worker.signal(signal.SIGINT)
        worker.signal(signal.SIGTERM)
        await asyncio.sleep(0.01)

    assert worker.process.returncode == 0
    assert "Traceback" not in worker.log


@ON_BOTH_ENGINES
async def test_another_worker_takes_over_from_a_killed_one(house: House, queue: KvQueue) -> None:
    first = house.command("workshop:app")
    message_id = await queue.send_message("build", LONG)
    await house.noted("begun", message_id)
    second = house.command("workshop:app")
    await second.logs(LISTENS)

    first.signal(signal.SIGKILL)
    killed_at = time.time()
    again = await house.noted("begun", message_id, times=2)

    assert again.pid == second.process.pid
    assert again.at - killed_at < TAKEOVER_S
    assert again.attempt == 2


# --- deploying ---


def deployed(directory: Path, handlers: str) -> Path:
    text = (HERE / "served.py").read_text()
    directory.mkdir()
    (directory / "served.py").write_text(
        text.replace("consumers=[sleep, block]", f"consumers=[{handlers}]")
    )
    return directory


@ON_BOTH_ENGINES
async def test_a_new_type_is_left_alone_by_the_old_code_and_handled_by_the_new(
    house: House, admin: KvQueueAdmin
) -> None:
    old = deployed(house.directory / "old", handlers="sleep")
    new = deployed(house.directory / "new", handlers="sleep, block")
    old_web = house.uvicorn(source=old, listen="false")
    old_worker = house.command("served:app", source=old)

    early = await old_web.send("block")
    await house.noted("ended", await old_web.send("sleep"))
    assert not house.lines("begun", early)
    new_worker = house.command("served:app", source=new)
    await house.noted("ended", early)
    new_web = house.uvicorn(source=new, listen="false")
    late = [await web.send("block") for web in (old_web, new_web) for _ in range(5)]
    await house.noted("ended", times=12)

    handled = [line for number in [early, *late] for line in house.lines("begun", number)]
    assert [(line.pid, line.attempt) for line in handled] == [(new_worker.process.pid, 1)] * 11
    assert old_worker.process.poll() is None
    assert not re.search("ERROR|Traceback", old_worker.log + new_worker.log)
    assert len(await admin.dead_letters()) == 0
