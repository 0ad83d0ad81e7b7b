"""A real process that listens or sends, and keeps a ledger of what it does.

Its one argument is JSON: `database`, `ledger`, `role`, `settings`, and what its role needs. Each
line of the ledger is one write to a file opened for appending, so it survives kill -9.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from injector import Injector, InstanceProvider
from pydantic import BaseModel

from kvqueue_fastapi import (
    KvQueue,
    KvQueueModule,
    KvQueueSettings,
    Message,
    OutgoingMessage,
    SendOptions,
    on_queue_message,
)
from kvqueue_fastapi.store.base import Clock
from kvqueue_fastapi.store.sqlite.engine import SystemClock

CONFIG: dict[str, Any] = json.loads(sys.argv[1])
DATABASE: str = CONFIG["database"]
LEDGER = os.open(CONFIG["ledger"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


LEFT_OPEN: list[Any] = []


def note(event: str, **fields: Any) -> None:
    line = {"event": event, "pid": os.getpid(), "at": time.time(), **fields}
    os.write(LEDGER, (json.dumps(line) + "\n").encode())


class Task(BaseModel):
    """What the handler is to do, and with whom."""

    do: str = "sleep"
    seconds: float = 0
    key: str = ""


@on_queue_message("work")
async def work(task: Task, message: Message) -> None:
    fields = {"id": message.id, "key": task.key, "attempt": message.attempt}
    note("begun", **fields)
    if task.do == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif task.do == "exit":
        os._exit(3)
    elif task.do == "spin":
        end = time.monotonic() + task.seconds
        while time.monotonic() < end:
            pass
    elif task.do == "block":
        time.sleep(task.seconds)  # noqa: ASYNC251 because a careless handler is the case
    else:
        await asyncio.sleep(task.seconds)
    note("ended", lost=message.lease_lost, **fields)


@on_queue_message("thread")
def work_in_thread(task: Task, message: Message) -> None:
    fields = {"id": message.id, "key": task.key, "attempt": message.attempt}
    note("begun", **fields)
    time.sleep(task.seconds)
    note("ended", lost=message.lease_lost, **fields)


def module(*, listen: bool) -> KvQueueModule:
    settings = KvQueueSettings(**CONFIG.get("settings", {}))
    return KvQueueModule(
        DATABASE, consumers=[work, work_in_thread], settings=settings, listen=listen
    )


async def listen() -> None:
    async with module(listen=True).running():
        note("ready")
        await asyncio.Event().wait()


class WrongClock(SystemClock):
    """Its wall clock is wrong by as many milliseconds as a file says."""

    def wall_ms(self) -> int:
        return super().wall_ms() + int(Path(CONFIG["clock"]).read_text())


async def listen_by_a_wrong_clock() -> None:
    """Listen, while the test sets the wall clock."""
    clock = InstanceProvider(WrongClock())
    queue = module(listen=True)
    async with queue.running(Injector([queue, lambda binder: binder.bind(Clock, to=clock)])):
        note("ready")
        await asyncio.Event().wait()


async def send() -> None:
    """Send `count` messages from each of `writers` tasks."""

    async def write(queue: KvQueue) -> None:
        for _ in range(CONFIG["count"]):
            note("sent", id=await queue.send_message("work", Task()))

    async with module(listen=False).running() as queue:
        note("ready")
        await asyncio.gather(*(write(queue) for _ in range(CONFIG["writers"])))
        note("done")


async def send_with_keys() -> None:
    """Send one message after another, each under one of five ordering keys, until killed."""
    async with module(listen=False).running() as queue:
        note("ready")
        while True:
            key = random.choice("abcde")
            task = Task(seconds=random.uniform(0, 0.02), key=key)
            note("sent", id=await queue.send_message("work", task, ordering_key=key), key=key)
            await asyncio.sleep(0.002)


async def send_tens() -> None:
    """Send ten messages in one commit, again and again, until killed."""
    async with module(listen=False).running() as queue:
        note("ready")
        while True:
            later = SendOptions(delay=3_600)
            ten = [OutgoingMessage("work", Task(), later) for _ in range(10)]
            for message_id in await queue.send_messages(ten):
                note("sent", id=message_id)


async def open_often() -> None:
    """Open the store `count` times at once, each on connections of its own."""

    async def open_once() -> None:
        async with module(listen=False).running() as queue:
            await queue.send_message("work", Task())

    await asyncio.gather(*(open_once() for _ in range(CONFIG["count"])))


async def listen_and_fork() -> None:
    """Listen, with a forked child that lives on."""
    async with module(listen=True).running():
        if os.fork() == 0:
            note("forked")
            time.sleep(CONFIG.get("child_s", 60))  # noqa: ASYNC251 because the child has no event loop
            note("child gone")
            sys.exit()  # through the whole of Python's ending, which closes what was inherited
        note("ready")
        await asyncio.Event().wait()


async def listen_until_exit() -> None:
    """Somebody's callback leaves the process while messages are being handled."""
    async with module(listen=True).running():
        asyncio.get_running_loop().call_later(0.5, sys.exit, 7)
        note("ready")
        await asyncio.Event().wait()


async def listen_until_error() -> None:
    """The program that listens fails."""
    async with module(listen=True).running():
        note("ready")
        await asyncio.sleep(0.5)
        msg = "the program has failed"
        raise RuntimeError(msg)


async def listen_until_cancelled() -> None:
    """All tasks are cancelled at once, ours among them."""
    async with module(listen=True).running():
        note("ready")
        await asyncio.sleep(0.5)
        for task in asyncio.all_tasks():
            task.cancel()
        await asyncio.Event().wait()


async def listen_on_a_dropped_loop() -> None:
    """Enter, and never leave."""
    context = module(listen=True).running()
    await context.__aenter__()
    note("ready")
    await asyncio.sleep(0.5)
    LEFT_OPEN.append(context)


def stop_the_loop() -> None:
    """The loop stops in the middle of everything, and nobody cleans up."""
    loop = asyncio.new_event_loop()
    LEFT_OPEN.append(loop.create_task(listen()))
    loop.call_later(1, loop.stop)
    loop.run_forever()


if __name__ == "__main__":
    role = globals()[CONFIG["role"]]
    if asyncio.iscoroutinefunction(role):
        asyncio.run(role())
    else:
        role()
