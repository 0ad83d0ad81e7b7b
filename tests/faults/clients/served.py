"""The app that many clients ask, some of them impatient; settings come from `KVQUEUE_…`.

A request whose client goes away is cancelled, as a careful framework or a time-out does it.
"""

import asyncio
import os
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from kvqueue_fastapi import KvQueueDep, KvQueueModule, Message, on_queue_message

LEDGER = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
BATCH = 5


class Order(BaseModel):
    number: int
    text: str = ""


class CancelledByDisconnect:
    """Cancels what serves a request, at whatever it awaits, when the client disconnects."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        came: asyncio.Queue[Any] = asyncio.Queue()
        serving = asyncio.create_task(self._app(scope, came.get, send))

        async def listen() -> None:
            while (message := await receive())["type"] != "http.disconnect":
                came.put_nowait(message)
            if serving.cancel():
                os.write(LEDGER, b"gone\n")

        listening = asyncio.create_task(listen())
        await asyncio.wait([serving])
        listening.cancel()
        if not serving.cancelled():
            serving.result()


@on_queue_message("handled")
async def handle(message: Message[int]) -> None:
    os.write(LEDGER, f"{message.id} {message.data}\n".encode())


module = KvQueueModule(consumers=[handle])
app = FastAPI()
app.add_middleware(CancelledByDisconnect)
module.install(app)


@app.post("/one")
async def send_one(order: Order, queue: KvQueueDep) -> int:
    return await queue.send_message("handled", order.number)


@app.post("/batch")
async def send_batch(order: Order, queue: KvQueueDep) -> list[int]:
    return await queue.send_messages([("kept", order.number)] * BATCH)
