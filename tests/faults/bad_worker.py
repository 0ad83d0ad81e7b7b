"""A real process whose handlers do what no handler should, and keep a ledger of it.

Its one argument is JSON, as that of `tests/processes/worker.py`.
"""

import asyncio
import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from kvqueue_fastapi import KvQueueModule, KvQueueSettings, Message, on_queue_message

CONFIG: dict[str, Any] = json.loads(sys.argv[1])
LEDGER = os.open(CONFIG["ledger"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(event: str, **fields: Any) -> None:
    line = {"event": event, "pid": os.getpid(), "at": time.time(), **fields}
    os.write(LEDGER, (json.dumps(line) + "\n").encode())


@on_queue_message("work")
async def work(message: Message) -> None:
    note("ended", id=message.id, attempt=message.attempt)


@on_queue_message("fork")
async def fork(how: str, message: Message) -> None:
    if child := os.fork():
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        note("forked", id=message.id, key=how, attempt=os.waitstatus_to_exitcode(status))
        return
    come_back(how)


@on_queue_message("fork in a thread")
def fork_in_a_thread(how: str, message: Message) -> None:
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        note("forked", id=message.id, key=how, attempt=os.waitstatus_to_exitcode(status))
        return
    come_back(how)


def come_back(how: str) -> None:
    """As a child that forgets to end itself."""
    if how == "exit":
        sys.exit(3)
    if how == "raise":
        raise ValueError


@on_queue_message("stop the loop")
async def stop_the_loop(message: Message) -> None:
    note("begun", id=message.id, attempt=message.attempt)
    if message.attempt == 1:
        asyncio.get_running_loop().stop()
    await asyncio.sleep(60)


@on_queue_message("hoard", backoff_schedule=[])
async def hoard(size_bytes: int) -> None:
    hoarded: list[Any] = []
    while True:
        hoarded.append(bytearray(size_bytes))


@on_queue_message("stay")
async def stay(message: Message) -> None:
    note("begun", id=message.id, attempt=message.attempt)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            note("swallowed", id=message.id)


@on_queue_message("leave a thread")
async def leave_a_thread(message: Message) -> None:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    note("ended", id=message.id, attempt=message.attempt)


def limit_memory(left_bytes: int) -> None:
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = used_bytes + left_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    module = KvQueueModule(
        CONFIG["database"],
        consumers=[work, fork, fork_in_a_thread, stop_the_loop, hoard, stay, leave_a_thread],
        settings=KvQueueSettings(**CONFIG["settings"]),
    )
    async with module.running():
        if "memory_bytes" in CONFIG:
            limit_memory(CONFIG["memory_bytes"])
        note("ready")
        await stop.wait()
    note("stopped")


if __name__ == "__main__":
    asyncio.run(main())
