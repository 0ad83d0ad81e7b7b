"""A small shop: one route sends four messages, four services handle them beside the app.

Start it from the checkout, in either of two ways:

    python examples/orders.py
    uvicorn examples.orders:app

and try, in another terminal:

    curl -s localhost:8000/orders -H 'content-type: application/json' \
        -d '{"item": "teapot", "quantity": 2, "email": "ada@example.org"}'
    curl -s localhost:8000/orders/ORDER_ID      # what has happened to it so far
    curl -s localhost:8000/admin/queue          # counts, and what was given up

The answer comes at once; the e-mail, the stock, the partner's webhook and the invoice follow.
Order a "kettle", which the shop does not have: its reservation is a dead letter at once. Place
some orders, kill the process with `kill -9`, and start it again: what it had begun and what
waited is done then.

The environment: KVQUEUE_URL (orders.db) and every other KVQUEUE_… setting, SHOP_FILES
(orders.db-files), SHOP_PARTNER_FAILS (0.4: how often the webhook fails, 0 to 1), PORT (8000).
"""

import asyncio
import os
import random
import time
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final
from uuid import uuid4

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from injector import Inject, Injector, Module, provider, singleton
from pydantic import BaseModel, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from kvqueue_fastapi import (
    Injected,
    KvQueueAdmin,
    KvQueueDep,
    KvQueueModule,
    KvQueueSettings,
    Message,
    MessageRecord,
    OutgoingMessage,
    QueueFullError,
    Reject,
    SendOptions,
    TypeCounts,
    on_queue_message,
)

ON_SALE: Final = ("teapot", "cup", "saucer")

# --- settings ------------------------------------------------------------------------------


class QueueSettings(KvQueueSettings):
    """The queue's settings, with another default than the package's."""

    url: str = "orders.db"


class ShopSettings(BaseSettings):
    """The shop's own: SHOP_FILES, SHOP_PARTNER_FAILS."""

    model_config = SettingsConfigDict(env_prefix="SHOP_")

    files: Path = Path("orders.db-files")
    partner_fails: float = Field(default=0.4, ge=0, le=1)


# --- what travels --------------------------------------------------------------------------


class Basket(BaseModel):
    """What a customer sends."""

    item: str
    quantity: int = Field(default=1, ge=1, le=100)
    email: str


class Order(Basket):
    """A basket with its number: the payload of every message here."""

    order_id: str


# --- services, made by the container -------------------------------------------------------


@singleton
class Ledger:
    """Keeps what happened to each order, in a file, so that it survives a crash as well."""

    def __init__(self, settings: Inject[ShopSettings]) -> None:
        settings.files.mkdir(parents=True, exist_ok=True)
        self._path = settings.files / "ledger.txt"

    def note(self, order_id: str, what: str) -> None:
        print(f"{order_id}: {what}", flush=True)
        with self._path.open("a") as file:
            file.write(f"{order_id} {datetime.now(UTC):%H:%M:%S.%f} {what}\n")

    def of(self, order_id: str) -> list[str]:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return [line.partition(" ")[2] for line in lines if line.startswith(f"{order_id} ")]


class Mailer(ABC):
    """What the shop needs of one; `ShopModule` says which it gets."""

    @abstractmethod
    async def send(self, to: str, text: str) -> str:
        """Send a mail. Returns what the ledger is to say of it."""


class PaperMailer(Mailer):
    """Would speak SMTP."""

    async def send(self, to: str, text: str) -> str:
        await asyncio.sleep(0.1)
        return f"mail to {to}: {text}"


class Partner:
    """A service of somebody else, which fails at times."""

    def __init__(self, settings: Inject[ShopSettings]) -> None:
        self._fails = settings.partner_fails

    async def tell(self, order: Order) -> str:
        await asyncio.sleep(0.05)
        if random.random() < self._fails:
            msg = "the partner does not answer"
            raise ConnectionError(msg)
        return f"the partner knows of {order.quantity} {order.item}"


# --- consumers: services with handlers -----------------------------------------------------


class Receipts:
    def __init__(self, mailer: Inject[Mailer], ledger: Inject[Ledger]) -> None:
        self.mailer = mailer
        self.ledger = ledger

    @on_queue_message("receipt.send")
    async def send_receipt(self, order: Order) -> None:
        mail = await self.mailer.send(order.email, f"{order.quantity} {order.item}, thank you")
        self.ledger.note(order.order_id, mail)


class Stock:
    def __init__(self, ledger: Inject[Ledger]) -> None:
        self.ledger = ledger

    # Sent with the item as ordering key: one reservation of an item at a time, in order.
    @on_queue_message("stock.reserve")
    async def reserve(self, order: Order) -> None:
        if order.item not in ON_SALE:
            # No retry would help: a dead letter, now.
            msg = f"there is no {order.item}"
            raise Reject(msg)
        self.ledger.note(order.order_id, f"{order.quantity} {order.item} reserved")


class Webhook:
    def __init__(self, partner: Inject[Partner], ledger: Inject[Ledger]) -> None:
        self.partner = partner
        self.ledger = ledger

    @on_queue_message("webhook.call", concurrency=5, timeout=10)
    async def call(self, order: Order, message: Message[Order]) -> None:
        try:
            answer = await self.partner.tell(order)
        except ConnectionError:
            self.ledger.note(order.order_id, f"webhook failed in attempt {message.attempt}")
            raise  # tried again after the next step of its schedule
        self.ledger.note(order.order_id, f"{answer}, attempt {message.attempt}")


class Invoices:
    def __init__(self, settings: Inject[ShopSettings], ledger: Inject[Ledger]) -> None:
        self.files = settings.files
        self.ledger = ledger

    # `def`, not `async def`: it blocks, so it runs in a thread; two at a time are enough.
    @on_queue_message("invoice.print", concurrency=2)
    def print_invoice(self, order: Order) -> None:
        time.sleep(0.3)  # typesetting takes its time
        path = self.files / f"{order.order_id}.pdf"
        # The same name and content however often: a message may come twice.
        path.write_bytes(pdf(f"Invoice {order.order_id}: {order.quantity} x {order.item}"))
        self.ledger.note(order.order_id, f"invoice in {path}")


def pdf(line: str) -> bytes:
    """A PDF of one page with one line of plain letters."""
    text = f"BT /F1 18 Tf 72 770 Td ({''.join(c for c in line if c not in '()')}) Tj ET"
    objects = (
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources 6 0 R >>",
        f"<< /Length {len(text)} >>\nstream\n{text}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        "<< /Font << /F1 5 0 R >> >>",
    )
    body, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "0000000000 65535 f \n" + "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    end = f"trailer << /Size 7 /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    return f"{body}xref\n0 7\n{table}{end}".encode("latin-1", "replace")


# --- the app -------------------------------------------------------------------------------


class ShopModule(Module):
    @singleton
    @provider
    def mailer(self) -> Mailer:
        return PaperMailer()


app = FastAPI(title="A small shop")
queue_module = KvQueueModule(
    settings=QueueSettings(), consumers=[Receipts, Stock, Webhook, Invoices]
)
queue_module.install(app, Injector([queue_module, ShopModule()]))


@app.post("/orders", status_code=202)
async def place_order(basket: Basket, queue: KvQueueDep) -> dict[str, str | list[int]]:
    order = Order(order_id=uuid4().hex[:8], **basket.model_dump())
    # One commit: all four messages are on disk when it returns, or none is.
    message_ids = await queue.send_messages(
        [
            ("receipt.send", order),
            ("invoice.print", order),
            OutgoingMessage(
                "stock.reserve", order, SendOptions(ordering_key=f"item:{order.item}"[:255])
            ),
            OutgoingMessage(
                "webhook.call",
                order,
                SendOptions(
                    # Three retries; when the last one fails too, the dead letter is kept, and
                    # the message is written under this key in the same transaction.
                    backoff_schedule=[0.2, 0.4, 0.8],
                    keys_if_undelivered=[("undelivered", order.order_id)],
                ),
            ),
        ]
    )
    return {"order_id": order.order_id, "message_ids": message_ids}


@app.get("/orders/{order_id}")
async def show_order(order_id: str, ledger: Annotated[Ledger, Injected(Ledger)]) -> list[str]:
    return ledger.of(order_id)


@app.exception_handler(QueueFullError)
async def say_busy(_request: Request, error: Exception) -> JSONResponse:
    # KVQUEUE_MAX_PENDING messages wait already: better to say so than to promise more.
    return JSONResponse({"detail": str(error)}, status_code=503, headers={"Retry-After": "5"})


# --- for the keeper: guard such routes, they show payloads and change the queue ------------

AdminDep = Annotated[KvQueueAdmin, Injected(KvQueueAdmin)]


class QueueView(BaseModel):
    """The state of the queue."""

    counts: list[TypeCounts]
    dead_letters: list[MessageRecord]


@app.get("/admin/queue")
async def show_queue(admin: AdminDep) -> QueueView:
    return QueueView(
        counts=await admin.counts(), dead_letters=list(await admin.dead_letters(limit=100))
    )


@app.post("/admin/dead-letters/{message_id}/requeue")
async def requeue(message_id: int, admin: AdminDep) -> dict[str, int]:
    renamed = await admin.requeue([message_id])
    if message_id not in renamed:
        raise HTTPException(404, f"There is no dead letter {message_id}.")
    return {"message_id": renamed[message_id]}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
