"""A web app that only sends, and a worker process beside it that only handles.

    python examples/worker.py             # both, for a moment, with a request
    python examples/worker.py web         # the app on port 8000
    python examples/worker.py worker      # one more worker; start as many as you like

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
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from kvqueue_fastapi import KvQueueDep, KvQueueModule, Message, on_queue_message


class Picture(BaseModel):
    name: str


class Thumbnails:
    # `def`: it blocks, so it runs in a thread.
    @on_queue_message("picture.uploaded", concurrency=2)
    def shrink(self, picture: Picture, message: Message[Any]) -> None:
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
    environment = {
        **os.environ,
        "KVQUEUE_URL": str(Path(directory) / "pictures.db"),
        "PORT": str(port),
    }

    def start(role: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, __file__, role], env=environment)

    with start("web") as web:
        # No worker yet: the app takes pictures all the same.
        for name in ("cat.png", "dog.png", "fox.png"):
            post(f"http://127.0.0.1:{port}/pictures", {"name": name})
        with start("worker") as worker:
            time.sleep(2)
            worker.terminate()
        web.terminate()


def post(url: str, body: dict[str, str]) -> None:
    request = urllib.request.Request(  # noqa: S310 because it is our own server
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    for _ in range(100):
        try:
            urllib.request.urlopen(request).close()  # noqa: S310 because it is our own server
        except ConnectionRefusedError:
            time.sleep(0.1)
        except OSError:
            time.sleep(0.1)
        else:
            return


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["web"]:
            uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), log_level="warning")
        case ["worker"]:
            asyncio.run(work())
        case _:
            with tempfile.TemporaryDirectory() as directory:
                demonstrate(directory)
