"""A uvicorn with an app of `served.py`, for as long as a block lasts."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.child import ROOT

START_S = 30
STOP_S = 30
ADDRESS = re.compile(r"running on (http://127\.0\.0\.1:\d+)")
BAD = re.compile(r"^.*(?:ERROR|CRITICAL|WARNING|Traceback).*$", re.MULTILINE)


class Server:
    """A uvicorn that runs.

    Attributes:
        directory: has the database, the log, and what the app writes.
        url: where it listens.
        pid: of its only worker, or of the supervisor of several.
    """

    def __init__(self, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self.directory = directory
        self.process = process
        self.url = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def database(self) -> Path:
        return self.directory / "bench.db"

    @property
    def log(self) -> str:
        return (self.directory / "uvicorn.log").read_text()

    def await_start(self, workers: int) -> None:
        deadline = time.monotonic() + START_S
        while not self._has_started(workers):
            if self.process.poll() is not None or time.monotonic() > deadline:
                msg = f"uvicorn did not start: {self.log[-2000:]}"
                raise RuntimeError(msg)
            time.sleep(0.02)

    def _has_started(self, workers: int) -> bool:
        log = self.log
        if found := ADDRESS.search(log):
            self.url = found[1]
        return bool(found) and log.count("Application startup complete") >= workers

    def handled(self) -> list[int]:
        """How many messages each worker has handled."""
        files = self.directory.glob("handled-*")
        return [int.from_bytes(file.read_bytes(), sys.byteorder) for file in files]

    def stop(self) -> None:
        """Stop as on SIGTERM, and raise if anything went wrong while it ran."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(STOP_S)
        if complaint := BAD.search(self.log):
            msg = f"uvicorn said: {complaint[0]}"
            raise RuntimeError(msg)


@contextmanager
def serving(directory: Path, app: str = "shop", *, workers: int = 1) -> Iterator[Server]:
    """Start uvicorn with its own defaults, and stop it."""
    command = [sys.executable, "-m", "uvicorn", "--factory", f"tests.benchmarks.served:{app}"]
    environment = os.environ | {"KVQUEUE_URL": str(directory / "bench.db")}
    with (directory / "uvicorn.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", "0", "--workers", str(workers)],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    with process:
        try:
            server = Server(directory, process)
            server.await_start(workers)
            yield server
            server.stop()
        finally:
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End what did not stop by itself; a supervisor ends its workers if it is asked to."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
