"""Routes that get the queue in every way there is, and a consumer of what they send."""

from typing import Annotated, Any

from fastapi import Depends, FastAPI, WebSocket
from injector import Inject, Injector

from kvqueue_fastapi import (
    Injected,
    KvQueue,
    KvQueueDep,
    KvQueueModule,
    KvQueueSettings,
    get_kv_queue,
    on_queue_message,
)


class Shop:
    def __init__(self, queue: Inject[KvQueue]) -> None:
        self.queue = queue

    async def sell(self, order_id: int) -> int:
        return await self.queue.send_message("depends order", order_id)


class Consumer:
    def __init__(self) -> None:
        self.seen: list[int] = []

    @on_queue_message("depends order")
    async def handle(self, order_id: int) -> None:
        self.seen.append(order_id)


def installed(app: FastAPI, url: str, **settings: Any) -> Consumer:
    consumer = Consumer()
    module = KvQueueModule(
        url, consumers=[Consumer], settings=KvQueueSettings(**settings), listen=False
    )
    module.install(app, Injector([module, lambda binder: binder.bind(Consumer, to=consumer)]))
    return consumer


async def by_dep(order_id: int, queue: KvQueueDep) -> int:
    return await queue.send_message("depends order", order_id)


async def by_injected_queue(order_id: int, queue: Annotated[KvQueue, Injected(KvQueue)]) -> int:
    return await queue.send_message("depends order", order_id)


async def by_default_value(
    order_id: int,
    queue: KvQueue = Injected(KvQueue),  # noqa: B008 because it stands where Depends does
) -> int:
    return await queue.send_message("depends order", order_id)


async def by_service(order_id: int, shop: Annotated[Shop, Injected(Shop)]) -> int:
    return await shop.sell(order_id)


async def by_function(order_id: int, queue: Annotated[KvQueue, Depends(get_kv_queue)]) -> int:
    return await queue.send_message("depends order", order_id)


def by_thread(order_id: int, queue: KvQueueDep) -> int:
    return queue.send_message_sync("depends order", order_id, priority=1)


async def by_websocket(socket: WebSocket, queue: KvQueueDep) -> None:
    await socket.accept()
    order_id = await socket.receive_json()
    await socket.send_json(await queue.send_message("depends order", order_id))
    await socket.close()


ROUTES = [by_dep, by_injected_queue, by_default_value, by_service, by_function, by_thread]
