"""One run: a server, clients, a killer, and the reckoning at the end."""

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Final

from kvqueue_fastapi import Kv
from tests.crash import ledger
from tests.crash.audit import Database, SqliteDatabase
from tests.crash.history import History
from tests.crash.killer import Killer
from tests.crash.ledger import Ledger
from tests.crash.network import Network, postgres_behind
from tests.crash.plan import Plan
from tests.crash.postgres_audit import PostgresDatabase
from tests.crash.producers import Producer
from tests.crash.reckoning import Report, reckon
from tests.crash.servers import Server

LANES: Final = 4
LOOSE: Final = 4
"""Producers with and without an ordering key."""
LANE_PACE: Final = 3
"""How much rarer messages with an ordering key are: they are handled one after another."""
STALLED_S: Final = 30
"""When nothing has happened for so long, what still waits will wait for ever."""


async def run(directory: Path, plan: Plan) -> Report:
    """Let it happen, in an empty directory, and hold the promises against it."""
    if not plan.machines:
        database = SqliteDatabase(directory / "queue.db")
        servers = [Server(directory, plan.workers, database.url)]
        return await _run(directory, database, servers, None, plan)
    with postgres_behind(plan.machines) as (postgres, ways):
        urls = [way.url_for(postgres.url) for way in ways]
        servers = [Server(directory, plan.workers, url) for url in urls]
        there = PostgresDatabase(postgres.url)
        network = Network(postgres, ways, servers, there, Ledger(servers[0].ledger))
        return await _run(directory, there, servers, network, plan)


async def _run(
    directory: Path,
    database: Database,
    servers: list[Server],
    network: Network | None,
    plan: Plan,
) -> Report:
    async with Kv.open(database.url):
        database.install()
    book = Ledger(servers[0].ledger)
    for server in servers:
        server.start()
    try:
        began = time.monotonic()
        killer = Killer(servers, database, network, book, plan.pause_s)
        await _under_fire(servers, killer, book, plan)
        lasted_s = time.monotonic() - began
        await _quiet(database)
        await asyncio.gather(*(server.stop(within_s=STALLED_S) for server in servers))
    finally:
        for server in servers:
            server.kill_all()
    remains = await asyncio.to_thread(database.read)
    report = reckon(History(list(ledger.read(servers[0].ledger)), remains))
    machines = f"{plan.machines} machines on PostgreSQL, each with " if plan.machines else ""
    workers = f"{machines}{plan.workers} uvicorn worker{'s' * (plan.workers > 1)}"
    what = f"{lasted_s:.0f} s, {workers}, {killer.kills} processes killed, ended or frozen"
    report.figures = {"run": what, **report.figures}
    report.kills = killer.kills
    if report.broken:
        # A server's database goes with it, and this is what there is to look at.
        (directory / "remains.json").write_text(json.dumps(remains))
    return report


async def _under_fire(servers: list[Server], killer: Killer, book: Ledger, plan: Plan) -> None:
    stop = asyncio.Event()
    producers = [
        Producer(
            book,
            servers[number % len(servers)].port,
            lane=f"lane {number}" if number < LANES else "",
            # An impatient client of an ordering key would not know what its order is.
            is_patient=number != LANES,
            poison=0 if number < LANES else plan.poison,
        )
        for number in range(LANES + LOOSE)
    ]
    working = [
        asyncio.create_task(one.run(stop, plan.pace_s * (LANE_PACE if number < LANES else 1)))
        for number, one in enumerate(producers)
    ]
    killing = asyncio.create_task(killer.run(stop, plan.kills))
    done, _ = await asyncio.wait(
        [*working, killing], timeout=plan.seconds, return_when=asyncio.FIRST_COMPLETED
    )
    stop.set()
    await asyncio.gather(*done, *working, killing)


async def _quiet(database: Database) -> None:
    happened, at = 0, time.monotonic()
    while await asyncio.to_thread(database.waiting) and time.monotonic() - at < STALLED_S:
        await asyncio.sleep(0.1)
        if (count := await asyncio.to_thread(database.happened)) != happened:
            happened, at = count, time.monotonic()


def remove(directory: Path) -> None:
    """What a run that kept its promises leaves is of no use."""
    shutil.rmtree(directory, ignore_errors=True)
