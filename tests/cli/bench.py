"""A store of a test's own, filled by hand, and what a command answered."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

from kvqueue_fastapi import KvQueue, KvQueueAdmin, KvQueueModule, MessageRecord, OutgoingMessage
from kvqueue_fastapi.lifespan import Runtime

T = TypeVar("T")


class Ran(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[Any]:
        """Its lines, as JSON."""
        assert self.err == ""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def record(self) -> Any:
        """Its only line."""
        (record,) = self.records
        return record

    @property
    def rows(self) -> list[list[str]]:
        """Its table, as a pipe has it, without the head."""
        return [line.split("\t") for line in self.out.splitlines()[1:]]


async def fail(data: Any) -> None:
    raise ValueError(f"no such customer: {data}")


class Bench:
    """What a test does to a store beside the command."""

    def __init__(self, url: str) -> None:
        self.url = url

    def run(self, work: Callable[[Runtime], Coroutine[Any, Any, T]], **handlers: Any) -> T:
        """Do something in an app that only sends."""

        async def running() -> T:
            runtime = KvQueueModule(self.url, listen=False).runtime()
            for message_type, handler in handlers.items():
                runtime.queue.add_listener(message_type, handler)
            async with runtime.running():
                return await work(runtime)

        return asyncio.run(running())

    def send(self, *messages: OutgoingMessage | tuple[str, Any]) -> list[int]:
        """Send messages. Returns their ids."""
        return self.run(lambda runtime: runtime.queue.send_messages(messages))

    def handle(self, **handlers: Any) -> int:
        """Handle what is due. Returns how many deliveries that were."""
        return self.run(lambda runtime: runtime.queue.run_until_idle(), **handlers)

    def die(self, message_type: str, *payloads: Any) -> list[int]:
        """Make dead letters. Returns their ids."""

        async def send_and_fail(runtime: Runtime) -> list[int]:
            queue: KvQueue = runtime.queue
            ids = [
                await queue.send_message(message_type, payload, backoff_schedule=[])
                for payload in payloads
            ]
            await queue.run_until_idle()
            return ids

        return self.run(send_and_fail, **{message_type: fail})

    def message(self, message_id: int) -> MessageRecord | None:
        """One message, as its keeper sees it."""
        return self.run(lambda runtime: runtime.admin.message(message_id))

    def messages(self) -> list[MessageRecord]:
        """All that wait."""
        return list(self.run(lambda runtime: runtime.admin.messages()))

    def dead_letters(self) -> list[MessageRecord]:
        """All that are dead."""
        return list(self.run(lambda runtime: runtime.admin.dead_letters()))

    def ask(self, work: Callable[[KvQueueAdmin], Coroutine[Any, Any, T]]) -> T:
        """Ask or tell its keeper."""
        return self.run(lambda runtime: work(runtime.admin))
