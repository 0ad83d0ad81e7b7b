"""Machines whose clocks are wrong: only that of the server counts."""

import asyncio

from injector import Injector

from kvqueue_fastapi import Kv, KvQueue, KvQueueModule, KvQueueSettings
from tests.faults.postgres.stage import Stage

HOUR_S = 3_600
DELAY_S = 0.5


async def test_machines_whose_clocks_are_an_hour_wrong_handle_all_once_and_in_time(
    stage: Stage,
) -> None:
    await asyncio.gather(stage.machine(clock_s=HOUR_S), stage.machine(clock_s=-HOUR_S))

    async with stage.load() as load:
        delayed = await load.send_later(DELAY_S)
        sent_at = load.sent_at
        await stage.ended(delayed)

    began = (await stage.begun(delayed)).at
    assert DELAY_S <= began - sent_at < HOUR_S / 2
