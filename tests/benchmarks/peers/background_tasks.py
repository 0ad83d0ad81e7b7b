"""FastAPI's own BackgroundTasks: a list in memory, so the ceiling of what a handler can be given.

A request has one and runs it after its response; here producers and a backlog share one.
"""

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.handled import Handled
from tests.benchmarks.peers.message import MESSAGE
from tests.benchmarks.rows import Figures, Measure, Row


def _send_rate(count: int, producers: int, _directory: Path, divisor: int) -> Figures:
    from fastapi import BackgroundTasks

    tasks = BackgroundTasks()
    each = count // divisor // producers

    async def order_created(message: dict[str, Any]) -> None: ...

    async def produce() -> None:
        for _ in range(each):
            tasks.add_task(order_created, MESSAGE)

    async def measure() -> Figures:
        began = time.perf_counter()
        await asyncio.gather(*(produce() for _ in range(producers)))
        return {"per_s": each * producers / (time.perf_counter() - began)}

    return asyncio.run(measure())


def _handle_rate(count: int, _directory: Path, divisor: int) -> Figures:
    from fastapi import BackgroundTasks

    async def measure() -> Figures:
        tasks = BackgroundTasks()
        handled = Handled(asyncio.Event())
        handled.expect(count // divisor)

        async def order_created(message: dict[str, Any]) -> None:
            handled()

        for _ in range(count // divisor):
            tasks.add_task(order_created, MESSAGE)
        await tasks()
        return handled.rate()

    return asyncio.run(measure())


def _row(work: str, measure: Measure) -> Row:
    return Row(work, "BackgroundTasks", "BackgroundTasks", "in memory", measure)


ROWS: list[Row] = [
    _row("A", partial(_send_rate, 200_000, 100)),
    _row("B", partial(_send_rate, 200_000, 1)),
    _row("C", partial(_handle_rate, 20_000)),
]
