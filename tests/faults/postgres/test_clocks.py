"""Machines whose clocks are wrong: only that of the server counts."""

import asyncio

from tests.contract.harness import running
from tests.faults.postgres.stage import Stage

HOUR_S = 3_600
DELAY_S = 0.5


async def test_machines_whose_clocks_are_an_hour_wrong_handle_all_once_and_in_time(
    stage: Stage,
) -> None:
    await asyncio.gather(stage.machine(clock_s=HOUR_S), stage.machine(clock_s=-HOUR_S))

    async with stage.load():
        pass
    async with running(stage.server.url, listen=False) as bench:
        delayed = await bench.queue.send_message("work", {"key": "late"}, delay=DELAY_S)
        sent = await stage.query("SELECT sent_at_ms FROM kvqueue.kvqueue_messages")
        began = await stage.begun(delayed)

    # the ledger's clock is right, and so is the server's
    assert DELAY_S - 0.01 <= began.at - sent / 1000 < HOUR_S / 2
