"""Real processes on one database, and the ledger in which they write what they do."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.processes.foreign import Foreign, ForeignSqlite
from tests.processes.launcher import launched, started

WORKER = Path(__file__).with_name("worker.py")
KV_WORKER = Path(__file__).with_name("kv_worker.py")
PATIENCE_S = 30
"""How long anything may take that is not itself the measure."""


class Line(NamedTuple):
    """One thing that a process did."""

    event: str
    pid: int
    at: float
    id: int = 0
    key: str = ""
    attempt: int = 0
    lost: bool = False
    version: str = ""


class Ledger:
    """What all processes did, in the order in which they wrote it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[Line] = []
        self._read = 0
        path.touch()

    def lines(
        self, event: str, message_id: int | None = None, pid: int | None = None
    ) -> list[Line]:
        self._read_on()
        return [
            line
            for line in self._lines
            if line.event == event
            and (message_id is None or line.id == message_id)
            and (pid is None or line.pid == pid)
        ]

    def count(self, event: str) -> Counter[int]:
        """How often each message has that event."""
        return Counter(line.id for line in self.lines(event))

    def _read_on(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self._read)
            fresh = file.read()
        fresh = fresh[: fresh.rfind(b"\n") + 1]
        self._read += len(fresh)
        self._lines += [Line(**json.loads(line)) for line in fresh.splitlines()]


class Fleet:
    """Starts processes on one database; none of them outlives the test.

    Attributes:
        directory: of the test's own.
        database: its URL.
        foreign: another program at it.
    """

    def __init__(self, directory: Path, foreign: Foreign | None = None) -> None:
        self.directory = directory
        self.foreign = foreign or ForeignSqlite(directory / "queue.db")
        self.database = self.foreign.url
        self.ledger = Ledger(directory / "ledger.jsonl")
        self.log = directory / "stderr.log"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._told = 0

    def launch(
        self, role: str = "listen", *, program: Path = WORKER, fresh: bool = False, **config: Any
    ) -> subprocess.Popen[bytes]:
        """Start a process, and do not wait for it.

        Args:
            role: of those that the program knows.
            program: which one.
            fresh: by an interpreter of its own: how that ends, or what it forks, is the matter.
            config: the rest of what the program is told.
        """
        more = {"database": self.database, "ledger": str(self.ledger.path), "role": role}
        command = [str(program), json.dumps({**more, **config})]
        with self.log.open("ab") as log:
            start = started if fresh else launched
            process = start(command, stdin=subprocess.PIPE, stderr=log)
        self._processes.append(process)
        return process

    async def start(
        self, role: str = "listen", settings: dict[str, Any] | None = None, **config: Any
    ) -> subprocess.Popen[bytes]:
        """Start a process and wait until it is ready."""
        process = self.launch(role, settings=settings or {}, **config)
        await self.until(lambda: self.ledger.lines("ready", pid=process.pid))
        return process

    def tell(self, process: subprocess.Popen[bytes], *command: Any) -> int:
        """Give a process that obeys something to do. Returns the command's number."""
        self._told += 1
        assert process.stdin
        process.stdin.write(json.dumps([self._told, *command]).encode() + b"\n")
        return self._told

    async def obeyed(self, number: int) -> Line:
        """Wait until a command was carried out."""
        await self.until(lambda: self.ledger.lines("obeyed", number))
        return self.ledger.lines("obeyed", number)[0]

    async def until(self, condition: Callable[[], Any], within_s: float = PATIENCE_S) -> None:
        """Wait for a condition; when it does not come, show what the processes said."""
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {within_s} s; {self._said()}"
            await asyncio.sleep(0.01)

    async def begun(self, message_id: int, times: int = 1, within_s: float = PATIENCE_S) -> Line:
        """Wait for a delivery of a message."""
        lines = self.ledger.lines
        await self.until(lambda: len(lines("begun", message_id)) >= times, within_s)
        return lines("begun", message_id)[times - 1]

    async def ended(self, *message_ids: int, within_s: float = PATIENCE_S) -> None:
        """Wait until these messages were handled."""
        wanted = set(message_ids)
        await self.until(lambda: wanted <= self.ledger.count("ended").keys(), within_s)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """What a foreign program reads from the database."""
        return self.foreign.rows(statement)

    def kill(self, process: subprocess.Popen[bytes]) -> float:
        """kill -9. Returns when that was."""
        at = time.time()
        process.kill()
        process.wait()
        return at

    async def freeze(self, process: subprocess.Popen[bytes]) -> None:
        """SIGSTOP, but not in the middle of a commit: that would hold up everybody."""
        self.stop(process)
        while not self.foreign.is_passable():
            self.thaw(process)
            await asyncio.sleep(0.001)
            self.stop(process)

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """SIGSTOP, wherever it is. Returns when all its threads stand still."""
        process.send_signal(signal.SIGSTOP)
        # It may have died meanwhile.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, os.WUNTRACED)

    def thaw(self, process: subprocess.Popen[bytes]) -> None:
        """SIGCONT."""
        process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Kill every process, and what it forked."""
        self.foreign.close()
        for process in self._processes:
            if process.stdin:
                process.stdin.close()
            # Its session is its own, so that this reaches nobody else.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            finally:
                process.wait()

    def _said(self) -> str:
        counts = {
            event: len(self.ledger.lines(event)) for event in ("ready", "sent", "begun", "ended")
        }
        log = self.log.read_text() if self.log.exists() else ""
        return f"ledger: {counts}; log: {log[-2_000:]}"
