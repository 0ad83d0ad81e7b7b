"""Kill a shop twice while it works, and count what is lost.

    python examples/survives_kill.py

A shop takes 200 orders over HTTP and packs each one after it has answered. On the way it is
killed with SIGKILL twice and started again. First it leaves the packing to a KvQueue, then to
FastAPI's BackgroundTasks; nothing else differs.

Every order has a number. A customer who gets no answer, because the shop was killed, asks again
with the same number, until one comes: "sent" counts answers. "handled" counts the numbers in a
ledger to which the packing adds a line at its end, "twice" those that are there more than once.
What is sent and never handled is lost. It takes about 15 s, and fails if the queue lost anything.
"""

import asyncio
import os
import random
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
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import BackgroundTasks, FastAPI
from pydantic import BaseModel

from kvqueue_fastapi import KvQueueDep, KvQueueModule, on_queue_message

ORDERS: Final = 200
KILLS: Final = (70, 140)
"""After how many answers."""
CUSTOMERS: Final = 8
PACKING_S: Final = (0.05, 0.15)
QUIET_S: Final = 3.0
"""When nothing was handled for so long, nothing more will be."""

# --- the shop, twice: this part runs in a process of its own, which is killed ----------------


class Order(BaseModel):
    number: int


@on_queue_message("order.placed", concurrency=20)
async def pack(order: Order) -> None:
    await asyncio.sleep(random.uniform(*PACKING_S))
    ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, f"{order.number}\n".encode())
    os.close(ledger)


def shop_with_queue() -> FastAPI:
    app = FastAPI()
    KvQueueModule(os.environ["LEDGER"] + ".db", consumers=[pack]).install(app)

    @app.post("/orders", status_code=202)
    async def place_order(order: Order, queue: KvQueueDep) -> None:
        # On disk when it returns. Asked again with the same key, it is not stored again.
        await queue.send_message("order.placed", order, idempotency_key=str(order.number))

    return app


def shop_with_background_tasks() -> FastAPI:
    app = FastAPI()

    @app.post("/orders", status_code=202)
    async def place_order(order: Order, tasks: BackgroundTasks) -> None:
        tasks.add_task(pack, order)

    return app


SHOPS: Final = {"KvQueue": shop_with_queue, "BackgroundTasks": shop_with_background_tasks}

# --- the trial: starts a shop, sends, kills, counts ------------------------------------------


class Trial:
    """One shop, its customers, and its ledger."""

    def __init__(self, name: str, directory: str) -> None:
        self.name = name
        self.ended = False
        self.answered: set[str] = set()
        self._ledger = Path(directory, name)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port: int = free.getsockname()[1]
        self.open()

    @property
    def handled(self) -> Counter[str]:
        """How often each order was."""
        return Counter(self._ledger.read_text().split() if self._ledger.exists() else [])

    @property
    def missing(self) -> int:
        """How many orders were answered and not handled."""
        return len(self.answered.difference(self.handled))

    def has_answered(self, count: int) -> bool:
        return len(self.answered) >= count

    def order(self, number: int) -> None:
        """Be a customer: ask until there is an answer."""
        url, body = f"http://127.0.0.1:{self._port}/orders", Order(number=number).model_dump_json()
        headers = {"content-type": "application/json"}
        while not self.ended:
            request = urllib.request.Request(url, body.encode(), headers)
            try:
                urllib.request.urlopen(request, timeout=5).close()  # noqa: S310 because it is http
            except (OSError, HTTPException):
                time.sleep(0.05)
            else:
                self.answered.add(str(number))
                return

    def open(self) -> None:
        environment = {**os.environ, "LEDGER": str(self._ledger), "PORT": str(self._port)}
        command = [sys.executable, __file__, self.name]
        self._shop = subprocess.Popen(command, env=environment)  # noqa: S603 because it is this file

    def is_open(self) -> bool:
        if self._shop.poll() is not None:
            sys.exit("The shop could not be opened; see what it said above.")
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        self._shop.send_signal(signal.SIGKILL)
        self._shop.wait()

    def end(self) -> None:
        self.ended = True
        self.kill()


def run(trial: Trial) -> Iterator[str]:
    """Do all of it. Yields what happens now, again and again."""
    yield from until(trial.is_open, "the shop opens")
    with ThreadPoolExecutor(CUSTOMERS) as customers:
        for number in range(ORDERS):
            customers.submit(trial.order, number)
            # So that they do not come all at once.
            customers.submit(time.sleep, 0.05)
        for count in KILLS:
            yield from until(partial(trial.has_answered, count), "the shop is open")
            trial.kill()
            news = f"SIGKILL after {len(trial.answered)} orders, {trial.missing} not yet handled"
            trial.open()
            yield from until(trial.is_open, news)
        yield from until(partial(trial.has_answered, ORDERS), "the shop is open")
    handled, changed_at = 0, time.monotonic()
    while trial.missing and time.monotonic() - changed_at < QUIET_S:
        if sum(trial.handled.values()) != handled:
            handled, changed_at = sum(trial.handled.values()), time.monotonic()
        yield "all orders are sent"
    trial.end()


def until(holds: Callable[[], bool], news: str) -> Iterator[str]:
    while not holds():
        yield news


# --- what is shown ---------------------------------------------------------------------------

BAR: Final = 24
HEAD: Final = f"{'':15}  {'':{BAR}} {'sent':>7} {'handled':>8} {'twice':>6} {'lost':>6}"


def row(trial: Trial) -> str:
    sent, handled = len(trial.answered), trial.handled
    twice = sum(times > 1 for times in handled.values())
    lost = trial.missing if trial.ended else "?"
    done, taken = BAR * len(handled) // ORDERS, BAR * sent // ORDERS
    bar = f"{'█' * done + '▒' * (taken - done):·<{BAR}}"
    return f"{trial.name:15}  {bar} {sent:7} {len(handled):8} {twice:6} {lost:>6}"


def show_live(trial: Trial) -> None:
    """On a terminal: a row and a line below it, drawn again and again."""
    for news in run(trial):
        print(f"{row(trial)}\n  {news}\033[K", end="\r\033[A", flush=True)
        time.sleep(0.02)
    print(f"{row(trial)}\n\033[K", end="")


def show_plainly(trial: Trial) -> None:
    """In a file or a pipe: a line when something else happens."""
    before = ""
    for news in run(trial):
        if news != before:
            print(f"{trial.name}: {news}", flush=True)
        before = news
        time.sleep(0.02)


def main() -> int:
    missing, rows = {}, []
    live = sys.stdout.isatty()
    print(HEAD if live else f"{ORDERS} orders each, and SIGKILL twice")
    with tempfile.TemporaryDirectory() as directory:
        for name in SHOPS:
            trial = Trial(name, directory)
            try:
                (show_live if live else show_plainly)(trial)
            finally:
                trial.end()
            missing[name] = trial.missing
            rows.append(row(trial))
    if not live:
        print(HEAD, *rows, sep="\n")
    return 1 if missing["KvQueue"] else 0


if __name__ == "__main__":
    if shop := SHOPS.get("".join(sys.argv[1:])):
        uvicorn.run(shop(), port=int(os.environ["PORT"]), log_level="critical")
    else:
        sys.exit(main())
