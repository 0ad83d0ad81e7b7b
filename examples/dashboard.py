"""A small shop whose queue is kept by hand, in a browser and behind a password.

    pip install 'kvqueue_fastapi[dashboard]'
    SHOP_PASSWORD=teapot python examples/dashboard.py

In another terminal, ask for an invoice that lacks its VAT number:

    curl http://127.0.0.1:8000/invoices --json '{"order_id": 42, "email": "ada@example.org"}'

Then open http://127.0.0.1:8000/queue/ as `keeper` with that password. The invoice is a dead letter:
read why, put `"vat_number": "DE 1"` into its payload by "Edit and requeue", and it goes through.
Colleagues who only look have http://127.0.0.1:8000/seen/, which has no buttons.
"""

import logging
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import BaseModel

from kvqueue_fastapi import KvQueueDep, KvQueueModule, on_queue_message
from kvqueue_fastapi.dashboard import dashboard_router

KEEPER: Final = "keeper"
BASIC: Final = HTTPBasic()


def admin_only(
    request: Request, credentials: Annotated[HTTPBasicCredentials, Depends(BASIC)]
) -> None:
    password = os.environ.get("SHOP_PASSWORD", "")
    # Both are compared, and in a time that does not tell how much of them was right.
    is_keeper = secrets.compare_digest(credentials.username.encode(), KEEPER.encode())
    is_right = secrets.compare_digest(credentials.password.encode(), password.encode())
    if not (is_keeper and is_right and password):
        raise HTTPException(401, headers={"WWW-Authenticate": "Basic"})
    # What the log of actions calls the one who acts.
    request.state.user = credentials.username


class Invoice(BaseModel):
    order_id: int
    email: str
    vat_number: str | None = None


@on_queue_message("invoice.requested", backoff_schedule=[0.1, 0.5])
async def write_invoice(invoice: Invoice) -> None:
    if invoice.vat_number is None:
        msg = f"order {invoice.order_id} has no VAT number"
        raise ValueError(msg)
    print(f"invoice for order {invoice.order_id} to {invoice.email}, VAT {invoice.vat_number}")


queue_module = KvQueueModule("dashboard.db", consumers=[write_invoice])


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    if not os.environ.get("SHOP_PASSWORD"):
        print("nobody gets in: start the shop with SHOP_PASSWORD=…")
    yield


app = FastAPI(lifespan=lifespan)
queue_module.install(app)
keepers = [Depends(admin_only)]
app.include_router(dashboard_router(dependencies=keepers, title="Teapot shop"), prefix="/queue")
app.include_router(
    dashboard_router(dependencies=keepers, read_only=True, title="Teapot shop"), prefix="/seen"
)


@app.post("/invoices", status_code=202)
async def request_invoice(invoice: Invoice, queue: KvQueueDep) -> dict[str, int]:
    return {"message_id": await queue.send_message("invoice.requested", invoice)}


if __name__ == "__main__":
    # Also who did what in the dashboard, which is told at INFO.
    logging.basicConfig(level=logging.INFO)
    uvicorn.run(app)
