"""L: what each feature costs: the same work plain, and with that one feature."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import FastAPI
from injector import Binder, Inject, Injector, Module, singleton
from pydantic import BaseModel

from kvqueue_fastapi import (
    KvQueue,
    KvQueueModule,
    Message,
    OutgoingMessage,
    SendOptions,
    on_queue_message,
)
from tests.benchmarks.rows import SYNCED, Figures, Row, not_installed, nothing_missing

TYPE = "order.created"
SENDS = HANDLES = 20_000
PRODUCERS = 100
ORDERING_KEYS = 1_000
BATCH = 1_000
DATA = {"order_id": 1, "customer": "c-42", "lines": [1, 2, 3]}


class Order(BaseModel):
    order_id: int
    customer: str
    lines: list[int]


class Ledger:
    """What each consumer depends on."""

    def __init__(self) -> None:
        self.handled = 0


# --- consumers ---


class Plain:
    def __init__(self, ledger: Inject[Ledger]) -> None:
        self.ledger = ledger

    @on_queue_message(TYPE)
    async def handle(self, order: dict[str, Any]) -> None:
        self.ledger.handled += 1


class Typed:
    def __init__(self, ledger: Inject[Ledger]) -> None:
        self.ledger = ledger

    @on_queue_message(TYPE)
    async def handle(self, order: Order) -> None:
        self.ledger.handled += 1


class InThread:
    def __init__(self, ledger: Inject[Ledger]) -> None:
        self.ledger = ledger

    @on_queue_message(TYPE)
    def handle(self, order: dict[str, Any]) -> None:
        self.ledger.handled += 1


class WithEffect:
    def __init__(self, ledger: Inject[Ledger]) -> None:
        self.ledger = ledger

    @on_queue_message(TYPE)
    async def handle(self, order: dict[str, Any], message: Message[Any]) -> None:
        self.ledger.handled += 1
        await message.atomic().sum(("orders", order["customer"]), 1).commit()


class Session:
    """Bound in the request scope."""

    def __init__(self) -> None:
        self.orders: list[Any] = []


class Scoped:
    def __init__(self, ledger: Inject[Ledger], session: Inject[Session]) -> None:
        self.ledger = ledger
        self.session = session

    @on_queue_message(TYPE)
    async def handle(self, order: dict[str, Any]) -> None:
        self.ledger.handled += 1


class LedgerModule(Module):
    def configure(self, binder: Binder) -> None:
        binder.bind(Ledger, scope=singleton)


# --- features ---


def no_options(_number: int) -> SendOptions:
    return SendOptions()


def ordering_key(number: int) -> SendOptions:
    return SendOptions(ordering_key=f"customer-{number % ORDERING_KEYS}")


def priority(number: int) -> SendOptions:
    return SendOptions(priority=number % 10)


def idempotency_key(number: int) -> SendOptions:
    return SendOptions(idempotency_key=f"order-{number}")


def headers(_number: int) -> SendOptions:
    return SendOptions(headers={"trace": "4bf92f3577b34da6a3ce929d0e0e4736"})


class Feature(NamedTuple):
    """How work with a feature differs from plain work.

    Attributes:
        data: the payload.
        options_of: the options of the message with this number.
        consumer: has its handler.
        scoped: whether the container has fastapi-injector's request scope.
    """

    data: Any = DATA
    options_of: Callable[[int], SendOptions] = no_options
    consumer: type = Plain
    scoped: bool = False


PLAIN = Feature()
FOR_BOTH = {
    "plain": PLAIN,
    "typed payload": Feature(data=Order.model_validate(DATA), consumer=Typed),
    "ordering key": Feature(options_of=ordering_key),
    "priority": Feature(options_of=priority),
    "idempotency key": Feature(options_of=idempotency_key),
    "headers": Feature(options_of=headers),
}
FOR_HANDLING = {
    "request-scoped consumer": Feature(consumer=Scoped, scoped=True),
    "message.atomic() effect": Feature(consumer=WithEffect),
    "def handler, in a thread": Feature(consumer=InThread),
}


def container(path: Path, feature: Feature, *, listen: bool) -> tuple[KvQueueModule, Injector]:
    module = KvQueueModule(str(path), consumers=[feature.consumer], listen=listen)
    injector = Injector([module, LedgerModule()])
    if feature.scoped:
        from fastapi_injector import attach_injector, request_scope

        attach_injector(FastAPI(), injector)
        injector.binder.bind(Session, scope=request_scope)
    return module, injector


# --- work ---


def send(directory: Path, divisor: int, *, feature: Feature) -> Figures:
    return asyncio.run(send_rate(directory / "bench.db", feature, SENDS // divisor))


async def send_rate(path: Path, feature: Feature, total: int) -> Figures:
    """Sends a second by concurrent producers, each awaiting its own."""
    numbers = count()

    async def produce(queue: KvQueue, share: int) -> None:
        for _ in range(share):
            options = feature.options_of(next(numbers))
            await queue.send_message(
                TYPE,
                feature.data,
                idempotency_key=options.idempotency_key,
                ordering_key=options.ordering_key,
                priority=options.priority,
                headers=options.headers,
            )

    module, injector = container(path, feature, listen=False)
    async with module.running(injector) as queue:
        await asyncio.gather(*(produce(queue, 2) for _ in range(PRODUCERS)))
        began = time.perf_counter()
        await asyncio.gather(*(produce(queue, total // PRODUCERS) for _ in range(PRODUCERS)))
        return {"per_s": total / (time.perf_counter() - began)}


def handle(directory: Path, divisor: int, *, feature: Feature) -> Figures:
    return asyncio.run(handle_rate(directory / "bench.db", feature, HANDLES // divisor))


async def handle_rate(path: Path, feature: Feature, total: int) -> Figures:
    """Handled and settled a second of a backlog; the first tenth is the warm-up."""
    await fill(path, feature, total)
    module, injector = container(path, feature, listen=True)
    with closing(sqlite3.connect(path)) as eye:
        async with module.running(injector):
            ledger = injector.get(Ledger)
            while (warm := ledger.handled) < total // 10:
                await asyncio.sleep(0.001)
            began = time.perf_counter()
            while eye.execute("SELECT 1 FROM kvqueue_messages LIMIT 1").fetchone():
                await asyncio.sleep(0.001)
            return {"per_s": (total - warm) / (time.perf_counter() - began)}


async def fill(path: Path, feature: Feature, total: int) -> None:
    module, injector = container(path, feature, listen=False)
    async with module.running(injector) as queue:
        for first in range(0, total, BATCH):
            await queue.send_messages(
                [
                    OutgoingMessage(TYPE, feature.data, feature.options_of(number))
                    for number in range(first, min(first + BATCH, total))
                ]
            )


ROWS = [
    *(
        Row("L", f"send: {name}", "ours", SYNCED, partial(send, feature=feature))
        for name, feature in FOR_BOTH.items()
    ),
    *(
        Row(
            "L",
            f"handle: {name}",
            "ours",
            SYNCED,
            partial(handle, feature=feature),
            partial(not_installed, "fastapi_injector") if feature.scoped else nothing_missing,
        )
        for name, feature in (FOR_BOTH | FOR_HANDLING).items()
    ),
]
