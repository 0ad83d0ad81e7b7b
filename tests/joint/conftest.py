"""A queue that only its own wakes wake, and a connection of the caller's to its database."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from injector import Injector

from kvqueue_fastapi import (
    KvQueue,
    KvQueueAdmin,
    KvQueueModule,
    KvQueueSettings,
    Message,
    on_queue_message,
)
from tests.joint.lenders import ON_POSTGRES, ON_SQLITE, Lender


class Desk:
    """Handles what was ordered.

    Attributes:
        handled: the payloads, in the order in which they came.
    """

    def __init__(self) -> None:
        self.handled: asyncio.Queue[Any] = asyncio.Queue()

    async def next(self) -> Any:
        """The next payload, which comes by a wake or never."""
        async with asyncio.timeout(10):
            return await self.handled.get()

    async def is_idle(self) -> bool:
        """Whether nothing comes."""
        await asyncio.sleep(0.15)
        return self.handled.empty()


@pytest.fixture(params=[*ON_POSTGRES, *ON_SQLITE], ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type[Lender]:
    found: type[Lender] = request.param
    return found


@pytest.fixture
def url(kind: type[Lender], request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if kind in ON_POSTGRES:
        # asked for by name, so that the other engine's tests start no server
        return str(request.getfixturevalue("postgres_url"))
    return str(tmp_path / "queue.db")


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def injector(url: str, desk: Desk) -> AsyncIterator[Injector]:
    @on_queue_message("ordered")
    async def take(number: Any, message: Message[Any]) -> None:
        desk.handled.put_nowait(number)

    # so that nothing is found by chance
    settings = KvQueueSettings(poll_interval_s=3_600)
    module = KvQueueModule(url, consumers=[take], settings=settings)
    injector = Injector([module])
    async with module.running(injector):
        yield injector


@pytest.fixture
def queue(injector: Injector) -> KvQueue:
    return injector.get(KvQueue)


@pytest.fixture
def admin(injector: Injector) -> KvQueueAdmin:
    return injector.get(KvQueueAdmin)


@pytest.fixture
async def lender(queue: KvQueue, kind: type[Lender], url: str) -> AsyncIterator[Lender]:
    async with kind.open(url) as lender:
        yield lender


async def orders(lender: Lender) -> list[int]:
    async with lender.transaction():
        return [row[0] for row in await lender.run("SELECT number FROM orders ORDER BY number")]
