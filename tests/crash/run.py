"""One run: a server, clients, a killer, and the reckoning at the end."""

import asyncio
import shutil
import time
from pathlib import Path
from typing import Final

from kvqueue_fastapi import Kv
from tests.crash import audit, ledger
from tests.crash.history import History
from tests.crash.killer import Killer
from tests.crash.ledger import Ledger
from tests.crash.plan import Plan
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
    server = Server(directory, plan.workers)
    async with Kv.open(str(server.database)):
        audit.install(server.database)
    book = Ledger(server.ledger)
    server.start()
    try:
        began = time.monotonic()
        kills = await _under_fire(server, book, plan)
        lasted_s = time.monotonic() - began
        await _quiet(server)
        await server.stop(within_s=STALLED_S)
    finally:
        server.kill_all()
    report = reckon(History(list(ledger.read(server.ledger)), audit.read(server.database)))
    workers = f"{plan.workers} uvicorn worker{'s' * (plan.workers > 1)}"
    what = f"{lasted_s:.0f} s, {workers}, {kills} processes killed, ended or frozen"
    report.figures = {"run": what, **report.figures}
    report.kills = kills
    return report


async def _under_fire(server: Server, book: Ledger, plan: Plan) -> int:
    stop = asyncio.Event()
    killer = Killer(server, book, plan.pause_s)
    producers = [
        Producer(
            book,
            server.port,
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
    return killer.kills


async def _quiet(server: Server) -> None:
    happened, at = 0, time.monotonic()
    while audit.waiting(server.database) and time.monotonic() - at < STALLED_S:
        await asyncio.sleep(0.1)
        if (count := audit.happened(server.database)) != happened:
            happened, at = count, time.monotonic()


def remove(directory: Path) -> None:
    """What a run that kept its promises leaves is of no use."""
    shutil.rmtree(directory, ignore_errors=True)
