"""Measures of a peer whose API is asynchronous: producers are tasks of one event loop."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tests.benchmarks.peers.handled import Handled
from tests.benchmarks.peers.sizes import LEAST_S, WAIT_S, Sizes
from tests.benchmarks.rows import WARM_UP, Figures, Row, percentiles


class Peer(Protocol):
    async def send(self) -> object:
        """Send one message as its documents say."""

    async def fill(self, count: int) -> None:
        """Put so many there, the quickest way; not measured."""

    def handling(self) -> AbstractAsyncContextManager[object]:
        """Handle messages meanwhile; the handler calls `Handled` and does nothing else."""


Opened = Callable[[Path, Handled], AbstractAsyncContextManager[Peer]]
"""Opens a peer in an empty directory; a function of a module, so that it can be pickled."""


def rows(
    who: str, durability: str, opened: Opened, missing: Callable[[], str | None], sizes: Sizes
) -> list[Row]:
    """The peer's rows, one of each kind of work."""
    return sizes.rows(
        lambda work, name, measure: Row(work, name, who, durability, measure, missing),
        send=lambda count, producers: partial(_send_rate, opened, count, producers),
        handle=lambda *of: partial(_handle_rate, opened, *of),
        latency=lambda count, gap_s: partial(_latency, opened, count, gap_s),
    )


async def send_in_tasks(peer: Peer, count: int, producers: int) -> None:
    """So many messages by so many tasks, each awaiting its own."""

    async def produce() -> None:
        for _ in range(count // producers):
            await peer.send()

    await asyncio.gather(*(produce() for _ in range(producers)))


@asynccontextmanager
async def during(work: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    """A worker that never ends by itself."""
    # they warn of the work in flight when they are told to end
    logging.disable(logging.WARNING)
    worker = asyncio.create_task(work)
    try:
        yield
    finally:
        failed = worker.exception() if worker.done() else None
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        if failed is not None:
            raise failed


def _send_rate(
    opened: Opened, count: int, producers: int, directory: Path, divisor: int
) -> Figures:
    async def measure() -> Figures:
        async with opened(directory, Handled(asyncio.Event())) as peer:
            few = max(count // divisor // WARM_UP, producers)
            await send_in_tasks(peer, few, producers)
            many = max(count // divisor, producers)
            began = time.perf_counter()
            await send_in_tasks(peer, many, producers)
            return {"per_s": many // producers * producers / (time.perf_counter() - began)}

    return asyncio.run(measure())


def _handle_rate(
    opened: Opened, waiting: int, count: int, limit_s: float, directory: Path, divisor: int
) -> Figures:
    async def measure() -> Figures:
        done = asyncio.Event()
        handled = Handled(done)
        handled.expect(min(waiting, count) // divisor)
        async with opened(directory, handled) as peer:
            await peer.fill(waiting // divisor)
            async with peer.handling():
                with suppress(TimeoutError):
                    await asyncio.wait_for(done.wait(), max(limit_s / divisor, LEAST_S))
                return handled.rate()

    return asyncio.run(measure())


def _latency(opened: Opened, count: int, gap_s: float, directory: Path, divisor: int) -> Figures:
    """From the call of send to the start of the handler, both idle before, in one process."""

    async def measure() -> Figures:
        done = asyncio.Event()
        handled = Handled(done)
        taken: list[float] = []
        async with opened(directory, handled) as peer, peer.handling():
            for _ in range(max(count // divisor, 4) + 1):
                await asyncio.sleep(random.uniform(0.005, gap_s))
                handled.expect(1)
                began = time.perf_counter()
                await peer.send()
                await asyncio.wait_for(done.wait(), WAIT_S)
                taken.append(handled.at - began)
        return percentiles([seconds * 1000 for seconds in taken[1:]])

    return asyncio.run(measure())
