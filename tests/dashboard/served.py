"""A shop with a dashboard, for real servers: what is sent here can fail and be mended."""

import asyncio
import logging
import os
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI
from injector import Injector
from pydantic import BaseModel

from kvqueue_fastapi import (
    Injected,
    KvQueueAdmin,
    KvQueueDep,
    KvQueueModule,
    Message,
    OutgoingMessage,
    SendOptions,
)
from kvqueue_fastapi import on_queue_message as on
from kvqueue_fastapi.dashboard import dashboard_router

logging.getLogger("kvqueue_fastapi.audit").setLevel(logging.INFO)
logging.basicConfig()


class Invoice(BaseModel):
    order_id: int
    vat_number: str | None = None


def note(line: str) -> None:
    with Path(os.environ["LEDGER"]).open("a") as ledger:
        ledger.write(f"{line}\n")


@on("invoice.requested", backoff_schedule=[0.01])
async def write_invoice(invoice: Invoice) -> None:
    if invoice.vat_number is None:
        raise ValueError(f"order {invoice.order_id} has no VAT number")
    note(f"invoice {invoice.order_id} {invoice.vat_number}")


@on("mail.welcome")
async def welcome(message: Message) -> None:
    note(f"welcome {message.id}")


@on("film.rendered")
async def render_film(seconds: float) -> None:
    await asyncio.sleep(seconds)


@on("order.created", concurrency=2)
async def pack() -> None:
    await asyncio.sleep(60)


module = KvQueueModule(consumers=[write_invoice, welcome, render_film, pack])

app = FastAPI()
module.install(app, Injector([module]))
app.include_router(dashboard_router(allow_anonymous=True, title="Teapot shop"), prefix="/queue")
app.include_router(dashboard_router(allow_anonymous=True, read_only=True), prefix="/seen")


class Sending(BaseModel):
    type: str
    data: list[Any] = [None]
    options: dict[str, Any] = {}


@app.post("/send")
async def send(sending: Sending, queue: KvQueueDep) -> list[int]:
    options = SendOptions(**sending.options)
    return await queue.send_messages(
        [OutgoingMessage(sending.type, data, options) for data in sending.data]
    )


@app.get("/died")
async def died(admin: Annotated[KvQueueAdmin, Injected(KvQueueAdmin)]) -> int:
    return len(await admin.dead_letters())
