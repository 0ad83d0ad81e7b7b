"""The network between machines and server is cut, or swallows what is said."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.harness import running
from tests.faults.postgres.stage import LEASE_S, Stage
from tests.processes.fleet import PATIENCE_S
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy

ROUNDS = 5
LISTENER_PORTS = """
SELECT client_port FROM pg_stat_activity JOIN pg_locks USING (pid)
 WHERE locktype = 'advisory' AND objsubid = 1
"""
LISTENERS = "SELECT id FROM kvqueue.kvqueue_listeners ORDER BY id"


@pytest.fixture
def proxy(stage: Stage, start_proxy: Callable[[PostgresServer], Proxy]) -> Proxy:
    return start_proxy(stage.server)


async def test_connections_that_are_reset_lose_and_double_nothing(
    stage: Stage, proxy: Proxy
) -> None:
    url = proxy.url_for(stage.server.url)
    await stage.machines(url, url)

    # With the default patience, which a busy machine does not use up.
    async with stage.load(url, lease_s=30) as load:
        for _ in range(ROUNDS):
            proxy.cut()
            await load.goes_on(10)

    assert not load.refused


@pytest.mark.parametrize("asks", [True, False], ids=["both ways", "answers"])
async def test_network_that_swallows_for_longer_than_a_lease_loses_and_doubles_nothing(
    stage: Stage, proxy: Proxy, *, asks: bool
) -> None:
    url = proxy.url_for(stage.server.url)
    await stage.machines(url, url)

    async with stage.load(url) as load:
        proxy.swallow(asks=asks)
        await asyncio.sleep(LEASE_S + 1)
        proxy.resume()
        await load.goes_on()


async def test_machine_that_only_lost_the_connection_that_listens_is_not_taken_for_dead(
    stage: Stage, proxy: Proxy
) -> None:
    await stage.machine(proxy.url_for(stage.server.url))
    await stage.machine()
    listeners = await stage.ask(LISTENERS)

    async with stage.load():
        lost = [row[0] for row in await stage.ask(LISTENER_PORTS) if row[0] in proxy.ports]
        assert len(lost) == 1
        proxy.swallow(port=lost[0])
        await stage.until_asked(
            f"SELECT NOT EXISTS ({LISTENER_PORTS} AND client_port = $1)", lost[0]
        )
        await stage.until_asked(f"SELECT count(*) = 2 FROM ({LISTENER_PORTS}) AS ports")

    assert await stage.ask(LISTENERS) == listeners
    assert await stage.query("SELECT max(crashes) FROM kvqueue.kvqueue_dead_letters") is None


async def test_machine_that_is_cut_off_loses_its_messages_to_others_and_comes_back(
    stage: Stage, proxy: Proxy
) -> None:
    lonely = await stage.machine(proxy.url_for(stage.server.url))
    await stage.machine()

    async with stage.load(excused=[lonely.pid]) as load:
        proxy.swallow()
        await asyncio.sleep(LEASE_S + 1)
        proxy.resume()
        handled = len(stage.ledger.lines("ended", pid=lonely.pid))
        await load.goes_on()
        await stage.until(lambda: len(stage.ledger.lines("ended", pid=lonely.pid)) > handled)


async def test_more_than_the_network_carries_in_time_comes_in_smaller_claims(
    stage: Stage, proxy: Proxy
) -> None:
    came: list[int] = []

    async def take(data: list[Any]) -> None:
        came.append(data[0])

    async with running(stage.server.url, listen=False) as sender:
        await sender.queue.send_messages([("large", [n, "x" * 60_000]) for n in range(60)])
    # Of 3.6 MB, 2 come through before the statement is given up.
    proxy.bytes_per_s = 2_000_000
    url = proxy.url_for(stage.server.url)
    async with running(url, callbacks={"large": take}, lease_s=6), asyncio.timeout(PATIENCE_S):
        while len(came) < 60:
            await asyncio.sleep(0.01)

    assert came == list(range(60))
