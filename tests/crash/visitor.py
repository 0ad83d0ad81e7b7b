"""A second program on the same file, without HTTP: it listens or sends, and leaves.

Its one argument is JSON: `listen`, and `stay_s` in seconds.
"""

import asyncio
import json
import sys
import time
import uuid

from kvqueue_fastapi import KvQueueModule
from tests.crash.plan import SCHEDULE_S
from tests.crash.served import Work, handle, handle_in_thread, ledger

CONFIG = json.loads(sys.argv[1])


async def main() -> None:
    module = KvQueueModule(consumers=[handle, handle_in_thread], listen=CONFIG["listen"])
    async with module.running() as queue:
        until = time.monotonic() + CONFIG["stay_s"]
        while time.monotonic() < until:
            work = Work(key=uuid.uuid4().hex, kind="plain", seconds=0.01)
            ledger.note("sending", due=time.time(), key=work.key, kind=work.kind)
            message_id = await queue.send_message(
                "async",
                work,
                backoff_schedule=SCHEDULE_S,
                keys_if_undelivered=[("undelivered", work.key)],
            )
            ledger.note("sent", id=message_id, key=work.key, kind=work.kind)
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(main())
