"""Real servers in processes of their own, and the ledger in which their handlers write."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.processes.launcher import launched

PATIENCE_S = 30
"""How long anything may take that is not itself the measure."""
HERE = Path(__file__).parent


class Line(NamedTuple):
    """One thing that a handler did."""

    event: str
    pid: int
    at: float
    id: int = 0
    attempt: int = 0
    version: str = ""


def finished_lines(ledger: Path) -> list[str]:
    """What is in it, without a line of which so far only a part can be read.

    One write reaches readers in parts where it crosses a page of the file.
    """
    text = ledger.read_text()
    return text[: text.rfind("\n") + 1].splitlines()


async def until(condition: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
    deadline = time.monotonic() + within_s
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)
    return result


def _is_listened_on(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False


class Server:
    """One process, with its children."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str]) -> None:
        self._log = log
        self._port = ""
        with log.open("wb") as file:
            self.process = launched(command, stdout=file, stderr=file, env=environment)

    @property
    def log(self) -> str:
        return self._log.read_text()

    async def started(self, times: int = 1) -> None:
        await self.logs(r"Application startup complete\.", times)

    async def logs(self, pattern: str, times: int = 1) -> str:
        def found() -> list[str] | None:
            hits = re.findall(pattern, self.log)
            assert len(hits) >= times or self.process.poll() is None, self.log
            return hits if len(hits) >= times else None

        hits: list[str] = await until(found)
        return hits[-1]

    async def send(self, message_type: str, **work: float) -> int:
        body = json.dumps(work).encode()
        answer = await self.request(f"/send/{message_type}", data=body)
        return int(json.loads(answer))

    async def port(self) -> str:
        if not self._port:
            await self.started()
            port = await self.logs(r"Uvicorn running on http://127\.0\.0\.1:(\d+)")
            # A reloader, and one with workers, says both before anybody listens there.
            await until(lambda: _is_listened_on(int(port)))
            self._port = port
        return self._port

    async def connect(self, path: str) -> asyncio.StreamWriter:
        """Ask, without waiting for an answer."""
        _, writer = await asyncio.open_connection("127.0.0.1", int(await self.port()))
        writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        return writer

    async def request(self, path: str, **options: Any) -> bytes:
        request = urllib.request.Request(
            f"http://127.0.0.1:{await self.port()}{path}",
            headers={"content-type": "application/json"},
            **options,
        )

        def ask() -> bytes:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                body: bytes = answer.read()
                return body

        return await asyncio.to_thread(ask)

    def signal(self, number: signal.Signals) -> float:
        """Returns when."""
        self.process.send_signal(number)
        return time.monotonic()

    async def exited(self, within_s: float = PATIENCE_S) -> float:
        """Returns when."""
        await until(lambda: self.process.poll() is not None, within_s)
        return time.monotonic()

    def end(self) -> None:
        # its session, because a reloader or workers may have outlived it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class House:
    """The servers of one test, on one database."""

    def __init__(self, directory: Path, url: str | None = None) -> None:
        self.directory = directory
        self.url = url or str(directory / "queue.db")
        self._ledger = directory / "ledger"
        self._ledger.touch()
        self._servers: list[Server] = []

    def uvicorn(self, *options: str, source: Path = HERE, **settings: Any) -> Server:
        command = ["uvicorn", "served:app", "--port", "0", "--app-dir", str(source), *options]
        return self._start(["-m", *command], settings)

    def worker(self, **settings: Any) -> Server:
        return self._start([str(HERE / "served.py")], settings)

    def command(self, *arguments: str, source: Path = HERE, **settings: Any) -> Server:
        """`python -m kvqueue_fastapi worker`, of the app in `source`."""
        command = ["kvqueue_fastapi", "worker", "--app-dir", str(source), *arguments]
        return self._start(["-m", *command], settings)

    def lines(self, event: str, message_id: int | None = None) -> list[Line]:
        lines = (Line(**json.loads(text)) for text in finished_lines(self._ledger))
        return [
            line
            for line in lines
            if line.event == event and (message_id is None or line.id == message_id)
        ]

    async def noted(
        self,
        event: str,
        message_id: int | None = None,
        *,
        times: int = 1,
        within_s: float = PATIENCE_S,
    ) -> Line:
        lines: list[Line] = await until(
            lambda: len(lines := self.lines(event, message_id)) >= times and lines, within_s
        )
        return lines[-1]

    def end(self) -> None:
        for server in self._servers:
            server.end()

    def _start(self, arguments: list[str], settings: dict[str, Any]) -> Server:
        own = {f"KVQUEUE_{name.upper()}": str(value) for name, value in settings.items()}
        environment = {**os.environ, "KVQUEUE_URL": self.url, "LEDGER": str(self._ledger), **own}
        log = self.directory / f"server-{len(self._servers)}.log"
        server = Server(arguments, log, environment)
        self._servers.append(server)
        return server
