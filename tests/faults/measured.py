"""A process of its own, so that what is measured is its own: one role each.

Its arguments are the role, the path of the database, and numbers that the role needs; it says
what came of it in one line of JSON.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from injector import Injector

from kvqueue_fastapi import KvQueue, KvQueueModule, KvQueueSettings
from tests.faults.gauges import status_kib
from tests.faults.soaks import soak_in_features, soak_in_messages

PATIENCE_S = 300


def measured(role: str, path: Path, *needs: int) -> dict[str, Any]:
    """Run a role to its end. Returns what it says at last."""
    command = [sys.executable, "-m", "tests.faults.measured", role, str(path), *map(str, needs)]
    ended = subprocess.run(command, timeout=PATIENCE_S, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    said: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return said


async def handle(path: str, count: int, concurrency: int = 100) -> dict[str, Any]:
    """Send ten messages, handle `count`, and stop."""
    handled = 0
    enough = asyncio.Event()

    async def take(_data: Any) -> None:
        nonlocal handled
        handled += 1
        if handled == count:
            enough.set()
        if handled > count:
            await asyncio.Event().wait()

    settings = KvQueueSettings(concurrency=concurrency, shutdown_timeout_s=0)
    module = KvQueueModule(path, settings=settings)
    injector = Injector([module])
    injector.get(KvQueue).add_listener("deep", take)
    async with module.running(injector) as queue:
        await queue.send_messages([("sent", number) for number in range(10)])
        await enough.wait()
    return {"peak_kib": status_kib("VmHWM")}


ROLES = {"handle": handle, "messages": soak_in_messages, "features": soak_in_features}


if __name__ == "__main__":
    role, database, *numbers = sys.argv[1:]
    print(json.dumps(asyncio.run(ROLES[role](database, *map(int, numbers)))))
