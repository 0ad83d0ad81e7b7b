"""Clients that send all the time, and what each of them was told."""

import asyncio
import itertools
import random
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from injector import Injector

from kvqueue_fastapi import Kv, KvQueue, KvQueueModule, KvQueueSettings, KvU64, StoreError

CLIENTS: Final = 12
PAUSE_S: Final = 0.05
SENT: Final = ("sent",)
UNKNOWN: Final = "is not known"
LONG_S: Final = 0.6
"""Now and then a handler takes so long, that two of them are seen to be at one message."""


class Load:
    """What clients did.

    Attributes:
        ids: of messages, by their clients' own keys, as the clients were told.
        unsure: keys of which nobody could say whether they were stored; "sum" for a sum.
        refused: what clients were told instead, and how often.
        sums: how many sums were confirmed.
    """

    def __init__(self, queue: KvQueue, kv: Kv) -> None:
        self.ids: dict[str, int] = {}
        self.effects: set[str] = set()
        self.unsure: list[str] = []
        self.refused: Counter[str] = Counter()
        self.sums = 0
        self._queue = queue
        self._kv = kv
        self._name = secrets.token_hex(4)
        self._numbers = itertools.count()
        self._answered = 0
        self._stop = asyncio.Event()

    async def goes_on(self, count: int = 4 * CLIENTS, within_s: float = 30) -> None:
        """Wait until so many more sends were answered well."""
        goal = self._answered + count
        async with asyncio.timeout(within_s):
            while self._answered < goal:
                await asyncio.sleep(0.01)

    async def run(self) -> None:
        """Send from all clients until `stop`."""
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(self._send_forever(number))

    def stop(self) -> None:
        """Let each client come to the end of what it is at."""
        self._stop.set()

    async def _send_forever(self, client: int) -> None:
        kinds: list[Callable[[int], Awaitable[None]]] = [
            self._send_plain, self._send_effect, self._send_in_order, self._sum
        ]  # fmt: skip
        for kind in itertools.cycle(kinds):
            if self._stop.is_set():
                return
            await kind(client)
            await asyncio.sleep(random.uniform(0, 2 * PAUSE_S))

    async def _send_plain(self, _client: int) -> None:
        await self._send()

    async def _send_effect(self, _client: int) -> None:
        await self._send(effect=True)

    async def _send_in_order(self, client: int) -> None:
        await self._send(ordering_key=f"client {client}")

    async def _send(self, *, effect: bool = False, **options: Any) -> None:
        key = f"{self._name}-{next(self._numbers)}"
        if effect:
            self.effects.add(key)
        # what waits behind its key waits for all before it
        is_long = "ordering_key" not in options and random.random() < 0.1
        task = {"key": key, "seconds": LONG_S if is_long else 0.005, "effect": effect}
        message_id = await self._ask(key, self._queue.send_message("work", task, **options))
        if message_id is not None:
            self.ids[key] = message_id

    async def _sum(self, _client: int) -> None:
        if await self._ask("sum", self._kv.atomic().sum(SENT, KvU64(1)).commit()):
            self.sums += 1

    async def _ask(self, key: str, answer: Awaitable[Any]) -> Any:
        try:
            answered = await answer
        except StoreError as error:
            if UNKNOWN in str(error):
                self.unsure.append(key)
            self.refused[str(error)] += 1
            return None
        self._answered += 1
        return answered


@asynccontextmanager
async def sending(url: str, **settings: Any) -> AsyncGenerator[Load]:
    """Send to a URL meanwhile."""
    module = KvQueueModule(url, settings=KvQueueSettings(listen=False, **settings))
    injector = Injector([module])
    async with module.running(injector) as queue:
        load = Load(queue, injector.get(Kv))
        task = asyncio.create_task(load.run())
        try:
            yield load
        finally:
            load.stop()
            await task
