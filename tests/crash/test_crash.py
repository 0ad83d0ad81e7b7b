"""Bounded runs under fire: a hundred processes killed, ended, frozen or cut off."""

from pathlib import Path

import pytest

from tests.crash.plan import Plan
from tests.crash.run import run

PATIENCE_S = 300
"""How long it may take to hit so many, on a machine that has much else to do."""


@pytest.mark.parametrize(
    "plan",
    [
        Plan(workers=1, seconds=PATIENCE_S, kills=25, pause_s=0.3),
        pytest.param(
            Plan(workers=3, seconds=PATIENCE_S, kills=75, pause_s=0.2), marks=pytest.mark.long
        ),
        Plan(workers=1, seconds=PATIENCE_S, kills=12, pause_s=0.15, machines=3),
    ],
    ids=["one-worker", "three-workers", "three-machines-on-postgres"],
)
async def test_every_promise_is_kept_under_fire(tmp_path: Path, plan: Plan) -> None:
    report = await run(tmp_path, plan)

    print(report)
    assert report.broken == []
    assert report.kills >= plan.kills
    assert report.figures["lost"] == "0"
