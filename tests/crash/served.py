"""The app under fire: one route that sends, and handlers that take their time and fail.

Settings come from `KVQUEUE_…`. Handlers write what they do to the file `CRASH_LEDGER`.
"""

import asyncio
import os
import random
import signal
import time
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from kvqueue_fastapi import (
    KvQueueDep,
    KvQueueModule,
    KvU64,
    Message,
    Reject,
    RetryLater,
    StoreError,
    on_queue_message,
)
from tests.crash.ledger import Ledger
from tests.crash.plan import SCHEDULE_S

FAILS = 0.4
"""How often a flaky handler fails."""
EFFECTS = ("effects",)

ledger = Ledger(os.environ["CRASH_LEDGER"])


class Work(BaseModel):
    """What a message asks of its handler."""

    key: str
    kind: str
    lane: str = ""
    seconds: float = 0


class Send(BaseModel):
    """What a client asks of the route."""

    type: str
    work: Work
    delay: float = 0


class PlannedError(Exception):
    """What handlers raise."""


@on_queue_message("async")
async def handle(work: Work, message: Message) -> None:
    noted = _begin(work, message)
    try:
        await _work(work, message, noted)
    except asyncio.CancelledError:
        ledger.note("cancelled", **noted)
        raise
    except (PlannedError, Reject, RetryLater, StoreError):
        ledger.note("failed", **noted)
        raise
    ledger.note("ended", **noted)


@on_queue_message("thread")
def handle_in_thread(work: Work, message: Message) -> None:
    noted = _begin(work, message)
    time.sleep(work.seconds)
    ledger.note("ended", **noted)


def _begin(work: Work, message: Message) -> dict[str, Any]:
    noted = {"id": message.id, "attempt": message.attempt, "key": work.key, "kind": work.kind}
    ledger.note("begun", lane=work.lane, **noted)
    return noted


async def _work(work: Work, message: Message, noted: dict[str, Any]) -> None:
    if work.kind == "blocking":
        time.sleep(work.seconds)  # noqa: ASYNC251 because a careless handler is the case
    else:
        await asyncio.sleep(work.seconds)
    match work.kind:
        case "poison":
            ledger.note("dying", **noted)
            os.kill(os.getpid(), signal.SIGKILL)
        case "effect":
            ledger.note("committing", **noted)
            await message.atomic().sum(EFFECTS, KvU64(1)).commit()
        case "flaky" if random.random() < FAILS:
            raise PlannedError
        case "later" if random.random() < FAILS:
            raise RetryLater(0.1)
        case "doomed":
            raise PlannedError
        case "rejected":
            raise Reject


module = KvQueueModule(consumers=[handle, handle_in_thread])
app = FastAPI()
module.install(app)


@app.post("/send")
async def send(send: Send, queue: KvQueueDep) -> int:
    return await queue.send_message(
        send.type,
        send.work,
        delay=send.delay,
        idempotency_key=send.work.key,
        ordering_key=send.work.lane or None,
        keys_if_undelivered=[("undelivered", send.work.key)],
        backoff_schedule=SCHEDULE_S,
    )
