"""Opens queues as a user who may do nothing; prints, as JSON, what came of each.

Started by root, it becomes nobody; by another user, it stays what it is.
"""

import asyncio
import json
import os
import sys
import tempfile

from kvqueue_fastapi import KvQueueModule, StoreError

NOBODY = 65_534


async def visit(path: str) -> str:
    try:
        async with KvQueueModule(path, listen=True).running() as queue:
            return f"sent {await queue.send_message('n')}"
    except StoreError as error:
        return str(error)


async def visit_all(paths: list[str]) -> list[str]:
    return [await visit(path) for path in paths]


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        # Whatever Python loads on the way is loaded now: nobody may have no right to read it.
        asyncio.run(visit_all([f"{directory}/q.db", f"{directory}/no/q.db"]))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    print(json.dumps(asyncio.run(visit_all(sys.argv[1:]))))


if __name__ == "__main__":
    main()
