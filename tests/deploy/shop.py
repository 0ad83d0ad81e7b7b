"""The app that gunicorn serves in the tests: what its handlers do goes to the file `LEDGER`."""

import asyncio
import os
from pathlib import Path

from fastapi import FastAPI
from injector import Injector

from kvqueue_fastapi import KvQueueDep, KvQueueModule, health_router, on_queue_message
from kvqueue_fastapi.telemetry.prometheus import PrometheusMiddleware, metrics_router

LEDGER = Path(os.environ["LEDGER"])


def note(line: str) -> None:
    with LEDGER.open("a") as ledger:
        ledger.write(f"{os.getpid()} {line}\n")


@on_queue_message("work")
async def work(seconds: float) -> None:
    note("begun")
    await asyncio.sleep(seconds)
    note("ended")


metrics = PrometheusMiddleware()
module = KvQueueModule(consumers=[work], middleware=[metrics])
app = FastAPI()
module.install(app, Injector([module]))
app.include_router(metrics_router(metrics))
app.include_router(health_router())


@app.post("/parcels/{seconds}")
async def order(seconds: float, queue: KvQueueDep) -> int:
    note("answered")
    return await queue.send_message("work", seconds)
