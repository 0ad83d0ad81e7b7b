"""A machine of its own: it listens, and writes down what it does outside the database.

Its one argument is JSON: `url`, `ledger`, `settings`, and by how much its clock is wrong.
"""

import asyncio
import json
import os
import signal
import sys
import time
from typing import Any

from pydantic import BaseModel

from kvqueue_fastapi import KvQueueModule, KvQueueSettings, KvU64, Message, on_queue_message

CONFIG: dict[str, Any] = json.loads(sys.argv[1])
LEDGER = os.open(CONFIG["ledger"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
EFFECTS = ("effects",)
now = time.time


class Task(BaseModel):
    """What the handler is to do."""

    key: str
    seconds: float = 0
    effect: bool = False


def note(event: str, **fields: Any) -> None:
    line = {"event": event, "pid": os.getpid(), "at": now(), **fields}
    os.write(LEDGER, (json.dumps(line) + "\n").encode())


@on_queue_message("work")
async def work(task: Task, message: Message) -> None:
    named = {"id": message.id, "key": task.key, "attempt": message.attempt}
    note("begun", **named)
    try:
        await asyncio.sleep(task.seconds)
        if task.effect:
            await message.atomic().sum(EFFECTS, KvU64(1)).commit()
    finally:
        note("ended" if sys.exception() is None else "failed", lost=message.lease_lost, **named)


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    settings = KvQueueSettings(**CONFIG["settings"])
    async with KvQueueModule(CONFIG["url"], consumers=[work], settings=settings).running():
        note("ready")
        await stop.wait()
    note("closed")


if __name__ == "__main__":
    if wrong_s := CONFIG.get("clock_s"):
        time.time = lambda: now() + wrong_s
        time.time_ns = lambda: round((now() + wrong_s) * 1e9)
    asyncio.run(main())
    note("gone")
