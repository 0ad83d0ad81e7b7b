"""What the tests of the queue share: a running queue, what handlers saw, a clock by hand."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from injector import Injector

from kvqueue_fastapi import Kv, KvQueue, KvQueueAdmin, KvQueueModule, KvQueueSettings
from kvqueue_fastapi.dispatch import Dispatcher
from kvqueue_fastapi.handlers.consumers import collect_handlers
from kvqueue_fastapi.message import Hold
from kvqueue_fastapi.model import Claim, Settlement, Wanted
from kvqueue_fastapi.sender import Sender
from kvqueue_fastapi.store import AnyStore, open_store
from kvqueue_fastapi.store.base import ClaimRequest
from kvqueue_fastapi.store.handle import StoreHandle

PATIENCE_S = 10
"""How long a test waits for what should come at once."""
QUIET_S = 0.15
"""How long a test looks that nothing more comes."""


class Seen(list[Any]):
    """What handlers saw, in order, and a way to wait until they saw enough."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def add(self, item: Any) -> int:
        """Keep it. Returns how often it came by now."""
        self.append(item)
        self.times.append(time.monotonic())
        self._loop.call_soon_threadsafe(self._changed.set)  # from a thread as well
        return self.count(item)

    async def take(self, data: Any) -> None:
        """Be a handler that keeps its payload."""
        self.add(data)

    async def reach(self, count: int) -> list[Any]:
        """Wait until so many came. Returns all that came."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self) < count:
                self._changed.clear()
                await self._changed.wait()
        return list(self)

    async def stay(self, count: int) -> list[Any]:
        """Wait until so many came, then look for a moment that no more do."""
        await self.reach(count)
        await asyncio.sleep(QUIET_S)
        assert len(self) == count, self
        return list(self)


class Crowd:
    """Counts how many are inside at once."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    def enter(self, *names: str) -> None:
        for name in names:
            self.now[name] += 1
            self.most[name] = max(self.most[name], self.now[name])

    def leave(self, *names: str) -> None:
        self.now.subtract(names)


class Bench(NamedTuple):
    """A queue that runs, its keeper, and its keys."""

    queue: KvQueue
    admin: KvQueueAdmin
    kv: Kv


@asynccontextmanager
async def running(
    where: Path | str,
    *consumers: Any,
    listen: bool = True,
    callbacks: Mapping[str, Callable[..., Any]] | None = None,
    modules: tuple[Any, ...] = (),
    **settings: Any,
) -> AsyncGenerator[Bench]:
    """Run a queue on the file `q.db` of a directory, or on a URL."""
    url = where if isinstance(where, str) else str(where / "q.db")
    module = KvQueueModule(
        url, consumers=consumers, settings=KvQueueSettings(listen=listen, **settings)
    )
    injector = Injector([module, *modules])
    for message_type, callback in (callbacks or {}).items():
        injector.get(KvQueue).add_listener(message_type, callback)
    async with module.running(injector) as queue:
        yield Bench(queue, injector.get(KvQueueAdmin), injector.get(Kv))


async def until(holds: Callable[[], Any]) -> None:
    """Wait until an awaited condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def listening(kv: Kv, *handlers: Callable[..., Any]) -> AsyncGenerator[None]:
    """Let handlers listen to bare values meanwhile."""
    tasks = [asyncio.create_task(kv.listen_queue(handler)) for handler in handlers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(one) for one in ended} <= {asyncio.CancelledError, type(None)}


def failing(seen: Seen) -> Callable[..., Any]:
    """Make a handler that keeps its value and fails."""

    async def fail(value: Any) -> None:
        seen.add(value)
        raise ValueError("it fails always")

    return fail


async def is_there(kv: Kv, key: tuple[Any, ...]) -> bool:
    """Whether a key is."""
    return (await kv.get(key)).versionstamp is not None


class ManualClock:
    """Time passes when a test says so."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000_000

    def wall_ms(self) -> int:
        return self.now_ms

    def steady_ms(self) -> int:
        return self.now_ms

    def advance(self, milliseconds: int) -> None:
        self.now_ms += milliseconds


class Hand:
    """A listener turned by hand, on a clock turned by hand."""

    def __init__(self, store: AnyStore, dispatcher: Dispatcher, types: tuple[str, ...]) -> None:
        self.store = store
        self._dispatcher = dispatcher
        self._types = types

    async def claim(
        self, *types: str, lease_ms: int = 30_000, holder: int = 0, isolated: bool = False
    ) -> list[Claim]:
        """Take all that is due."""
        wanted = [Wanted(kind, 1_000) for kind in types or self._types]
        claimed = await self.store.claim(
            ClaimRequest(
                wanted, limit=1_000, lease_ms=lease_ms, listener_id=holder, isolated=isolated
            )
        )
        return list(claimed.claims)

    async def handle(self, claim: Claim) -> Settlement | None:
        """Hand a claim to its handler."""
        return await self._dispatcher.handle(Hold(claim, 0.0))

    async def turn(self) -> int:
        """Claim, handle and settle all that is due. Returns how many messages that were."""
        claims = await self.claim()
        ended = [await self.handle(claim) for claim in claims]
        await self.store.settle([one for one in ended if one is not None])
        return len(claims)


@asynccontextmanager
async def by_hand(
    where: Path, clock: ManualClock, *consumers: Any, **settings: Any
) -> AsyncGenerator[Hand]:
    """Open a store on a clock turned by hand."""
    chosen = KvQueueSettings(**settings)
    table = await collect_handlers(Injector(), consumers)
    store = await open_store(str(where / "q.db"), chosen, clock)
    handle = StoreHandle()
    handle.open(store, store.admin)
    dispatcher = Dispatcher(
        table, chosen, Sender(handle, chosen), lambda _hold, _end: None, lambda: False
    )
    try:
        yield Hand(store, dispatcher, table.types)
    finally:
        await store.close()
