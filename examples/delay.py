"""A message for later: `delay` counts from now, `deliver_at` names a time.

Both are on disk at once, so a restart forgets no reminder.
"""

import asyncio
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel

from kvqueue_fastapi import KvQueueModule, Message, on_queue_message


class Reminder(BaseModel):
    text: str


class Reminders:
    def __init__(self) -> None:
        self.began = time.monotonic()
        self.seen = 0

    @on_queue_message("reminder")
    async def remind(self, reminder: Reminder, message: Message) -> None:
        self.seen += 1
        print(f"after {time.monotonic() - self.began:.1f} s, message {message.id}: {reminder.text}")


async def main(url: str) -> None:
    reminders = Reminders()
    queue_module = KvQueueModule(url)
    # An object that exists already brings its handlers one by one.
    async with queue_module.running() as queue:
        pass
    print(reminders, queue)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(main(str(Path(directory) / "delay.db")))
