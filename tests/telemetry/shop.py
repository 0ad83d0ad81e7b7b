"""A shop whose messages end in every way, and queues of it that run."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from injector import Injector

from kvqueue_fastapi import (
    KvQueue,
    KvQueueModule,
    KvQueueSettings,
    Message,
    Middleware,
    Reject,
    RetryLater,
    on_queue_message,
)

TRIES = 2
"""Deliveries of a message that always fails."""


@on_queue_message("order.created")
async def take(order: int) -> None:
    """Succeed."""


@on_queue_message("order.failing")
async def fail(order: int) -> None:
    msg = f"order {order} has no address"
    raise ValueError(msg)


@on_queue_message("order.flaky")
async def fail_once(order: int, message: Message) -> None:
    if message.attempt == 1:
        msg = "the first time"
        raise ValueError(msg)


@on_queue_message("order.wrong")
async def reject(order: int) -> None:
    raise Reject("no such order")


@on_queue_message("order.early")
async def put_off(order: int) -> None:
    raise RetryLater(3600)


HANDLERS = (take, fail, fail_once, reject, put_off)


def module(
    url: str, *middleware: Middleware, handlers: Sequence[Any] = HANDLERS, listen: bool = False
) -> KvQueueModule:
    settings = KvQueueSettings(backoff_schedule_s=(0,) * (TRIES - 1), listen=listen)
    return KvQueueModule(url, consumers=handlers, settings=settings, middleware=middleware)


@asynccontextmanager
async def running(url: str, *middleware: Middleware, **options: Any) -> AsyncGenerator[KvQueue]:
    shop = module(url, *middleware, **options)
    async with shop.running(Injector([shop])) as queue:
        yield queue
