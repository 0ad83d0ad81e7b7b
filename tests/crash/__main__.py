"""`python -m tests.crash [--engine postgres] [--minutes 30]`: what becomes of messages under fire.

A real uvicorn app sends and handles, with one worker and with three, while its processes are
killed, ended and frozen; on PostgreSQL three machines, each of which is cut off at times from a
server that is restarted at times. Then every promise is held against a ledger outside the store.
Exits with 1 where one was broken, and says where the files are.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.crash.plan import Plan
from tests.crash.reckoning import Report, total
from tests.crash.run import remove, run

SLICE_S = 300
"""A run begins anew so often: what it writes down is read into memory at its end."""

PLANS: Final = {"sqlite": [(1, 0), (3, 0)], "postgres": [(1, 3)]}
"""Workers of each server, and machines."""


def main() -> None:
    options = _options()
    random.seed(options.seed)
    print(f"seed {options.seed}", flush=True)
    reports: list[Report] = []
    left_s = options.minutes * 60
    while left_s > 0:
        plans = PLANS[options.engine]
        for workers, machines in plans:
            seconds = min(SLICE_S, left_s / len(plans))
            plan = Plan(workers, seconds, kills=10**9, pause_s=0.4, machines=machines)
            reports.append(_run(plan))
        left_s -= len(plans) * seconds
    sys.exit(1 if total(reports) else 0)


def _run(plan: Plan) -> Report:
    directory = Path(tempfile.mkdtemp(prefix="kvqueue-crash-"))
    report = asyncio.run(run(directory, plan))
    print(report, end="\n\n", flush=True)
    if report.broken:
        print(f"The files are in {directory}", flush=True)
    else:
        remove(directory)
    return report


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--engine", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    return parser.parse_args()


if __name__ == "__main__":
    main()
