"""An order and its message in one transaction of SQLAlchemy: both are there, or neither.

Sent after the commit, a message is lost where the process dies in between; sent before it, it
tells of an order that may never be. Here it is part of the order's own transaction: what is
called a transactional outbox, without a table and a relay of one's own.

Three customers: one pays, the card of the second is declined after the message was sent, and
the process is killed in the middle of the third one's payment.

    python examples/order_outbox.py                         # on a SQLite file
    KVQUEUE_URL=postgresql://… python examples/order_outbox.py

It needs `pip install sqlmodel 'sqlalchemy[asyncio]' httpx2`; the last for the `TestClient` that
plays the customers.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from injector import Binder, Inject, Injector, InstanceProvider, Module
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from kvqueue_fastapi import Injected, KvQueueAdmin, KvQueueDep, KvQueueModule, on_queue_message

Sessions = async_sessionmaker[AsyncSession]
Charge = Callable[[str], Awaitable[None]]


class Basket(SQLModel):
    customer: str
    item: str


class ExampleOrder(Basket, table=True):
    id: int | None = Field(default=None, primary_key=True)
    receipt_sent: bool = False


class OrderPlaced(BaseModel):
    order_id: int


class Receipts:
    def __init__(self, sessions: Inject[Sessions]) -> None:
        self.sessions = sessions

    @on_queue_message("order.placed")
    async def send_receipt(self, placed: OrderPlaced) -> None:
        async with self.sessions.begin() as session:
            # Always there: the message came with it.
            order = await session.get_one(ExampleOrder, placed.order_id)
            order.receipt_sent = True
        print(f"receipt for the {order.item} of {order.customer}", flush=True)


SessionsDep = Annotated[Sessions, Injected(Sessions)]


def make_app(url: str, charge: Charge) -> FastAPI:
    engine = create_async_engine(alchemy_url(url))
    queue_module = KvQueueModule(url, consumers=[Receipts])

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(SQLModel.metadata.create_all)
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.post("/orders", status_code=201)
    async def place_order(basket: Basket, queue: KvQueueDep, sessions: SessionsDep) -> int:
        async with sessions.begin() as session:
            order = ExampleOrder.model_validate(basket)
            session.add(order)
            await session.flush()  # which gives it its id
            order_id = order.id or 0
            await queue.send_message(
                "order.placed", OrderPlaced(order_id=order_id), connection=session
            )
            await charge(basket.customer)
        return order_id

    @app.get("/orders")
    async def list_orders(sessions: SessionsDep) -> list[ExampleOrder]:
        async with sessions() as session:
            found = await session.exec(select(ExampleOrder).order_by(col(ExampleOrder.id)))
            return list(found)

    @app.get("/waiting")
    async def waiting(admin: Annotated[KvQueueAdmin, Injected(KvQueueAdmin)]) -> int:
        return len(await admin.messages())

    queue_module.install(app, Injector([queue_module, DatabaseModule(engine)]))
    return app


class DatabaseModule(Module):
    def __init__(self, engine: AsyncEngine) -> None:
        self.sessions = Sessions(engine, class_=AsyncSession, expire_on_commit=False)

    def configure(self, binder: Binder) -> None:
        binder.bind(Sessions, to=InstanceProvider(self.sessions))


def alchemy_url(url: str) -> str:
    """The queue's URL as SQLAlchemy writes it: they must lead to the same database."""
    if url.startswith(("postgresql://", "postgres://")):
        return f"postgresql+asyncpg://{url.partition('://')[2]}"
    return f"sqlite+aiosqlite:///{url.removeprefix('sqlite:///')}"


# --- two kinds of payment ------------------------------------------------------------------


async def ask_the_bank(customer: str) -> None:
    if customer == "bob":
        raise HTTPException(402, "the card was declined")


async def be_killed(_customer: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# --- the customers -------------------------------------------------------------------------


def buy(client: TestClient, customer: str, item: str) -> None:
    answer = client.post("/orders", json={"customer": customer, "item": item})
    print(f"{customer} orders a {item}: {answer.status_code}", flush=True)


def wait_for_receipts(client: TestClient) -> None:
    while client.get("/waiting").json():
        time.sleep(0.02)


def show(client: TestClient) -> None:
    customers = [order["customer"] for order in client.get("/orders").json()]
    print(f"orders of {', '.join(customers)}; messages that wait: {client.get('/waiting').json()}")


def main(url: str) -> None:
    with TestClient(make_app(url, ask_the_bank)) as client:
        buy(client, "ann", "teapot")
        wait_for_receipts(client)
        buy(client, "bob", "kettle")
        show(client)
    ended = subprocess.run(  # noqa: S603 because it is this file
        [sys.executable, __file__, "eve"], env={**os.environ, "KVQUEUE_URL": url}, check=False
    )
    print(f"eve orders a teapot: killed by signal {-ended.returncode}", flush=True)
    with TestClient(make_app(url, ask_the_bank)) as client:
        show(client)


if __name__ == "__main__":
    if sys.argv[1:] == ["eve"]:
        with TestClient(make_app(os.environ["KVQUEUE_URL"], be_killed)) as client:
            buy(client, "eve", "teapot")
    elif "KVQUEUE_URL" in os.environ:
        main(os.environ["KVQUEUE_URL"])
    else:
        with tempfile.TemporaryDirectory() as directory:
            main(str(Path(directory) / "shop.db"))
