"""The app that the subprocesses serve; as a script, a worker without HTTP.

Settings come from `KVQUEUE_…`, as in production. What handlers do goes to the file `LEDGER`, each
line in one write, so that it survives kill -9.
"""

import asyncio
import json
import os
import signal
import time
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from kvqueue_fastapi import KvQueueDep, KvQueueModule, Message, on_queue_message

LEDGER = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
VERSION = "one"


def note(event: str, **fields: Any) -> None:
    line = {"event": event, "pid": os.getpid(), "at": time.time(), **fields}
    os.write(LEDGER, (json.dumps(line) + "\n").encode())


class Work(BaseModel):
    seconds: float = 0


@on_queue_message("sleep")
async def sleep(work: Work, message: Message) -> None:
    note("begun", id=message.id, attempt=message.attempt, version=VERSION)
    await asyncio.sleep(work.seconds)
    note("ended", id=message.id)


@on_queue_message("block")
def block(work: Work, message: Message) -> None:
    note("begun", id=message.id, attempt=message.attempt)
    time.sleep(work.seconds)
    note("ended", id=message.id)


module = KvQueueModule(consumers=[sleep, block])
app = FastAPI()
module.install(app)


@app.post("/send/{message_type}")
async def send(message_type: str, work: Work, queue: KvQueueDep) -> int:
    return await queue.send_message(message_type, work)


@app.get("/hang")
async def hang() -> None:
    note("hanging")
    await asyncio.sleep(60)


async def main() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with module.running():
        note("running")
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())
