"""An ordering key makes messages wait for each other; other keys go on beside it.

Each account's bookings are done one at a time, in the order in which they were sent. One fails
at first: its successors on the same account wait for its retry, those of the other do not.
"""

import asyncio
import logging
import tempfile
from pathlib import Path

from pydantic import BaseModel

from kvqueue_fastapi import KvQueueModule, Message, OutgoingMessage, SendOptions, on_queue_message

done = asyncio.Semaphore(0)
booked: dict[str, list[int]] = {"ann": [], "bob": []}


class Booking(BaseModel):
    account: str
    number: int


@on_queue_message("booking", backoff_schedule=[0.3])
async def book(booking: Booking, message: Message[Booking]) -> None:
    # Each is quicker than the one before: without a key it would overtake it.
    await asyncio.sleep(0.05 - 0.01 * booking.number)
    if booking.account == "ann" and booking.number == 1 and message.attempt == 1:
        print("ann 1 fails; ann waits for its retry, bob goes on")
        msg = "the ledger is locked"
        raise OSError(msg)
    print(f"{booking.account} {booking.number} booked")
    booked[booking.account].append(booking.number)
    done.release()


async def main(url: str) -> None:
    messages = [
        OutgoingMessage(
            "booking", Booking(account=name, number=number), SendOptions(ordering_key=name)
        )
        for number in range(5)
        for name in ("ann", "bob")
    ]
    async with KvQueueModule(url, consumers=[book]).running() as queue:
        await queue.send_messages(messages)
        for _ in messages:
            await done.acquire()
    print(f"in order: {booked}")


if __name__ == "__main__":
    logging.getLogger("kvqueue_fastapi").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(main(str(Path(directory) / "ordering_key.db")))
