"""A new user finds a failing message, reads why, mends and requeues it, and it is handled."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from tests.cli.bench import Bench, Ran
from tests.cli.terminal import KVQUEUE, PATIENCE_S
from tests.engines import ON_BOTH_ENGINES
from tests.web.serving import until


@pytest.fixture
def worker(bench: Bench) -> Iterator[Popen[bytes]]:
    command = [*KVQUEUE, "worker", "cli_shop:app", "--url", bench.url]
    with Popen(command, stderr=PIPE) as process:
        yield process
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


@pytest.fixture
def ask(kvqueue: Callable[..., Ran]) -> Callable[..., Awaitable[Ran]]:
    """Runs the command while the test waits."""
    return functools.partial(asyncio.to_thread, kvqueue)


@ON_BOTH_ENGINES
async def test_failing_message_is_found_read_mended_and_handled(
    worker: Popen[bytes], ask: Callable[..., Awaitable[Ran]], directory: Path
) -> None:
    # somebody, somewhere, sends what the handler does not take
    sent = await ask("send", "order.created", '{"order": 7}')

    # something is wrong: what, and where?
    async with asyncio.timeout(PATIENCE_S):
        while not (listed := (await ask("dead", "ls")).rows):
            await asyncio.sleep(0.05)
    orders = (await ask("stats")).rows[-1]
    dead_letter = listed[0][0]
    assert (orders[0], orders[5], dead_letter) == ("order.created", "1", sent.out.strip())

    # why?
    shown = (await ask("show", dead_letter)).out
    assert "order_id: Field required" in shown
    assert '"order": 7' in shown

    # mended, sent again, handled
    mended = await ask("dead", "requeue", dead_letter, "--data", '{"order_id": 7}')
    packed = directory / "packed"
    await until(lambda: packed.exists() and packed.read_text())
    assert mended.out.startswith(f"Dead letter {dead_letter} is requeued as message ")
    assert packed.read_text() == "7\n"
    assert (await ask("dead", "ls")).rows == []
