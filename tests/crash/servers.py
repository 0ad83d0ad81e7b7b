"""The real server under fire, which is started again whenever it dies."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Final

from tests.crash.plan import LEASE_S, MAX_CRASHES
from tests.processes.launcher import launched

SETTINGS: Final = {
    "KVQUEUE_LEASE_S": f"{LEASE_S}",
    "KVQUEUE_SHUTDOWN_TIMEOUT_S": "0.3",
    "KVQUEUE_MAX_CRASHES": f"{MAX_CRASHES}",
}
PAUSE_S: Final = 0.02
ROOT: Final = Path(__file__).parents[2]


class Server:
    """uvicorn with one worker or more, on one database.

    Args:
        directory: for the ledger and the log.
        workers: how many; with one, the server itself is the worker.
        url: of the database, as this server sees it.

    Attributes:
        seen: the processes that lived at the last look.
    """

    def __init__(self, directory: Path, workers: int, url: str) -> None:
        self._url = url
        self.ledger = directory / "ledger.jsonl"
        self.log = directory / "server.log"
        self.port = _free_port()
        self.seen: list[int] = []
        self._workers = workers
        self._process: subprocess.Popen[bytes] | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def environment(self) -> dict[str, str]:
        own = {"KVQUEUE_URL": self._url, "CRASH_LEDGER": str(self.ledger)}
        return {**os.environ, **SETTINGS, **own}

    def start(self) -> None:
        """Run it, again and again."""
        self._keeping = asyncio.create_task(self._keep())

    def pids(self) -> list[int]:
        """The server and its workers, listening or not."""
        if self._process is None:
            return []
        self.seen = [pid for pid in _pids_of_session(self._process.pid) if _serves(pid)]
        return self.seen

    def kill_all(self) -> None:
        """kill -9 for all its processes at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def stop(self, within_s: float) -> None:
        """End in good order."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self._process.wait, within_s)
        finally:
            self.kill_all()

    async def _keep(self) -> None:
        while True:
            self._process = self._spawn()
            while self._process.poll() is None:
                await asyncio.sleep(PAUSE_S)
            # A dead parent's workers would serve on.
            self.kill_all()

    def _spawn(self) -> subprocess.Popen[bytes]:
        options = ["--port", str(self.port), "--log-level", "warning"]
        if self._workers > 1:
            options += ["--workers", str(self._workers)]
        with self.log.open("ab") as log:
            return launched(
                ["-m", "uvicorn", "tests.crash.served:app", *options],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
            )


def _pids_of_session(session: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.getsid(int(entry.name)) == session:
                    found.append(int(entry.name))
    return found


def _serves(pid: int) -> bool:
    """Whether it lives, and is no process of Python's own beside the workers."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return state not in "ZX" and b"resource_tracker" not in command


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
