"""What befalls the server, at random moments."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.crash.audit import Database
from tests.crash.ledger import Ledger
from tests.crash.network import Network
from tests.crash.plan import LEASE_S
from tests.crash.servers import ROOT, Server
from tests.processes.launcher import launched

DECK: Final = {"kill": 10, "kill all": 1, "terminate": 4, "freeze": 3, "visit": 2}
"""How often each fault comes before any comes once more."""
NETWORK_DECK: Final = {"cut": 3, "swallow": 2, "swallow answers": 1, "sessions": 2, "restart": 2}
"""The same, where there is a network with a database server behind it."""
FROZEN_S: Final = (LEASE_S + 1.0, LEASE_S + 2.0)
"""For how long: always longer than a lease."""
LOOKS: Final = 100
LOOK_S: Final = 0.05
STILL_S: Final = 0.005
COMMITS_S: Final = 0.3
"""Within so long whoever is within a commit comes to its end, unless he is frozen."""
LATE_S: Final = 1.0
"""A lock that is held for less makes nobody late."""
VISITOR: Final = Path(__file__).with_name("visitor.py")


class Killer:
    """Kills, ends and freezes workers, and brings in other programs.

    Args:
        servers: whose workers are its victims.
        database: what they hold there, and what other programs open.
        network: between the two; None: there is none.
        ledger: where it writes what it did.
        pause_s: how long to wait between two faults, on average.
    """

    def __init__(
        self,
        servers: list[Server],
        database: Database,
        network: Network | None,
        ledger: Ledger,
        pause_s: float,
    ) -> None:
        self.kills = 0
        self._servers = servers
        self._database = database
        self._network = network
        self._ledger = ledger
        self._pause_s = pause_s
        self._deck: list[str] = []
        self._frozen: dict[int, asyncio.Task[None]] = {}
        self._visits: list[asyncio.Task[None]] = []
        self._outages: list[asyncio.Task[None]] = []

    async def run(self, stop: asyncio.Event, kills: int) -> None:
        """Go on until it is to stop, or until so many processes were hit."""
        while not stop.is_set() and self.kills < kills:
            await asyncio.sleep(random.uniform(0, 2 * self._pause_s))
            await self._strike(self._drawn())
        await asyncio.gather(*self._frozen.values(), *self._visits, *self._outages)

    def _drawn(self) -> str:
        if not self._deck:
            decks = {**DECK, **(NETWORK_DECK if self._network else {})}
            self._deck = [fault for fault, count in decks.items() for _ in range(count)]
            random.shuffle(self._deck)
        return self._deck.pop()

    async def _strike(self, fault: str) -> None:
        if fault == "visit":
            self._visits.append(asyncio.create_task(self._visit()))
            return
        if fault in NETWORK_DECK:
            assert self._network is not None
            self._outages.append(asyncio.create_task(self._network.strike(fault)))
            return
        victim = await self._victim()
        if victim is None:
            return
        if fault == "kill all":
            self._kill_all()
        elif fault == "freeze":
            self._frozen[victim] = asyncio.create_task(self._freeze(victim))
        else:
            self._signal("SIGKILL" if fault == "kill" else "SIGTERM", [victim])

    async def _victim(self) -> int | None:
        """Somebody with messages in hand; None: nobody has, for all the waiting."""
        for _ in range(LOOKS):
            holding = await asyncio.to_thread(self._database.holding)
            pids = [pid for server in self._servers for pid in server.pids()]
            if victims := [pid for pid in holding if pid in pids and pid not in self._frozen]:
                return random.choice(victims)
            await asyncio.sleep(LOOK_S)
        return None

    def _kill_all(self) -> None:
        server = random.choice(self._servers)
        began, pids = time.time(), server.pids()
        server.kill_all()
        for pid in pids:
            self._note("SIGKILL", pid, began)

    def _signal(self, name: str, pids: list[int]) -> None:
        for pid in pids:
            began = time.time()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.Signals[name])
            self._note(name, pid, began)

    async def _freeze(self, pid: int) -> None:
        began = time.time()
        try:
            os.kill(pid, signal.SIGSTOP)
            until = time.monotonic() + random.uniform(*FROZEN_S)
            await _stand_still(pid)
            # A process that is frozen within a commit holds the lock, and so holds up everybody.
            is_locked = await self._is_locked_by(pid, COMMITS_S)
            await asyncio.sleep(max(0, until - time.monotonic()))
            # What it had asked a server for may have been on its way until then.
            is_locked = is_locked or await self._is_locked_by(pid, LATE_S)
            os.kill(pid, signal.SIGCONT)
            name = "SIGSTOP within a commit" if is_locked else "SIGSTOP"
            self._note(name, pid, began)
        except ProcessLookupError:  # somebody else has killed it
            self._note("SIGKILL", pid, began)
        finally:
            del self._frozen[pid]

    async def _is_locked_by(self, pid: int, for_s: float) -> bool:
        return await asyncio.to_thread(self._database.is_locked_by, pid, for_s)

    async def _visit(self) -> None:
        """Another program opens the file, does what it does, and leaves or is killed."""
        config = {"listen": random.random() < 0.5, "stay_s": random.uniform(0.1, 2)}
        visitor = self._launch(config)
        try:
            if random.random() < 0.5:
                await asyncio.sleep(random.uniform(0.5, 2))
                began = time.time()
                visitor.kill()
                self._note("SIGKILL", visitor.pid, began)
            await asyncio.to_thread(visitor.wait, 30)
        finally:
            visitor.kill()

    def _launch(self, config: dict[str, Any]) -> subprocess.Popen[bytes]:
        server = self._servers[0]
        with server.log.open("ab") as log:
            return launched(
                [str(VISITOR), json.dumps(config)],
                cwd=ROOT,
                env={
                    **server.environment,
                    "KVQUEUE_URL": self._database.url,
                    "PYTHONPATH": str(ROOT),
                },
                stdout=log,
                stderr=log,
            )

    def _note(self, name: str, pid: int, began: float) -> None:
        self._ledger.note(name, pid=pid, at=began, until=time.time())
        self.kills += 1


async def _stand_still(pid: int) -> None:
    """Wait until all its threads have stopped: on a busy machine each takes its time."""
    for _ in range(LOOKS):
        if set(_states(pid)) <= set("TtZX"):
            return
        await asyncio.sleep(STILL_S)


def _states(pid: int) -> Iterator[str]:
    for status in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # a thread that has ended
            # Behind the name, which may hold anything.
            yield status.read_text().rpartition(")")[2].split()[0]
