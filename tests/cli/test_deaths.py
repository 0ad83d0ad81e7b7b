"""What the command tells of listeners whose processes were killed."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.bench import Bench, Ran
from tests.cli.terminal import KVQUEUE, PATIENCE_S
from tests.engines import ON_BOTH_ENGINES

Kvqueue = Callable[..., Ran]

HOLDS = """
import asyncio
from pathlib import Path
from kvqueue_fastapi import KvQueueModule, on_queue_message

@on_queue_message("n")
async def hold() -> None:
    print("held", flush=True)
    await asyncio.sleep(3600)

app = KvQueueModule(consumers=[hold])
"""


@pytest.fixture
def killed(bench: Bench, directory: Path) -> int:
    """The process of a worker that was killed with one message of two in hand."""
    (directory / "holds.py").write_text(HOLDS)
    bench.send(("n", 1), ("n", 2))
    command = [*KVQUEUE, "worker", "holds:app", "--concurrency", "1"]
    environment = {**os.environ, "KVQUEUE_PREFETCH": "0"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"held\n"
        worker.kill()
        worker.wait(PATIENCE_S)
    return worker.pid


@ON_BOTH_ENGINES
def test_a_dead_listener_is_told_from_one_that_lives(
    bench: Bench, killed: int, kvqueue: Kvqueue
) -> None:
    examined = kvqueue("doctor", "--json")
    listed = kvqueue("listeners", "--json")
    seen = kvqueue("listeners")
    counted = kvqueue("stats", "--json")

    said = {one["what"]: one for one in examined.records}
    dead = next(one for what, one in said.items() if f"process {killed} on " in what)
    assert examined.code == 1
    assert dead["severity"] == "problem"
    assert dead["what"].endswith(" in hand.")
    assert dead["remedy"].endswith("it takes over at once.")
    assert "Nobody listens." in said
    assert [(one["pid"], one["is_alive"]) for one in listed.records] == [(killed, False)]
    assert [row[3] for row in seen.rows] == ["dead"]
    assert counted.record["has_handler"] is False
    # nothing was changed by looking
    assert kvqueue("listeners", "--json").records == listed.records


@ON_BOTH_ENGINES
def test_a_listener_that_lives_is_not_called_dead(
    bench: Bench, directory: Path, kvqueue: Kvqueue
) -> None:
    (directory / "holds.py").write_text(HOLDS)
    bench.send(("n", 1))
    command = [*KVQUEUE, "worker", "holds:app"]

    with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"held\n"
        listed = kvqueue("listeners", "--json").record
        handled = kvqueue("stats", "--json").record["has_handler"]
        worker.kill()

    assert (listed["pid"], listed["is_alive"], handled) == (worker.pid, True, True)
