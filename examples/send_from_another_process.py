"""Other processes send, this one handles.

A program in any language that can write to SQLite inserts a row: `type` and `data` (JSON) are
all it needs. A Python program opens the queue with `listen=False` and has every option. The
listener notices either within a few hundredths of a second.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from pydantic import BaseModel

from kvqueue_fastapi import KvQueueModule, Message, on_queue_message

# It knows nothing of this package; it could be written in any language.
FOREIGN_PROGRAM = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=5)
with database:
    database.execute(
        "INSERT INTO kvqueue_messages (type, data) VALUES (?, ?)",
        ("parcel.seen", '{"number": 1, "place": "the harbour"}'),
    )
database.close()
"""

done = asyncio.Semaphore(0)


class Parcel(BaseModel):
    number: int
    place: str


@on_queue_message("parcel.seen")
async def see(parcel: Parcel, message: Message[Parcel]) -> None:
    print(f"parcel {parcel.number} is at {parcel.place}, headers {dict(message.headers)}")
    done.release()


async def send(url: str) -> None:
    """What the second process does."""
    async with KvQueueModule(url, listen=False).running() as queue:
        parcel = Parcel(number=2, place="the depot")
        await queue.send_message("parcel.seen", parcel, headers={"from": "scanner"})


async def listen(url: str) -> None:
    # Opening the queue makes the tables, so the foreign program finds them.
    async with KvQueueModule(url, consumers=[see]).running():
        await run("-c", FOREIGN_PROGRAM, url)
        await done.acquire()
        await run(__file__, url)
        await done.acquire()


async def run(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    if await process.wait():
        sys.exit(f"{arguments[0]} failed")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(send(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(listen(str(Path(directory) / "parcels.db")))
