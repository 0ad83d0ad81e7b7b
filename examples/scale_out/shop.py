"""The shop of the example. Every process runs this file; how it is started says what it does.

`KVQUEUE_LISTEN=false uvicorn shop:app` takes orders and only sends. `kvqueue worker shop:app`
only handles; start as many as you like.
"""

import asyncio
import os
import time
from typing import Annotated

from fastapi import FastAPI
from pydantic import BaseModel

from kvqueue_fastapi import (
    Injected,
    KvDep,
    KvQueueAdmin,
    KvQueueDep,
    KvQueueModule,
    Message,
    on_queue_message,
)

WORK_S = 0.15


class Handled(BaseModel):
    order: int
    pid: int
    attempt: int
    begun_at: float


@on_queue_message("order.placed", concurrency=5)
async def handle(order: int, message: Message[int]) -> None:
    begun_at = time.time()
    await asyncio.sleep(WORK_S)
    done = Handled(order=order, pid=os.getpid(), attempt=message.attempt, begun_at=begun_at)
    # One commit with the end of the message: who is killed before it has handled nothing.
    await message.atomic().set(("handled", order), done).commit()


app = FastAPI()
KvQueueModule(consumers=[handle]).install(app)


@app.post("/orders/{order}", status_code=202)
async def place(order: int, queue: KvQueueDep) -> None:
    await queue.send_message("order.placed", order)


@app.get("/left")
async def left(admin: Annotated[KvQueueAdmin, Injected(KvQueueAdmin)]) -> int:
    return len(await admin.messages())


@app.get("/leases/{pid}")
async def leases(pid: int, admin: Annotated[KvQueueAdmin, Injected(KvQueueAdmin)]) -> int:
    return sum(one.leases for one in await admin.listeners() if one.pid == pid)


@app.get("/handled")
async def handled(kv: KvDep) -> list[Handled]:
    return [entry.value async for entry in kv.list(prefix=("handled",), type=Handled)]
