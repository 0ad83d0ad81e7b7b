"""An app whose start-up and shutdown take their time, and send."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from injector import Injector

from kvqueue_fastapi import KvQueue, KvQueueDep, KvQueueModule, Message, on_queue_message

LEDGER = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
STARTUP_S = float(os.environ.get("STARTUP_S", "0"))


def note(event: str, **fields: Any) -> None:
    line = {"event": event, "pid": os.getpid(), "at": time.time(), **fields}
    os.write(LEDGER, (json.dumps(line) + "\n").encode())


@on_queue_message("n")
async def handle(seconds: float, message: Message) -> None:
    note("begun", id=message.id, attempt=message.attempt)
    await asyncio.sleep(seconds)
    note("ended", id=message.id)


module = KvQueueModule(consumers=[handle])
injector = Injector([module])
queue = injector.get(KvQueue)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    note("starting", id=await queue.send_message("n", 0))
    await asyncio.sleep(STARTUP_S)
    yield
    note("stopping", id=await queue.send_message("n", 0))


app = FastAPI(lifespan=lifespan)
module.install(app, injector)


@app.post("/send/{message_type}")
async def send(message_type: str, work: dict[str, float], queue: KvQueueDep) -> int:
    return await queue.send_message(message_type, work["seconds"])
