"""The server ends sessions, one or all of them, or refuses new ones."""

import asyncio
import subprocess
from collections.abc import Callable

from tests.contract.harness import running
from tests.faults.postgres.stage import LEASE_S, Stage
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy

TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'kvqueue%'
"""
IN_TRANSACTION = """
SELECT EXISTS (SELECT 1 FROM pg_stat_activity
                WHERE state = 'idle in transaction' AND client_port = ANY ($1))
"""
LISTENING = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity JOIN pg_locks USING (pid)
 WHERE locktype = 'advisory'
"""
LONG_S = 4
ROUNDS = 10


async def test_sessions_that_are_ended_again_and_again_lose_and_double_nothing(
    stage: Stage,
) -> None:
    await stage.machines(stage.server.url, stage.server.url)

    # With the default patience, which a busy machine does not use up.
    async with stage.load(lease_s=30) as load:
        for _ in range(ROUNDS):
            await stage.ask(TERMINATE)
            await load.goes_on(10)

    assert not load.refused


async def test_process_that_stands_still_within_a_transaction_keeps_nothing_locked(
    stage: Stage, start_proxy: Callable[[PostgresServer], Proxy]
) -> None:
    proxy = start_proxy(stage.server)
    frozen = await stage.machine(proxy.url_for(stage.server.url))
    await stage.machine()

    async with stage.load(lease_s=30, excused=[frozen.pid]) as load:
        await stop_within_transaction(stage, frozen, proxy)
        await stage.until_asked(f"SELECT NOT ({IN_TRANSACTION})", proxy.ports)
        await load.goes_on()
        stage.thaw(frozen)


async def test_machine_that_may_not_connect_again_but_lives_is_not_taken_for_dead(
    stage: Stage,
) -> None:
    await stage.ask("CREATE ROLE worker LOGIN PASSWORD 'word'")
    await stage.ask("GRANT CREATE ON DATABASE postgres TO worker")
    address = stage.server.url.rpartition("@")[2]
    machine = await stage.machine(f"postgresql://worker:word@{address}")
    async with running(stage.server.url, listen=False, lease_s=LEASE_S) as bench:
        message_id = await bench.queue.send_message("work", {"key": "k", "seconds": LONG_S})
        await stage.begun(message_id)
    peer = await stage.machine()
    await stage.ask("ALTER ROLE worker CONNECTION LIMIT 0")

    await stage.ask(f"{LISTENING} AND usename = 'worker'")
    await stage.ended(message_id)
    await stage.ask("ALTER ROLE worker CONNECTION LIMIT -1")

    assert {line.pid for line in stage.ledger.lines("begun")} == {machine.pid}
    assert peer.poll() is None
    await stage.until_asked("SELECT count(*) = 2 FROM pg_locks WHERE locktype = 'advisory'")


async def stop_within_transaction(
    stage: Stage, machine: subprocess.Popen[bytes], proxy: Proxy
) -> None:
    while True:
        stage.stop(machine)
        await asyncio.sleep(0.02)  # for what the server still has to do
        if await stage.query(IN_TRANSACTION, proxy.ports):
            return
        stage.thaw(machine)
        await asyncio.sleep(0.003)
