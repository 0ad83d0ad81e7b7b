"""The same thing asked for twice, the same thing done once.

On the way in, an idempotency key makes a repeated request send nothing new: the browser that
submits twice, the webhook that somebody else delivers twice.

On the way out, a message is handled at least once, so a handler must bear seeing it twice.
Where its effect lies in a database, it writes the message's id with the effect, in one
transaction.
"""

import asyncio
import logging
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from injector import Binder, Inject, Injector, Module
from pydantic import BaseModel

from kvqueue_fastapi import IdempotencyConflictError, KvQueueModule, Message, on_queue_message

done = asyncio.Semaphore(0)


class Payment(BaseModel):
    account: str
    cents: int


class Books:
    """The user's own database, with one row a payment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.execute("CREATE TABLE payments (message_id INTEGER PRIMARY KEY, cents INTEGER)")

    def execute(self, statement: str, *values: int) -> int:
        """Do one statement, which is one transaction. Returns how many rows it changed."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as database:
            return database.execute(statement, values).rowcount


class BooksModule(Module):
    def __init__(self, path: Path) -> None:
        self.path = path

    def configure(self, binder: Binder) -> None:
        binder.bind(Books, to=Books(self.path))


class Cashier:
    def __init__(self, books: Inject[Books]) -> None:
        self.books = books

    # `def`, because sqlite3 blocks: it runs in a thread.
    @on_queue_message("payment.made", backoff_schedule=[0.1])
    def enter(self, payment: Payment, message: Message[Payment]) -> None:
        # The primary key refuses the second one.
        new = self.books.execute(
            "INSERT OR IGNORE INTO payments VALUES (?, ?)", message.id, payment.cents
        )
        print(f"delivery {message.attempt}: {'entered' if new else 'was entered before'}")
        if message.attempt == 1:
            # What a crash does: the effect is there, and the queue was never told.
            msg = "cut off after its work"
            raise ConnectionError(msg)
        done.release()


async def main(directory: Path) -> None:
    queue_module = KvQueueModule(str(directory / "queue.db"), consumers=[Cashier])
    injector = Injector([queue_module, BooksModule(directory / "books.db")])
    async with queue_module.running(injector) as queue:
        payment = Payment(account="ann", cents=1250)
        first = await queue.send_message("payment.made", payment, idempotency_key="invoice-7")
        again = await queue.send_message("payment.made", payment, idempotency_key="invoice-7")
        print(f"asked for twice, sent once: {first == again}")

        other = Payment(account="ann", cents=9999)
        try:
            await queue.send_message("payment.made", other, idempotency_key="invoice-7")
        except IdempotencyConflictError as error:
            print(f"refused: {error}")
        await done.acquire()
    entered = injector.get(Books).execute("DELETE FROM payments")
    print(f"payments in the books: {entered}")


if __name__ == "__main__":
    logging.getLogger("kvqueue_fastapi").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(main(Path(directory)))
