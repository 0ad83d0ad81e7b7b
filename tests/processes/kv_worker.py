"""A real process that works with keys and values, and keeps a ledger of what it does.

Its one argument is JSON, as that of `worker.py`.
"""

import asyncio
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kvqueue_fastapi import (
    Kv,
    KvCommit,
    KvQueueModule,
    KvQueueSettings,
    Message,
    on_queue_message,
)

CONFIG: dict[str, Any] = json.loads(sys.argv[1])
DATABASE: str = CONFIG["database"]
LEDGER = os.open(CONFIG["ledger"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
PID = os.getpid()


def note(event: str, **fields: Any) -> None:
    line = {"event": event, "pid": PID, "at": time.time(), **fields}
    os.write(LEDGER, (json.dumps(line) + "\n").encode())


class Plan(BaseModel):
    """What is to go wrong when a message is handled for the first time."""

    fault: str = ""


@on_queue_message("effect")
async def take_effect(plan: Plan, message: Message) -> None:
    fault = plan.fault if message.attempt == 1 else ""
    fields = {"id": message.id, "attempt": message.attempt}
    note("begun", **fields)
    if plan.fault == "wait":
        while not may_go(message.attempt):
            await asyncio.sleep(0.01)
    await asyncio.sleep(random.uniform(0, 0.04))
    go_wrong(fault, "before")
    if fault == "die during":
        threading.Timer(random.uniform(0, 0.003), die).start()
    committed = await commit_effects(message)
    note("committed", version=committed, **fields)
    go_wrong(fault, "after")
    await asyncio.sleep(random.uniform(0, 0.01))


def may_go(attempt: int) -> bool:
    return Path(CONFIG["ledger"]).with_name(f"go-{attempt}").exists()


async def commit_effects(message: Message) -> str | None:
    try:
        committed = await (
            message.atomic()
            .sum(("effects", "count"), 1)
            .set(("effect", message.id), message.attempt)
            .send_message("next", message.id)
            .commit()
        )
    except Exception as error:
        note("refused", id=message.id, attempt=message.attempt, key=type(error).__name__)
        raise
    return committed.versionstamp


def go_wrong(fault: str, when: str) -> None:
    if fault == f"die {when}":
        die()
    if fault == f"raise {when}":
        raise RuntimeError(fault)


def die() -> None:
    os.kill(PID, signal.SIGKILL)


@on_queue_message("fail")
async def fail(_: int, message: Message) -> None:
    note("failing", id=message.id)
    msg = "this message cannot be handled"
    raise RuntimeError(msg)


async def listen() -> None:
    settings = KvQueueSettings(**CONFIG.get("settings", {}))
    module = KvQueueModule(DATABASE, consumers=[take_effect, fail], settings=settings)
    async with module.running():
        note("ready")
        await asyncio.Event().wait()


async def transfer() -> None:
    """Make `count` transfers between `accounts` in each of `writers` tasks."""

    async def move(kv: Kv) -> None:
        for _ in range(CONFIG["count"]):
            source, target = random.sample(range(CONFIG["accounts"]), 2)
            while not await try_to_transfer(kv, source, target):
                note("outrun")

    async with Kv.open(DATABASE) as kv:
        note("ready")
        await asyncio.gather(*(move(kv) for _ in range(CONFIG["writers"])))
        note("done")


async def try_to_transfer(kv: Kv, source: int, target: int) -> KvCommit:
    from_entry, to_entry = await kv.get_many([("account", source), ("account", target)], int)
    amount = random.randint(0, from_entry.value or 0)
    await asyncio.sleep(random.uniform(0, 0.01))
    committed = await (
        kv.atomic()
        .check(from_entry)
        .check(to_entry)
        .set(from_entry.key, (from_entry.value or 0) - amount)
        .set(to_entry.key, (to_entry.value or 0) + amount)
        .commit()
    )
    if committed:
        note("transferred", key=f"{source} {target} {amount}")
    return committed


async def commit() -> None:
    """Commit a value, a count and a message in each of `writers` tasks, until killed."""
    generation: int = CONFIG["generation"]

    async def write(kv: Kv, writer: int) -> None:
        number = 0
        while True:
            name = [generation, PID, writer, number]
            committed = await (
                kv.atomic()
                .set(("value", *name), number)
                .sum(("count", PID), 1)
                # Half of them with what is never written together with its neighbours.
                .send_message("effect", name, idempotency_key=str(name) if number % 2 else None)
                .commit()
            )
            note("committed", key=str(name), version=committed.versionstamp)
            number += 1

    async with Kv.open(DATABASE) as kv:
        note("ready")
        await asyncio.gather(*(write(kv, writer) for writer in range(CONFIG["writers"])))


async def obey() -> None:
    """Do what the test tells, one command a line."""
    async with Kv.open(DATABASE) as kv:
        note("ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            number, name, *arguments = json.loads(line)
            await COMMANDS[name](kv, *arguments)
            note("obeyed", id=number)


async def set_flag(kv: Kv) -> None:
    await kv.set(("flag",), "on")


async def delete_flag(kv: Kv) -> None:
    await kv.delete(("flag",))


async def sum_flag(kv: Kv) -> None:
    await kv.atomic().sum(("flag",), 1).commit()


async def set_brief_flag(kv: Kv, expire_in: float) -> None:
    await kv.set(("flag",), "brief", expire_in=expire_in)


async def count_up(kv: Kv, start: int, end: int) -> None:
    for number in range(start, end):
        await kv.set(("flag",), number)


COMMANDS: dict[str, Any] = {
    "set": set_flag,
    "delete": delete_flag,
    "sum": sum_flag,
    "set_brief": set_brief_flag,
    "count_up": count_up,
}

if __name__ == "__main__":
    asyncio.run(globals()[CONFIG["role"]]())
