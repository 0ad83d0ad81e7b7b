"""The app of the tests of the command; they copy it to where they run."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from kvqueue_fastapi import KvQueueModule, on_queue_message


class Order(BaseModel):
    order_id: int


@on_queue_message("order.created")
def pack(order: Order) -> None:
    with Path("packed").open("a") as file:
        file.write(f"{order.order_id}\n")


@on_queue_message("mail.send")
async def mail(text: str) -> None: ...


app = FastAPI()
queue_module = KvQueueModule("orders.db", consumers=[pack, mail])
queue_module.install(app)
bare = FastAPI()
number = 7


async def wrapped(scope: Any, receive: Any, send: Any) -> None:
    await app(scope, receive, send)


def create_app() -> FastAPI:
    return app


def create_nothing() -> None: ...


async def create_later() -> FastAPI:
    return app
