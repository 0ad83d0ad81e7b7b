"""Every visit is counted once, although its message is delivered more than once.

Nine visits are counted in three ways: at first by a process that is killed with SIGKILL while
all handlers are in the middle, some before their commit and some after it; then by a process
whose handlers raise after their commit.

With the message: `message.atomic()` writes the count and the end of the message in one commit.
With a nonce, as Deno's guide to queues has it: a key that is set when the message is sent is
deleted in the commit that counts, so the next delivery finds it gone. With neither: too many.
"""

import asyncio
import logging
import sys
import tempfile
from contextlib import aclosing
from pathlib import Path
from typing import Final
from uuid import uuid4

from injector import Binder, Inject, Injector, Module
from pydantic import BaseModel

from kvqueue_fastapi import Kv, KvQueueAdmin, KvQueueModule, Message, on_queue_message

VISITS: Final = 9
# Of the numbers 0 to 8, the even ones.
COUNTED_BEFORE_THE_KILL: Final = 5
WAYS: Final = ("with the message", "with a nonce", "with neither")


class Visit(BaseModel):
    number: int
    nonce: str


class Trouble:
    """What befalls a handler on its way: nothing, unless a subclass says so."""

    async def before_commit(self, message: Message[Visit]) -> None: ...

    async def after_commit(self, message: Message[Visit]) -> None: ...


class Counter:
    def __init__(self, kv: Inject[Kv], trouble: Inject[Trouble]) -> None:
        self.kv = kv
        self.trouble = trouble

    @on_queue_message("visit with the message")
    async def count_with_message(self, message: Message[Visit]) -> None:
        await self.trouble.before_commit(message)
        await message.atomic().sum(("count", "with the message"), 1).commit()
        await self.trouble.after_commit(message)

    @on_queue_message("visit with a nonce")
    async def count_with_nonce(self, visit: Visit, message: Message[Visit]) -> None:
        nonce = await self.kv.get(("nonces", visit.nonce))
        if nonce.value is None:
            return  # it was counted before
        await self.trouble.before_commit(message)
        operation = self.kv.atomic().check(nonce).delete(nonce.key)
        await operation.sum(("count", "with a nonce"), 1).commit()
        await self.trouble.after_commit(message)

    @on_queue_message("visit with neither")
    async def count_with_neither(self, message: Message[Visit]) -> None:
        await self.trouble.before_commit(message)
        await self.kv.atomic().sum(("count", "with neither"), 1).commit()
        await self.trouble.after_commit(message)


async def send_visits(kv: Kv) -> None:
    operation = kv.atomic()
    for number in range(VISITS):
        visit = Visit(number=number, nonce=uuid4().hex)
        operation.check(("nonces", visit.nonce), None).set(("nonces", visit.nonce), True)
        for way in WAYS:
            operation.send_message(f"visit {way}", visit, backoff_schedule=[0.01])
    await operation.commit()


# --- two kinds of trouble ------------------------------------------------------------------


class Stuck(Trouble):
    """Handlers of odd numbers stop before their commit, the others after it."""

    async def before_commit(self, message: Message[Visit]) -> None:
        if message.data.number % 2:
            await asyncio.Event().wait()

    async def after_commit(self, _message: Message[Visit]) -> None:
        await asyncio.Event().wait()


class RaisesOnce(Trouble):
    """A handler raises after its commit, and does not the next time."""

    def __init__(self) -> None:
        self.raised: set[int] = set()

    async def after_commit(self, message: Message[Visit]) -> None:
        if message.id not in self.raised:
            self.raised.add(message.id)
            msg = "cut off after the commit"
            raise ConnectionError(msg)


class TroubleModule(Module):
    def __init__(self, trouble: Trouble) -> None:
        self.trouble = trouble

    def configure(self, binder: Binder) -> None:
        binder.bind(Trouble, to=self.trouble)


# --- the processes -------------------------------------------------------------------------


async def be_killed(url: str) -> None:
    queue_module = KvQueueModule(url, consumers=[Counter])
    async with queue_module.running(Injector([queue_module, TroubleModule(Stuck())])):
        await asyncio.Event().wait()


async def kill_in_the_middle(url: str) -> None:
    async with Kv.open(url) as kv:
        await send_visits(kv)
        process = await asyncio.create_subprocess_exec(sys.executable, __file__, url)
        async with aclosing(kv.watch([("count", way) for way in WAYS], int)) as counts:
            async for entries in counts:
                if all(entry.value == COUNTED_BEFORE_THE_KILL for entry in entries):
                    break
        process.kill()
        print(f"killed by signal {-await process.wait()}, {COUNTED_BEFORE_THE_KILL} are counted")


async def handle_the_rest(url: str) -> None:
    trouble = RaisesOnce()
    queue_module = KvQueueModule(url, consumers=[Counter])
    injector = Injector([queue_module, TroubleModule(trouble)])
    async with queue_module.running(injector):
        admin, kv = injector.get(KvQueueAdmin), injector.get(Kv)
        while await admin.messages(limit=1):  # noqa: ASYNC110 because no event tells that nothing is left
            await asyncio.sleep(0.05)
        print(f"{len(trouble.raised)} handlers raised after their commit")
        for way in WAYS:
            entry = await kv.get(("count", way), int)
            print(f"{VISITS} visits, counted {way}: {entry.value}")


async def main(url: str) -> None:
    await kill_in_the_middle(url)
    await handle_the_rest(url)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(be_killed(sys.argv[1]))
    else:
        # What fails on purpose is logged with its traceback; here the prints are enough.
        logging.getLogger("kvqueue_fastapi").setLevel(logging.CRITICAL)
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(main(str(Path(directory) / "visits.db")))
