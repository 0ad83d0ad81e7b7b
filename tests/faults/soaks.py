"""What the soaks run in a process of their own: much of one thing, and some of everything."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from injector import Injector

from kvqueue_fastapi import (
    Kv,
    KvQueue,
    KvQueueAdmin,
    KvQueueModule,
    KvQueueSettings,
    Message,
    OutgoingMessage,
    Reject,
    RetryLater,
    SendOptions,
)
from tests.faults.gauges import Sample, sample

BATCH: Final = 5_000
AHEAD: Final = 20_000
"""How many messages wait at the most."""


async def soak_in_messages(path: str, count: int) -> dict[str, Any]:
    """Send and handle so many. Returns samples on the way, and how often each id came."""
    times_of = bytearray(count + 1)
    handled = 0

    async def take(message: Message[Any]) -> None:
        nonlocal handled
        times_of[message.id] += 1
        handled += 1

    module = KvQueueModule(path)
    injector = Injector([module])
    injector.get(KvQueue).add_listener("m", take)
    samples: list[tuple[int, ...]] = []
    sent = 0
    async with module.running(injector) as queue:
        while handled < count:
            if sent < count and sent - handled < AHEAD:
                sent += len(await queue.send_messages([("m", None)] * BATCH))
            else:
                await asyncio.sleep(0.01)
            if handled * 50 // count > len(samples):
                samples.append((*sample(), size_bytes(path), size_bytes(f"{path}-wal")))
    return {"samples": samples, "once": times_of.count(1), "more": max(times_of)}


def size_bytes(path: str) -> int:
    return Path(path).stat().st_size


class Features:
    """A queue whose handlers end in every way that there is."""

    def __init__(self, path: str) -> None:
        settings = KvQueueSettings(
            backoff_schedule_s=(0.001,), idempotency_window_s=0.05, shutdown_timeout_s=5
        )
        self._module = KvQueueModule(path, settings=settings)
        self._injector = Injector([self._module])
        self.queue = self._injector.get(KvQueue)
        self.kv = self._injector.get(Kv)
        self.admin = self._injector.get(KvQueueAdmin)
        self.done: Counter[str] = Counter()
        handlers = (self.plain, self.fail_once, self.reject, self.put_off, self.commit, self.block)
        for handler in handlers:
            self.queue.add_listener(handler.__name__, handler)

    async def plain(self) -> None:
        self.done["plain"] += 1

    async def fail_once(self, message: Message[Any]) -> None:
        if message.attempt == 1:
            raise ValueError
        self.done["fail_once"] += 1

    async def put_off(self, number: int) -> None:
        if self.done["put_off"] < number:
            self.done["put_off"] += 1
            raise RetryLater(0)

    async def reject(self) -> None:
        self.done["reject"] += 1
        raise Reject

    async def commit(self, message: Message[Any]) -> None:
        await message.atomic().sum(("commits",), 1).send_message("plain").commit()
        self.done["commit"] += 1

    def block(self) -> None:
        self.done["block"] += 1

    async def live(self, number: int) -> None:
        """Start, use everything a little, stop."""
        async with self._module.running(self._injector), self._bare_values():
            await self.queue.send_messages(self._messages(number))
            await self.kv.enqueue(number)
            await self._watch(number)
            await self._cancel_some()
            while await self.admin.messages():
                await asyncio.sleep(0.001)
            dead = [letter.id for letter in await self.admin.dead_letters()]
            await (self.admin.discard if number % 2 else self.admin.requeue)(dead)

    def _messages(self, number: int) -> list[OutgoingMessage | tuple[str, Any]]:
        kinds = ("plain", "fail_once", "reject", "commit", "block")
        once = SendOptions(idempotency_key=f"k{number % 7}", headers={"a": "b"})
        keyed = [SendOptions(ordering_key=f"k{n % 3}", priority=n) for n in range(6)]
        return [
            *((kind, None) for kind in kinds),
            ("put_off", number),
            OutgoingMessage("plain", number % 7, once),
            *(OutgoingMessage("fail_once", None, options) for options in keyed),
        ]

    @asynccontextmanager
    async def _bare_values(self) -> AsyncIterator[None]:
        async def take(_value: int) -> None:
            self.done["bare"] += 1

        listening = asyncio.create_task(self.kv.listen_queue(take))
        yield
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening

    async def _watch(self, number: int) -> None:
        for _ in range(3):
            await self.kv.set(("expiring", number), "x" * 100, expire_in=0.01)
            async for entries in self.kv.watch([("expiring", number), ("watched",)]):
                await self.kv.set(("watched",), number)
                if entries[1].value == number:
                    break

    async def _cancel_some(self) -> None:
        sends = [asyncio.create_task(self.queue.send_message("plain")) for _ in range(10)]
        await asyncio.sleep(0)
        for send in sends[::2]:
            send.cancel()
        await asyncio.gather(*sends, return_exceptions=True)


async def soak_in_features(path: str, rounds: int) -> dict[str, Any]:
    """Start and stop a queue so often, and use everything meanwhile."""
    logging.disable(logging.CRITICAL)
    features = Features(path)
    samples: list[Sample] = []
    for number in range(rounds):
        await features.live(number)
        if number * 50 // rounds >= len(samples):
            samples.append(sample(objects=True))
    return {"samples": samples, "done": features.done}
