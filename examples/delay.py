"""A message for later: `delay` counts from now, `deliver_at` names a time.

Both are on disk at once, so a restart forgets no reminder.
"""

import asyncio
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel

from kvqueue_fastapi import KvQueueModule, Message, on_queue_message

done = asyncio.Semaphore(0)


class Reminder(BaseModel):
    text: str


@on_queue_message("reminder")
async def remind(reminder: Reminder, message: Message[Reminder]) -> None:
    waited = datetime.now(UTC) - message.sent_at
    print(f"{waited.total_seconds():.1f} s after it was sent: {reminder.text}")
    done.release()


async def main(url: str) -> None:
    queue_module = KvQueueModule(url, consumers=[remind])
    async with queue_module.running() as queue:
        in_two = datetime.now(UTC) + timedelta(seconds=2)
        await queue.send_message("reminder", Reminder(text="take the tea off"), deliver_at=in_two)
        await queue.send_message("reminder", Reminder(text="pour the water"), delay=1)
        await queue.send_message("reminder", Reminder(text="boil the water"))
        for _ in range(3):
            await done.acquire()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(main(str(Path(directory) / "delay.db")))
