"""A process ends while the server is away, and says neither too much nor what is secret."""

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from tests.faults.postgres.stage import Stage
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy

SOON_S = 10
AWAY_S = 6
LINES = 60
"""Of one complaint or failure with its traceback."""


@pytest.mark.parametrize("how", ["swallowed", "refused", "killed"])
async def test_process_ends_soon_while_the_server_is_away(
    stage: Stage, start_proxy: Callable[[PostgresServer], Proxy], how: str
) -> None:
    proxy = start_proxy(stage.server)
    machine = await stage.machine(
        proxy.url_for(stage.server.url), settings={"lease_s": 30, "shutdown_timeout_s": 1}
    )
    async with stage.load():
        pass
    go_away(stage, proxy, how)
    await asyncio.sleep(1)  # so that something waits for the server

    took_s = await stage.quit(machine)

    print(f"{how}: {took_s:.2f} s")
    assert took_s < SOON_S
    said = stage.log.read_text()
    assert "never retrieved" not in said
    assert "was destroyed" not in said


async def test_server_that_is_away_is_told_of_in_a_few_lines_without_the_password(
    stage: Stage,
) -> None:
    await stage.machine()

    async with stage.load():
        await asyncio.to_thread(stage.server.stop, "immediate")
        await asyncio.sleep(AWAY_S)
        await asyncio.to_thread(stage.server.start)

    said = stage.log.read_text()
    assert str(urlsplit(stage.server.url).password) not in said
    assert said.count("cannot be listened to") == 1
    complaints = said.count("tries again")
    # of handlers that could not commit
    failures = said.count("failed in attempt")
    print(f"{complaints} complaints, {failures} failures, {len(said.splitlines())} lines")
    # from the listener, who waits longer and longer, and from the keeper of leases
    assert 0 < complaints <= 2 * AWAY_S
    assert len(said.splitlines()) <= LINES * (complaints + failures)


def go_away(stage: Stage, proxy: Proxy, how: str) -> None:
    if how == "swallowed":
        proxy.swallow()
    elif how == "refused":
        proxy.refuse()
        proxy.cut()
    else:
        stage.server.kill()
