"""Several apps, event loops and processes in which one queue, or one file, is used."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from injector import Injector

from kvqueue_fastapi import Kv, KvQueueDep, KvQueueModule, on_queue_message
from tests.contract.harness import Bench, Seen, running, until
from tests.faults.forking import by_hand, told_by_child

PREFORK = Path(__file__).with_name("prefork.py")
# Newer Pythons warn of a fork beside threads, which is what is tried here.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

NOT_HERE = "KvQueueNotStartedError: The queue is not started in this process: it was forked"

USES: dict[str, Callable[[Bench], Any]] = {
    "send_message": lambda bench: bench.queue.send_message("n"),
    "send_messages": lambda bench: bench.queue.send_messages([("n", 1)]),
    "run_until_idle": lambda bench: bench.queue.run_until_idle(),
    "counts": lambda bench: bench.admin.counts(),
    "get": lambda bench: bench.kv.get(("k",)),
    "set": lambda bench: bench.kv.set(("k",), 1),
    "commit": lambda bench: bench.kv.atomic().set(("k",), 1).commit(),
    "list": lambda bench: anext(aiter(bench.kv.list(prefix=()))),
    "watch": lambda bench: anext(bench.kv.watch([("k",)])),
    "listen_queue": lambda bench: bench.kv.listen_queue(print),
}


# --- several in one process ---


def test_two_apps_on_one_file_share_its_messages(tmp_path: Path) -> None:
    handled: Counter[int] = Counter()

    @on_queue_message("n")
    async def handle(number: int) -> None:
        handled[number] += 1

    def app() -> FastAPI:
        made = FastAPI()
        KvQueueModule(str(tmp_path / "q.db"), consumers=[handle]).install(made)

        @made.post("/{number}")
        async def send(number: int, queue: KvQueueDep) -> int:
            return await queue.send_message("n", number)

        return made

    with TestClient(app()) as one, TestClient(app()) as other:
        ids = [client.post(f"/{n}").json() for n in range(20) for client in (one, other)]
        wait_until(lambda: handled.total() == 40)

    assert len(set(ids)) == 40
    assert handled == dict.fromkeys(range(20), 2)


@pytest.mark.parametrize("files", [["q.db", "q.db"], ["q.db", "r.db"]], ids=["one", "two"])
def test_event_loops_in_two_threads_have_a_queue_each(tmp_path: Path, files: list[str]) -> None:
    handled: Counter[str] = Counter()
    threads = [
        threading.Thread(target=lambda file=file: asyncio.run(send_and_handle(file)), daemon=True)
        for file in files
    ]

    async def send_and_handle(file: str) -> None:
        async def handle(item: str) -> None:
            handled[item] += 1

        callbacks = {"n": handle}
        async with running(str(tmp_path / file), callbacks=callbacks) as bench:
            name = threading.current_thread().name
            for number in range(50):
                await bench.queue.send_message("n", f"{name} {number}")
            async with asyncio.timeout(10):
                while handled.total() < 100:
                    await asyncio.sleep(0.01)

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert (len(handled), set(handled.values())) == (100, {1})


def test_one_module_serves_one_event_loop_after_another(tmp_path: Path) -> None:
    handled: list[int] = []

    @on_queue_message("n")
    async def handle(number: int) -> None:
        handled.append(number)

    module = KvQueueModule(str(tmp_path / "q.db"), consumers=[handle], listen=False)
    injector = Injector([module])

    async def serve(number: int) -> int:
        async with module.running(injector) as queue:
            await injector.get(Kv).set(("last",), number)
            await queue.send_message("n", number)
            return await queue.run_until_idle()

    assert [asyncio.run(serve(number)) for number in range(3)] == [1, 1, 1]
    assert handled == [0, 1, 2]


# --- a child that is forked while the queue runs ---


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("loop", ["inherited", "fresh"])
async def test_a_forked_child_is_told_to_start_the_queue_after_the_fork(
    tmp_path: Path, use: Callable[[Bench], Any], loop: str
) -> None:
    async with running(tmp_path) as bench:

        async def call() -> Any:
            return await use(bench)

        said = told_by_child(lambda: by_hand(call()) if loop == "inherited" else fresh(call))

        assert said.startswith(NOT_HERE)
        assert not await bench.admin.messages()


def test_a_child_that_runs_the_inherited_event_loop_is_told_so(tmp_path: Path) -> None:
    # The parent forks between two runs of its event loop, so that the child can run it as well.
    loop = asyncio.new_event_loop()
    opening = Kv.open(str(tmp_path / "kv.db"))
    kv = loop.run_until_complete(opening.__aenter__())

    said = [
        told_by_child(lambda: loop.run_until_complete(kv.set(("k",), 1))),
        told_by_child(lambda: loop.run_until_complete(kv.close())),
    ]
    loop.run_until_complete(kv.set(("k",), 2))

    assert loop.run_until_complete(kv.get(("k",))).value == 2
    assert all(text.startswith(NOT_HERE) for text in said)
    loop.run_until_complete(kv.close())
    loop.close()


async def test_a_child_that_a_def_handler_forks_is_told_so(tmp_path: Path) -> None:
    said: list[str] = []

    def handle() -> None:
        said.append(told_by_child(lambda: bench.queue.send_message_sync("n")))

    async with running(tmp_path, callbacks={"fork": handle}) as bench:
        await bench.queue.send_message("fork")
        await until(lambda: is_empty(bench))

    assert said[0].startswith(NOT_HERE)


@pytest.mark.parametrize("how", ["kv", "module"])
async def test_a_forked_child_cannot_open_what_its_parent_has_open(
    tmp_path: Path, how: str
) -> None:
    # It would write without a lock, into a log that its parent deletes.
    url = str(tmp_path / "q.db")
    (tmp_path / "link.db").symlink_to(tmp_path / "q.db")
    module = KvQueueModule(str(tmp_path / "link.db"))

    async def open_again() -> None:
        async with Kv.open(url) if how == "kv" else module.running():
            pass

    async with running(tmp_path) as bench, module.running():
        said = told_by_child(lambda: fresh(open_again))
        await bench.queue.send_message("n")

    assert said.startswith("StoreError")
    assert "was open when this process was forked" in said
    assert told_by_child(lambda: fresh(open_again)) == "None"


@pytest.mark.parametrize("how", ["kv", "module"])
async def test_a_forked_child_that_leaves_the_block_of_its_parent_closes_nothing(
    tmp_path: Path, how: str
) -> None:
    seen, url = Seen(), str(tmp_path / "q.db")
    module = KvQueueModule(url)
    async with running(url, callbacks={"n": seen.take}) as bench:
        entered = Kv.open(url) if how == "kv" else module.running()
        await entered.__aenter__()

        said = told_by_child(lambda: fresh(lambda: entered.__aexit__(None, None, None)))
        await bench.queue.send_message("n", 1)

        assert await seen.stay(1) == [1]
        await entered.__aexit__(None, None, None)
    assert said.startswith(NOT_HERE if how == "kv" else "False")


async def test_a_forked_child_can_open_another_file(tmp_path: Path) -> None:
    async def send() -> list[Any]:
        async with running(str(tmp_path / "other.db")) as bench:
            return await bench.queue.send_messages([("n", 1), ("n", 2)])

    async with running(tmp_path):
        assert told_by_child(lambda: fresh(send)) == "[1, 2]"


async def test_a_parent_goes_on_at_once_whatever_its_children_do(tmp_path: Path) -> None:
    seen = Seen()
    leave = [lambda: None, lambda: fresh(asyncio.sleep(0)), lambda: sys.exit(3)]
    async with running(tmp_path, callbacks={"n": seen.take}, poll_interval_s=60) as bench:
        for number, work in enumerate(leave * 3):
            told_by_child(work)
            await bench.queue.send_message("n", number)
            await seen.reach(number + 1)

        assert await seen.stay(9) == list(range(9))


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_a_module_that_is_built_before_the_fork_starts_in_every_child(
    tmp_path: Path, how: str
) -> None:
    database, ledger = tmp_path / "q.db", tmp_path / "ledger"
    command = [sys.executable, str(PREFORK), str(database), str(ledger), how, "2"]

    ended = subprocess.run(command, timeout=30, capture_output=True, check=False, text=True)

    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    handled = Counter(line["id"] for line in lines if line["event"] == "ended")
    assert handled == dict.fromkeys(range(1, 21), 1)
    assert len({line["pid"] for line in lines if line["event"] == "ready"}) == 2


def fresh(work: Any) -> Any:
    """On an event loop of the child's own."""
    return asyncio.run(work() if callable(work) else work)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def is_empty(bench: Bench) -> bool:
    return not await bench.admin.messages()
