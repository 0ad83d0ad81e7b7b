"""The app of the tests of the command; they copy it to where they run."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from kvqueue_fastapi import KvQueueModule, on_queue_message


class Order(BaseModel):
    order_id: int


packed: list[int] = []


@on_queue_message("order.created")
async def pack(order: Order) -> None:
    packed.append(order.order_id)


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
