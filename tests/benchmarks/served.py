"""The apps that a benchmark starts: `uvicorn --factory tests.benchmarks.served:shop`.

`KVQUEUE_URL` says where the database is; each process tells beside it what it has handled.
"""

import asyncio
import json
import mmap
import os
from pathlib import Path
from typing import Any

from fastapi import BackgroundTasks, FastAPI
from injector import Binder, Inject, Injector, Module, singleton
from pydantic import BaseModel

from kvqueue_fastapi import KvQueueDep, KvQueueModule, on_queue_message

TYPE = "order.created"
DOCUMENT = json.dumps({f"line {number}": [number] * 8 for number in range(300)})
WORK_TYPE = "document.read"


class Order(BaseModel):
    order_id: int
    customer: str
    lines: list[int]


class Tally:
    """How many messages this process has handled: a number in a file, for others to read."""

    def __init__(self) -> None:
        path = Path(os.environ["KVQUEUE_URL"]).with_name(f"handled-{os.getpid()}")
        with path.open("w+b") as file:
            file.truncate(8)
            self._cell = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")

    def note(self) -> None:
        self._cell[0] += 1


class Consumer:
    def __init__(self, tally: Inject[Tally]) -> None:
        self.tally = tally

    @on_queue_message(TYPE)
    async def handle(self, order: Order) -> None:
        self.tally.note()

    @on_queue_message(WORK_TYPE)
    async def work(self, order: Order) -> None:
        """Keep a core busy, as JSON or templates do, for about a millisecond."""
        for _ in range(2):
            json.dumps(json.loads(DOCUMENT))
        self.tally.note()


class TallyModule(Module):
    def configure(self, binder: Binder) -> None:
        binder.bind(Tally, scope=singleton)


def bare() -> FastAPI:
    """The app without the queue."""
    app = FastAPI()

    @app.get("/health")
    async def show_health() -> dict[str, Any]:
        return {"status": "ok", "checks": [1, 2, 3]}

    @app.post("/plain", status_code=202)
    async def take(order: Order) -> dict[str, int]:
        return {"message_id": order.order_id}

    @app.post("/hop", status_code=202)
    async def take_after_a_hop(order: Order) -> dict[str, int]:
        await asyncio.get_running_loop().run_in_executor(None, int)
        return {"message_id": order.order_id}

    @app.post("/background", status_code=202)
    async def take_later(order: Order, background: BackgroundTasks) -> dict[str, int]:
        background.add_task(handle_later, order)
        return {"message_id": order.order_id}

    return app


async def handle_later(order: Order) -> None:
    pass


def shop() -> FastAPI:
    """The app with the queue, as in the README."""
    app = bare()
    module = KvQueueModule(consumers=[Consumer])
    module.install(app, Injector([module, TallyModule()]))

    @app.post("/orders", status_code=202)
    async def create_order(order: Order, queue: KvQueueDep) -> dict[str, int]:
        return {"message_id": await queue.send_message(TYPE, order)}

    return app
