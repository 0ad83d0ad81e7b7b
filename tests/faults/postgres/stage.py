"""A server, machines that listen on it, and what is owed to whoever sent."""

import asyncio
import itertools
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg

from kvqueue_fastapi.keys import encode_key
from tests.faults.postgres.load import SENT, Load, sending
from tests.processes.fleet import PATIENCE_S, Fleet, Line
from tests.servers.postgres import PostgresServer

MACHINE: Final = Path(__file__).with_name("machine.py")
EFFECTS: Final = ("effects",)
"""As the machines count them."""
LEASE_S: Final = 3.0
SHIFT_S: Final = 0.001
"""By which two processes may have written down the same moment."""


class Stage(Fleet):
    """Machines on one server.

    Args:
        directory: for the ledger and the log.
        server: which holds the database; another one after a failover.
    """

    def __init__(self, directory: Path, server: PostgresServer) -> None:
        super().__init__(directory)
        self.server = server

    async def machine(self, url: str | None = None, **config: Any) -> subprocess.Popen[bytes]:
        """Start one that listens, and wait until it does."""
        settings = {"lease_s": LEASE_S, **config.pop("settings", {})}
        return await self.start(
            program=MACHINE, url=url or self.server.url, settings=settings, **config
        )

    async def machines(self, *urls: str) -> list[subprocess.Popen[bytes]]:
        """Start one for each URL."""
        return list(await asyncio.gather(*map(self.machine, urls)))

    @asynccontextmanager
    async def load(
        self, url: str | None = None, excused: Collection[int] = (), **settings: Any
    ) -> AsyncGenerator[Load]:
        """Send meanwhile; then wait until all is handled, and hold the promises against it.

        Args:
            url: where to send.
            excused: processes that stood still or were cut off for longer than their leases.
            settings: of the queue that sends.
        """
        async with sending(url or self.server.url, **{"lease_s": LEASE_S, **settings}) as load:
            await load.goes_on()
            yield load
            await load.goes_on()
        print(load.refused, len(load.ids), len(load.unsure))
        await self.handled()
        await self.reckon(load, excused)

    async def handled(self) -> None:
        """Wait until no message is left."""
        deadline = time.monotonic() + PATIENCE_S
        while not await self.is_empty():
            assert time.monotonic() < deadline, self._said()
            await asyncio.sleep(0.05)

    async def is_empty(self) -> bool:
        """Whether no message waits, or is in anybody's hands."""
        return not await self.query("SELECT count(*) FROM kvqueue.kvqueue_messages")

    async def reckon(self, load: Load, excused: Collection[int] = ()) -> None:
        """Nothing lost, no effect twice, no message in two hands."""
        begun = {line.key: line.id for line in self.ledger.lines("begun")}
        # The answer to a commit may be lost, and its handler fail; the effects are counted below.
        effects = {begun[key] for key in begun.keys() & load.effects}
        done = self.ledger.count("ended").keys() | effects
        print(len(begun), "begun,", len(self.ledger.lines("begun")), "deliveries")
        assert set(load.ids.values()) - done == set(), "told and lost"
        assert begun.keys() - load.ids.keys() - set(load.unsure) == set(), "refused and stored"
        assert len({(line.key, line.id) for line in self.ledger.lines("begun")}) == len(begun)
        assert await self.query("SELECT count(*) FROM kvqueue.kvqueue_dead_letters") == 0
        assert await self.counter(EFFECTS) == len(begun.keys() & load.effects)
        sums = await self.counter(SENT) - load.sums
        assert 0 <= sums <= load.unsure.count("sum"), (sums, load.sums)
        assert [pair for pair in self.shared() if pair[0].pid not in excused] == []

    def shared(self) -> list[tuple[Line, Line]]:
        """Deliveries of one message at one time, and the earlier of them first."""
        begun: dict[tuple[int, int, int], Line] = {}
        spans: defaultdict[int, list[tuple[Line, Line]]] = defaultdict(list)
        for line in self.ledger.lines("begun"):
            begun[line.pid, line.id, line.attempt] = line
        for line in self.ledger.lines("ended") + self.ledger.lines("failed"):
            first = begun[line.pid, line.id, line.attempt]
            spans[line.id].append((first, line))
        for one in spans.values():
            one.sort(key=lambda span: span[0].at)
        return [
            (before[0], after[0])
            for one in spans.values()
            for before, after in itertools.pairwise(one)
            if after[0].at < before[1].at - SHIFT_S
        ]

    async def counter(self, key: tuple[Any, ...]) -> int:
        """What a sum has come to."""
        value = await self.query(
            "SELECT value FROM kvqueue.kvqueue_kv WHERE key = $1", encode_key(key)
        )
        return int.from_bytes(value or b"", "little")

    async def until_asked(self, statement: str, *values: Any) -> None:
        """Wait until the server answers that something is so."""
        deadline = time.monotonic() + PATIENCE_S
        while not await self.query(statement, *values):
            assert time.monotonic() < deadline, f"{statement}: {self._said()}"
            await asyncio.sleep(0.02)

    async def query(self, statement: str, *values: Any) -> Any:
        """Ask the server for one value, past every network."""
        rows = await self.ask(statement, *values)
        return rows[0][0] if rows else None

    async def ask(self, statement: str, *values: Any) -> list[Any]:
        """Ask the server for rows, past every network."""
        connection = await asyncpg.connect(self.server.url, timeout=PATIENCE_S)
        try:
            return list(await connection.fetch(statement, *values))
        finally:
            await connection.close()

    async def quit(self, machine: subprocess.Popen[bytes]) -> float:
        """Ask a machine to stop. Returns how long it took until its process had ended."""
        began = time.monotonic()
        machine.send_signal(signal.SIGTERM)
        await asyncio.to_thread(machine.wait, PATIENCE_S)
        return time.monotonic() - began
