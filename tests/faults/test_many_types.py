"""Ten thousand message types in one database."""

import asyncio
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kvqueue_fastapi import Message
from tests.contract.harness import running
from tests.faults.filling import filled, rows

TYPES = [f"t{number:05}" for number in range(10_000)]
EACH = "'t' || printf('%05d', (i - 1) % 10000)"
"""The type of the message `i`."""


class Ledger:
    """Which types came, in order, and a way to wait until so many did."""

    def __init__(self, expected: int) -> None:
        self.types: list[str] = []
        self._expected = expected
        self._complete = asyncio.Event()

    async def take(self, message: Message[Any]) -> None:
        self.types.append(message.type)
        if len(self.types) == self._expected:
            self._complete.set()

    async def complete(self) -> None:
        await asyncio.wait_for(self._complete.wait(), 60)


async def test_every_type_has_its_turns_beside_the_flood_of_another(tmp_path: Path) -> None:
    flood = 3_000
    path = filled(tmp_path / "q.db", flood, type="'t00000'")
    ledger = Ledger(flood + len(TYPES))
    everything = dict.fromkeys(TYPES, ledger.take)

    async with running(str(path), callbacks=everything, concurrency=20) as bench:
        await bench.queue.send_messages([(kind, 1) for kind in TYPES])
        await ledger.complete()

    came = Counter(ledger.types)
    assert came.pop("t00000") == flood + 1
    assert came == dict.fromkeys(TYPES[1:], 1)
    others_ended = max(index for index, kind in enumerate(ledger.types) if kind != "t00000")
    assert ledger.types[:others_ended].count("t00000") < flood / 2


async def test_few_types_are_found_behind_ten_thousand_that_nobody_handles(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "kvqueue_fastapi")
    path = filled(tmp_path / "q.db", len(TYPES), type=EACH)
    mine = [f"z{number:02}" for number in range(20)]
    ledger = Ledger(1_000)

    async with running(str(path), callbacks=dict.fromkeys(mine, ledger.take)) as bench:
        await bench.queue.send_messages([(kind, 1) for kind in mine * 50])
        await ledger.complete()

    assert Counter(ledger.types) == dict.fromkeys(mine, 50)
    assert rows(path, "SELECT count(DISTINCT type), max(attempt) FROM kvqueue_messages") == [
        (len(TYPES), 0)
    ]
