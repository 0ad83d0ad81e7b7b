"""kill -9 between the send and the commit leaves neither order nor message; behind it, both."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from kvqueue_fastapi import KvQueue
from tests.joint.conftest import Desk, orders
from tests.joint.lenders import (
    Lender,
    Psycopg,
    SessionOnAiosqlite,
    SessionOnAsyncpg,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(
    params=[Psycopg, SessionOnAsyncpg, SessionOnAiosqlite],
    ids=lambda kind: kind.__name__,
)
def kind(request: pytest.FixtureRequest) -> type[Lender]:
    found: type[Lender] = request.param
    return found


@pytest.mark.parametrize(("where", "left"), [("before", []), ("behind", [1])])
async def test_killed_process_leaves_order_and_message_or_neither(
    queue: KvQueue, lender: Lender, url: str, desk: Desk, where: str, left: list[int]
) -> None:
    await queue.send_message("ordered", "one before it")
    first = await desk.next()

    said = await asyncio.to_thread(killed, type(lender), url, where)
    # Whoever died may have told nobody, and this queue does not poll.
    await queue.send_message("ordered", "one behind it")

    assert (first, said) == ("one before it", "here\n")
    expected = [*left, "one behind it"]
    assert [await desk.next() for _ in expected] == expected
    assert await desk.is_idle()
    assert await orders(lender) == left


def killed(kind: type[Lender], url: str, where: str) -> str:
    """What the process said before it was killed."""
    command = [sys.executable, "-m", "tests.joint.dying", kind.__name__, url, where]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.kill()
    return said
