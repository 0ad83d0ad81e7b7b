"""The server goes away and comes back while messages are sent and handled."""

import asyncio
from typing import cast

import pytest

from tests.faults.postgres.stage import Stage
from tests.servers.postgres import Mode, PostgresServer

ROUNDS = 2


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
async def test_restarts_of_the_server_lose_and_double_nothing(stage: Stage, mode: str) -> None:
    await stage.machines(stage.server.url, stage.server.url)

    async with stage.load() as load:
        for _ in range(ROUNDS):
            await asyncio.to_thread(restart, stage.server, mode)
            await load.goes_on()


async def test_replica_that_is_promoted_goes_on_with_all_that_it_had(stage: Stage) -> None:
    replica = await asyncio.to_thread(stage.server.replica)
    # nothing is confirmed before the replica has it, so that nothing confirmed is lost
    await stage.query("ALTER SYSTEM SET synchronous_standby_names = '*'")
    await stage.query("SELECT pg_reload_conf()")
    both = of_either(stage.server, replica)
    await stage.machines(both, both)

    async with stage.load(both):
        await asyncio.to_thread(stage.server.kill)
        await asyncio.to_thread(replica.promote)
        stage.server = replica


def of_either(first: PostgresServer, second: PostgresServer) -> str:
    address = f"{first.host}:{first.port}"
    return first.url.replace(address, f"{address},{second.host}:{second.port}")


def restart(server: PostgresServer, mode: str) -> None:
    if mode == "kill":
        server.kill()
        server.start()
    else:
        server.restart(cast(Mode, mode))
