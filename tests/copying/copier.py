"""A process that copies, and kills itself on the way: python copier.py '{…}'."""

import asyncio
import json
import os
import signal
import sys
from typing import Any

from kvqueue_fastapi import CopyProgress, copying
from kvqueue_fastapi.store.postgres.copies import PostgresTarget
from kvqueue_fastapi.store.sqlite.copies import SqliteTarget
from tests.copying.pairs import SETTINGS, Pair, Side


class Killer:
    """Kills its own process at a given count of something."""

    def __init__(self, what: str, at: int) -> None:
        self._what = what
        self._left = at

    def count(self, what: str) -> None:
        self._left -= what == self._what
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def told(self, progress: CopyProgress) -> None:
        self.count(progress.step)

    def within_transactions(self) -> None:
        """Count them, where the mark has moved and nothing is committed."""
        in_file, on_server = SqliteTarget._move, PostgresTarget._move

        def move(*args: Any) -> None:
            in_file(*args)
            self.count("transaction")

        async def move_there(*args: Any) -> None:
            await on_server(*args)
            self.count("transaction")

        SqliteTarget._move = move  # type: ignore[method-assign] # to make a fault
        PostgresTarget._move = move_there  # type: ignore[method-assign] # to make a fault


def main(config: dict[str, Any]) -> None:
    copying.SLICE_ROWS = config["slice_rows"]  # type: ignore[misc] # so that there are many
    sides = [
        Side(url, SETTINGS.model_copy(update={"postgres_schema": schema}))
        for url, schema in config["sides"]
    ]
    killer = Killer(config["what"], config["at"])
    killer.within_transactions()
    asyncio.run(Pair(*sides).copy(killer.told))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
