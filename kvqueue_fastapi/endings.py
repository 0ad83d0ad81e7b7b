"""Awaiting what must come to its end."""

import asyncio
from typing import TypeVar

from anyio import CancelScope

T = TypeVar("T")


async def to_the_end(task: asyncio.Task[T]) -> T:
    """Await all of it, also where whoever waits is cancelled; then he is cancelled.

    What is left half done, such as a store that is half open, would keep the process from
    exiting, or leave its caller in doubt.
    """
    cancelled: asyncio.CancelledError | None = None
    # Within a cancelled scope anyio would cancel each wait anew.
    with CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled from task.exception()
    return task.result()
