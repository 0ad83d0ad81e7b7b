"""What cannot be delivered is kept: look at it, mend the cause, send it again.

The messages fail because a price list is missing. Two retries later they are dead letters; with
the list in place they are requeued, and go through.
"""

import asyncio
import logging
import tempfile
from pathlib import Path
from typing import Final

from injector import Injector
from pydantic import BaseModel

from kvqueue_fastapi import KvQueueAdmin, KvQueueModule, Reject, on_queue_message

prices: dict[str, int] = {}
done = asyncio.Semaphore(0)
IN_STOCK: Final = 1_000


class Quote(BaseModel):
    item: str
    quantity: int


# Two retries, a tenth of a second apart; then the message is given up.
@on_queue_message("quote.asked", backoff_schedule=[0.1, 0.1])
async def answer(quote: Quote) -> None:
    if quote.quantity > IN_STOCK:
        # No retry would help, so none is made.
        msg = "nobody has so many"
        raise Reject(msg)
    cost = quote.quantity * prices[quote.item]
    print(f"{quote.quantity} {quote.item} cost {cost}")
    done.release()


async def main(url: str) -> None:
    queue_module = KvQueueModule(url, consumers=[answer])
    injector = Injector([queue_module])
    admin = injector.get(KvQueueAdmin)
    async with queue_module.running(injector) as queue:
        asked = [("cup", 3), ("pot", 1), ("cup", 5_000)]
        for item, quantity in asked:
            await queue.send_message("quote.asked", Quote(item=item, quantity=quantity))
        while len(dead := await admin.dead_letters(type="quote.asked")) < len(asked):  # noqa: ASYNC110 because no event tells of a death
            await asyncio.sleep(0.05)
        for letter in dead:
            print(f"dead after {letter.attempt} attempts: {letter.data} because {letter.reason}")

        print("the price list arrives")
        prices.update(cup=4, pot=20)
        discarded = await admin.discard([letter.id for letter in dead if letter.attempt == 1])
        again = await admin.requeue([letter.id for letter in dead if letter.attempt > 1])
        print(f"{len(again)} sent again, {len(discarded)} thrown away")
        for _ in again:
            await done.acquire()
    print("nothing is left")


if __name__ == "__main__":
    # Each failed attempt is logged with its traceback; here the prints are enough.
    logging.getLogger("kvqueue_fastapi").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(main(str(Path(directory) / "dead_letters.db")))
