"""Message ids, given before the messages are stored."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import Row

Fetch = Callable[..., Awaitable[Sequence[Row]]]


class Ids:
    """Blocks of ids that this process has reserved."""

    def __init__(self) -> None:
        self._blocks: list[range] = []
        self._lock = asyncio.Lock()

    async def take(self, count: int, fetch: Fetch) -> list[int]:
        """Give so many ids that nobody else has or will have, each larger than the one before.

        Args:
            count: how many.
            fetch: runs a statement, where there are too few.
        """
        # One at a time, so that a later caller's are larger.
        async with self._lock:
            missing = count - sum(map(len, self._blocks))
            if missing > 0:
                for row in await fetch(sql.RESERVE_IDS, -(-missing // sql.ID_BLOCK)):
                    first = row[0] * sql.ID_BLOCK
                    self._blocks.append(range(first, first + sql.ID_BLOCK))
            ids: list[int] = []
            while len(ids) < count:
                block = self._blocks[0]
                part = block[: count - len(ids)]
                ids += part
                if len(part) == len(block):
                    del self._blocks[0]
                else:
                    self._blocks[0] = block[len(part) :]
            return ids

    def forget(self) -> None:
        """Reserve anew: another server has taken over, which may have given the same to others."""
        self._blocks.clear()
