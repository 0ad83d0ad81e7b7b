"""A web app that only sends, and a worker process beside it that only handles.

    python examples/worker.py             # both, for a moment, with a request
    python examples/worker.py web         # the app on port 8000
    python examples/worker.py worker      # one more worker; start as many as you like

A worker needs `pip install 'kvqueue_fastapi[cli]'`.
Both share the consumers' module and the database file, which KVQUEUE_URL names (kvqueue.db).
With the worker busy or down, the app answers all the same: messages wait on disk.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from kvqueue_fastapi import Injected, KvQueueAdmin, KvQueueDep, KvQueueModule, on_queue_message


class Picture(BaseModel):
    name: str


class Thumbnails:
    # `def`: it blocks, so it runs in a thread; one at a time in each worker.
    @on_queue_message("picture.uploaded", concurrency=1)
    def shrink(self, picture: Picture) -> None:
        time.sleep(0.2)
        print(f"worker {os.getpid()}: thumbnail of {picture.name}", flush=True)


# --- the web process -----------------------------------------------------------------------

app = FastAPI()
KvQueueModule(listen=False).install(app)


@app.post("/pictures", status_code=202)
async def upload(picture: Picture, queue: KvQueueDep) -> dict[str, int]:
    message_id = await queue.send_message("picture.uploaded", picture)
    print(f"web {os.getpid()}: message {message_id} is on disk", flush=True)
    return {"message_id": message_id}


@app.get("/waiting")
async def waiting(admin: Annotated[KvQueueAdmin, Injected(KvQueueAdmin)]) -> int:
    return sum(
        one.ready + one.delayed + one.running + one.quarantined + one.isolated
        for one in await admin.counts()
    )


# --- the worker process --------------------------------------------------------------------


async def work() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    # Leaving `running` drains: handlers finish, what has not begun goes back.
    async with KvQueueModule(consumers=[Thumbnails]).running():
        print(f"worker {os.getpid()}: listening", flush=True)
        await stop.wait()
    print(f"worker {os.getpid()}: drained", flush=True)


# --- both, for a moment --------------------------------------------------------------------


def demonstrate(directory: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    os.environ["KVQUEUE_URL"] = str(Path(directory) / "pictures.db")
    os.environ["PORT"] = str(port)
    with process("web"):
        while not answers(url):
            time.sleep(0.1)
        # No worker yet: the app takes pictures all the same.
        for name in ("cat.png", "dog.png", "fox.png"):
            call(f"{url}/pictures", {"name": name})
        print(f"waiting: {call(f'{url}/waiting')}", flush=True)
        with process("worker"):
            while call(f"{url}/waiting"):
                time.sleep(0.1)
        print(f"waiting: {call(f'{url}/waiting')}", flush=True)


@contextmanager
def process(role: str) -> Iterator[None]:
    """Run this file in another process, until SIGTERM."""
    with subprocess.Popen([sys.executable, __file__, role]) as child:  # noqa: S603 because it is this file
        try:
            yield
        finally:
            child.terminate()


def call(url: str, body: dict[str, str] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})  # noqa: S310 because it is our own server
    with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 because it is our own server
        return json.load(answer)


def answers(url: str) -> bool:
    try:
        call(f"{url}/waiting")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["web"]:
            uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), log_level="warning")
        case ["worker"]:
            asyncio.run(work())
        case _:
            with tempfile.TemporaryDirectory() as directory:
                demonstrate(directory)
