"""A provider delivers each event several times, also at once; each is handled once.

One commit checks that the event's id is new, remembers it, and sends the message. Of deliveries
that race, one commits, and the others find the id taken. Were the process killed on the way,
neither the id nor the message would be there, and the provider's next try would bring both.

Where a message is all that is stored, `idempotency_key` does the same: see idempotency.py. It
needs `pip install httpx2`, for the `TestClient` that plays the provider.
"""

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from kvqueue_fastapi import KvDep, KvQueueModule, on_queue_message

# Longer than the provider goes on trying; then the id is forgotten by itself.
REMEMBERED: Final = timedelta(days=7)

handled = threading.Semaphore(0)


class Event(BaseModel):
    id: str
    invoice: int
    cents: int


class Receipt(BaseModel):
    is_new: bool
    message_ids: tuple[int, ...]


@on_queue_message("invoice.paid")
async def book(event: Event) -> None:
    print(f"invoice {event.invoice} is paid: {event.cents} cents")
    handled.release()


def make_app(url: str) -> FastAPI:
    app = FastAPI()
    KvQueueModule(url, consumers=[book]).install(app)

    # A real one checks the provider's signature first.
    @app.post("/webhook", status_code=202)
    async def receive(event: Event, kv: KvDep) -> Receipt:
        seen = ("webhook", event.id)
        committed = await (
            kv.atomic()
            .check(seen, None)  # it is absent
            .set(seen, event, expire_in=REMEMBERED)
            .send_message("invoice.paid", event)
            .commit()
        )
        # What is known is a success as well, else the provider would try again.
        return Receipt(is_new=committed.ok, message_ids=committed.message_ids)

    return app


# --- the provider --------------------------------------------------------------------------


def deliver(client: TestClient, event: Event) -> Receipt:
    answer = client.post("/webhook", json=event.model_dump())
    return Receipt.model_validate_json(answer.raise_for_status().content)


def deliver_at_once(client: TestClient, event: Event, times: int) -> list[Receipt]:
    together = threading.Barrier(times)

    def deliver_with_the_others(_: int) -> Receipt:
        together.wait(timeout=10)
        return deliver(client, event)

    with ThreadPoolExecutor(times) as threads:
        return list(threads.map(deliver_with_the_others, range(times)))


def main(url: str) -> None:
    events = [Event(id=f"evt_{n}", invoice=n, cents=100 * n) for n in range(1, 5)]
    with TestClient(make_app(url)) as client:
        for event in events:
            receipts = deliver_at_once(client, event, times=3)
            new = sum(receipt.is_new for receipt in receipts)
            message_ids = [number for receipt in receipts for number in receipt.message_ids]
            print(f"{event.id}: 3 deliveries at once, {new} of them new, messages {message_ids}")
            for _ in message_ids:
                handled.acquire()
    with TestClient(make_app(url)) as client:
        known = [event.id for event in events if not deliver(client, event).is_new]
        print(f"after a restart still known: {', '.join(known)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        main(str(Path(directory) / "webhook.db"))
