"""The server is killed twice with SIGKILL and nothing is lost; then the same without a queue.

    python examples/survives_kill.py

A shop takes 200 orders over HTTP and works on two at a time. At its 70th and at its 140th answer
it is killed, with orders waiting, in hand and on their way in, and opened again. First its route
sends a message, then it adds a task to FastAPI's `BackgroundTasks`; all else is the same.

`sent` are the orders answered with 202; one without an answer is sent again with its idempotency
key. `handled` are those in the ledger, a line of each at the end of its work; twice, if the server
died before the queue noted that end (examples/idempotency.py). Status 1: the queue lost something.
"""

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated, Final

import uvicorn
from fastapi import BackgroundTasks, FastAPI, Header

from kvqueue_fastapi import Injected, KvQueueAdmin, KvQueueDep, KvQueueModule, on_queue_message

ORDERS: Final = 200
KILL_AT: Final = (70, 140)
CUSTOMERS: Final = 12
PAUSE_S: Final = 0.1
WORK_S: Final = 0.03
AT_ONCE: Final = 2
PATIENCE_S: Final = 120

# --- the shop, which runs in a process of its own ------------------------------------------

KeyHeader = Annotated[str, Header(alias="Idempotency-Key")]


async def work(number: int, ledger: Path) -> None:
    await asyncio.sleep(WORK_S)
    with ledger.open("a") as file:
        file.write(f"{number}\n")


def shop_with_queue(ledger: Path) -> FastAPI:
    @on_queue_message("order.placed", concurrency=AT_ONCE)
    async def handle(number: int) -> None:
        await work(number, ledger)

    app = FastAPI()
    KvQueueModule(str(ledger.with_suffix(".db")), consumers=[handle]).install(app)

    @app.post("/orders/{number}", status_code=202)
    async def place(number: int, queue: KvQueueDep, idempotency_key: KeyHeader) -> None:
        await queue.send_message("order.placed", number, idempotency_key=idempotency_key)

    @app.get("/left")
    async def left(admin: Annotated[KvQueueAdmin, Injected(KvQueueAdmin)]) -> int:
        return len(await admin.messages(limit=ORDERS))

    return app


def shop_with_background_tasks(ledger: Path) -> FastAPI:
    app = FastAPI()
    at_once = asyncio.Semaphore(AT_ONCE)
    unhandled: set[int] = set()

    async def handle(number: int) -> None:
        async with at_once:
            await work(number, ledger)
        unhandled.discard(number)

    @app.post("/orders/{number}", status_code=202)
    async def place(number: int, tasks: BackgroundTasks) -> None:
        unhandled.add(number)
        tasks.add_task(handle, number)

    @app.get("/left")
    async def left() -> int:
        return len(unhandled)

    return app


SHOPS: Final = {"queue": shop_with_queue, "BackgroundTasks": shop_with_background_tasks}

# --- the customers, and who opens the shop again -------------------------------------------


class Round:
    def __init__(self, way: str, directory: Path) -> None:
        self.way, self.state = way, ""
        self.answered: set[int] = set()
        self.sent_again = self.kills = 0
        self._numbers = iter(range(1, ORDERS + 1))  # the next customer takes the next one
        self._ledger = directory / way
        self._ledger.touch()
        # Held here, as systemd would: between two lives of the server the port stays the shop's.
        self._door = socket.create_server(("127.0.0.1", 0))

    def handled(self) -> Counter[int]:
        """Each order that was, and how often."""
        return Counter(map(int, self._ledger.read_text().split()))

    def lost(self) -> int:
        return len(self.answered - self.handled().keys())

    async def play(self) -> None:
        began = time.monotonic()
        with self._door:
            async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
                keeper = group.create_task(self._keep_open())
                await asyncio.gather(*(self._order() for _ in range(CUSTOMERS)))
                self.state = "working off the rest"
                while not (await self._ask("GET /left")).endswith(b"\r\n0"):  # noqa: ASYNC110 because only the shop knows
                    await asyncio.sleep(PAUSE_S)
                keeper.cancel()
        self.state = f"done in {time.monotonic() - began:.1f} s"

    async def _keep_open(self) -> None:
        door = self._door.fileno()
        command = (sys.executable, __file__, self.way, str(self._ledger), str(door))
        while True:
            # Ctrl+C does not reach another process group: it is ended here.
            self._server = await asyncio.create_subprocess_exec(
                *command, pass_fds=[door], process_group=0, stdin=asyncio.subprocess.PIPE
            )
            try:
                status = await self._server.wait()
            finally:
                if self._server.returncode is None:
                    self._server.kill()
                    await self._server.wait()
            if status != -signal.SIGKILL:
                raise ChildProcessError(status)  # it has said why
            self.kills += 1
            self.state = f"reopened after kill {self.kills}"

    async def _order(self) -> None:
        for number in self._numbers:
            while b" 202 " not in await self._ask(f"POST /orders/{number}", f"order-{number}"):
                self.sent_again += 1
            self.answered.add(number)
            if len(self.answered) in KILL_AT:
                self._server.kill()
            await asyncio.sleep(PAUSE_S)

    async def _ask(self, what: str, key: str = "") -> bytes:
        reader, writer = await asyncio.open_connection(*self._door.getsockname())
        head = f"{what} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nContent-Length: 0"
        writer.write(f"{head}\r\nIdempotency-Key: {key}\r\n\r\n".encode())
        with closing(writer), suppress(ConnectionError):
            return await reader.read()
        return b""


# --- what there is to see ------------------------------------------------------------------

LABELS: Final = ("", "", "sent", "handled", "lost", "handled twice", "sent again", "killed", "")
LABEL: Final = 15
COLUMN: Final = 25


class Screen:
    """The table, redrawn in place; where that cannot be, a line for each new state."""

    def __init__(self, rounds: list[Round]) -> None:
        wide_enough = shutil.get_terminal_size().columns > LABEL + len(rounds) * (2 + COLUMN)
        self.live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and wide_enough
        self._colour = self.live and not os.environ.get("NO_COLOR")
        self._rounds = rounds
        self._shown: list[str] = []

    async def follow(self) -> None:
        while True:
            self.show()
            await asyncio.sleep(0.08)

    def show(self) -> None:
        if self.live:
            back = f"\x1b[{len(self._shown)}F" if self._shown else ""
            self._shown = self.table()
            print(back + "".join(f"{line}\x1b[K\n" for line in self._shown), end="", flush=True)
            return
        for each in self._rounds:
            way, bar, sent, handled, *_, state = self._column(each)
            if state and f"{way} {state}" not in self._shown:
                self._shown.append(f"{way} {state}")
                counts = f"{sent:>3} sent  {handled:>3} handled"
                print(f"{way:<{LABEL}}  {bar}  {counts}  {state}", flush=True)

    def table(self) -> list[str]:
        return [
            f"{label:<{LABEL}}" + "".join(f"  {cell:>{COLUMN}}" for cell in cells)
            for label, *cells in zip(LABELS, *map(self._column, self._rounds), strict=True)
        ]

    def accent(self, text: str) -> str:
        return f"\x1b[32m{text}\x1b[0m" if self._colour else text

    def _column(self, each: Round) -> tuple[str | int, ...]:
        handled = each.handled()
        done, known = (COLUMN * len(n) // ORDERS for n in (handled, handled.keys() | each.answered))
        bar = self.accent("━" * done) + "╌" * (known - done) + "·" * (COLUMN - known)
        lost = each.lost() if each.state.startswith("done") else "?"
        twice = sum(times > 1 for times in handled.values())
        counts = (len(each.answered), len(handled), lost, twice, each.sent_again, each.kills)
        return (each.way, bar, *counts, each.state)


async def main(directory: Path) -> int:
    """Play both rounds. Returns how many orders the queue lost."""
    rounds = [Round(way, directory) for way in SHOPS]
    screen = Screen(rounds)
    print(f"{ORDERS} orders, and SIGKILL at the {KILL_AT[0]}th and the {KILL_AT[1]}th answer\n")
    following = asyncio.create_task(screen.follow())
    for each in rounds:
        await each.play()
    following.cancel()
    screen.show()
    if not screen.live:
        print("", *screen.table(), sep="\n")
    lost, others = (each.lost() for each in rounds)
    verdict = screen.accent(f"The queue lost {lost or 'nothing'}.")
    print(f"\n{verdict} BackgroundTasks lost {others} of {ORDERS}.")
    return lost


if __name__ == "__main__":
    if len(sys.argv) > 1:
        # Nobody writes to it: it ends when the process that started this one does.
        threading.Thread(target=lambda: os._exit(len(os.read(0, 1))), daemon=True).start()
        way, ledger, door = sys.argv[1:]
        server = uvicorn.Server(uvicorn.Config(SHOPS[way](Path(ledger)), log_level="warning"))
        server.run(sockets=[socket.socket(fileno=int(door))])
    else:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
        with tempfile.TemporaryDirectory() as directory, suppress(KeyboardInterrupt):
            sys.exit(asyncio.run(main(Path(directory))) > 0)
        sys.exit(130)
