"""Processes that are killed while they copy: whoever runs the copy again ends it."""

import json
import os
import signal
from pathlib import Path

import pytest

from kvqueue_fastapi import StoreError
from tests.copying.pairs import Pair
from tests.processes.launcher import launched
from tests.store.given import ManualClock

ROOT = Path(__file__).parents[2]
COPIER = Path(__file__).parent / "copier.py"
SLICE_ROWS = 3


@pytest.mark.parametrize("pair", ["sqlite-postgres", "postgres-sqlite"], indirect=True)
async def test_a_copy_that_is_killed_again_and_again_ends_whole(
    filled: Pair, clock: ManualClock
) -> None:
    deaths = [("transaction", 1), ("copy", 1), ("transaction", 3), ("copy", 4), ("check", 2)]

    for what, at in deaths:
        assert _copy_in_process(filled, what, at) == -signal.SIGKILL
        if (what, at) != deaths[0]:  # which was before there was anything
            with pytest.raises(StoreError, match="unfinished copy"):
                async with filled.target.opened(clock):
                    pass
    assert _copy_in_process(filled, "nothing", 1) == 0

    assert await filled.target.rows() == await filled.source.rows()
    async with filled.target.opened(clock) as store:
        assert (await store.admin.counts())[0].type == "crashed-1"


def _copy_in_process(pair: Pair, what: str, at: int) -> int:
    config = {
        "sides": [(side.url, side.settings.postgres_schema) for side in pair],
        "what": what,
        "at": at,
        "slice_rows": SLICE_ROWS,
    }
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return launched([str(COPIER), json.dumps(config)], env=environment).wait()
