"""A consumer that writes down what it does, and an app that has it."""

import asyncio
import contextvars
import threading
import time
from typing import Any

from fastapi import FastAPI
from injector import Inject, Injector

from kvqueue_fastapi import (
    KvQueue,
    KvQueueModule,
    KvQueueSettings,
    on_queue_message,
)

WHOSE: contextvars.ContextVar[str] = contextvars.ContextVar("WHOSE", default="nobody's")


class Events(list[Any]):
    """What happened, in order; may be waited for."""

    def await_one(self, event: Any) -> None:
        deadline = time.monotonic() + 10
        while event not in self:
            assert time.monotonic() < deadline, f"{event} not in {self}"
            time.sleep(0.005)


class Recorder:
    def __init__(self, events: Inject[Events]) -> None:
        self.events = events

    @on_queue_message("lifespan note")
    async def note(self, text: str) -> None:
        self.events.append(f"handled {text}")

    @on_queue_message("lifespan slow")
    async def slow(self, text: str) -> None:
        self.events.append(f"begun {text}")
        await asyncio.sleep(0.2)
        self.events.append(f"ended {text}")

    @on_queue_message("lifespan whose")
    async def whose(self) -> None:
        self.events.append(WHOSE.get())

    @on_queue_message("lifespan whose in a thread")
    def whose_in_a_thread(self) -> None:
        self.events.append(WHOSE.get())


def install(app: FastAPI, url: str, **settings: Any) -> tuple[Events, KvQueue]:
    events = Events()
    module = KvQueueModule(url, consumers=[Recorder], settings=KvQueueSettings(**settings))
    injector = Injector([module, lambda binder: binder.bind(Events, to=events)])
    module.install(app, injector)
    return events, injector.get(KvQueue)


def queue_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("kvqueue")]


@on_queue_message("lifespan thread")
def by_thread(seconds: float) -> None:
    time.sleep(seconds)
