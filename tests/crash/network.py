"""What befalls the way to PostgreSQL, and the server at its end."""

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from tests.crash.ledger import Ledger
from tests.crash.plan import LEASE_S
from tests.crash.postgres_audit import PostgresDatabase
from tests.crash.servers import Server
from tests.servers.postgres import PostgresServer, postgres_server
from tests.servers.proxy import Proxy

SILENT_S: Final = (LEASE_S + 1.0, LEASE_S + 2.0)
"""For how long a machine is cut off: always longer than a lease."""
MODES: Final = ("fast", "immediate", "kill")


class Network:
    """Three machines, each with its own way to one server.

    Args:
        postgres: the server.
        proxies: the way of each machine, in their order.
        servers: what runs on each.
        database: the server's, past the proxies.
        ledger: where it writes what it did.
    """

    def __init__(
        self,
        postgres: PostgresServer,
        proxies: Sequence[Proxy],
        servers: Sequence[Server],
        database: PostgresDatabase,
        ledger: Ledger,
    ) -> None:
        self._postgres = postgres
        self._machines = dict(zip(proxies, servers, strict=True))
        self._free = list(proxies)
        self._database = database
        self._ledger = ledger
        self._restarting = asyncio.Lock()

    async def strike(self, fault: str) -> None:
        """Do it, and write it down."""
        if fault == "restart":
            await self._restart()
        elif fault == "sessions":
            began = time.time()
            await asyncio.to_thread(self._database.terminate)
            self._ledger.note("outage", pid=0, at=began, until=time.time())
        elif fault == "cut":
            proxy = random.choice(list(self._machines))
            self._ledger.note("outage", pid=0, at=time.time(), until=time.time())
            proxy.cut()
        elif self._free:
            await self._swallow(answers_only=fault == "swallow answers")

    async def _restart(self) -> None:
        async with self._restarting:
            began, mode = time.time(), random.choice(MODES)
            await asyncio.to_thread(_restart, self._postgres, mode)
            self._ledger.note("outage", pid=0, at=began, until=time.time())

    async def _swallow(self, *, answers_only: bool) -> None:
        # One machine at a time: the others must be able to take over.
        proxy, self._free = random.choice(self._free), []
        server = self._machines[proxy]
        # Of one that has just died the server may not have heard.
        began, pids = time.time(), {*server.seen, *server.pids()}
        proxy.swallow(asks=not answers_only)
        await asyncio.sleep(random.uniform(*SILENT_S))
        pids |= set(server.pids())
        proxy.resume()
        for pid in pids:
            self._ledger.note("cut off", pid=pid, at=began, until=time.time())
        self._free = list(self._machines)


@contextmanager
def postgres_behind(machines: int) -> Iterator[tuple[PostgresServer, list[Proxy]]]:
    """Run a server, and a way to it for each machine."""
    with postgres_server(fsync=False, copied=True) as server, ExitStack() as ways:
        yield (
            server,
            [ways.enter_context(Proxy(server.host, server.port)) for _ in range(machines)],
        )


def _restart(server: PostgresServer, mode: str) -> None:
    if mode == "kill":
        server.kill()
        server.start()
    else:
        server.restart("fast" if mode == "fast" else "immediate")
