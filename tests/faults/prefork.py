"""A server that builds its module once and starts it in each of its children, as gunicorn does.

Its arguments: the database, the ledger, how the children are made, how many they are.
"""

import asyncio
import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

from kvqueue_fastapi import KvQueueModule, Message, on_queue_message

DATABASE, LEDGER, HOW, COUNT = sys.argv[1:]
EACH = 10


def note(**line: Any) -> None:
    with Path(LEDGER).open("a") as ledger:
        ledger.write(json.dumps({"pid": os.getpid(), **line}) + "\n")


@on_queue_message("work")
async def work(message: Message) -> None:
    note(event="ended", id=message.id)


module = KvQueueModule(DATABASE, consumers=[work])


def all_is_done() -> bool:
    return Path(LEDGER).read_text().count("\n") == int(COUNT) * (EACH + 1)


async def serve() -> None:
    async with module.running() as queue:
        await queue.send_messages([("work", None)] * EACH)
        note(event="ready")
        while not all_is_done():
            await asyncio.sleep(0.02)


def start() -> None:
    asyncio.run(serve())


if __name__ == "__main__":
    context: Any = multiprocessing.get_context(HOW)
    children = [context.Process(target=start) for _ in range(int(COUNT))]
    for child in children:
        child.start()
    for child in children:
        child.join()
    sys.exit(max(child.exitcode for child in children))
