"""A process that orders and sends in one transaction, and waits to be killed: by kind and URL."""

import asyncio
import sys

from kvqueue_fastapi import KvQueueModule
from tests.joint import lenders


async def main(kind: str, url: str, where: str) -> None:
    lender_class: type[lenders.Lender] = getattr(lenders, kind)
    async with (
        KvQueueModule(url, listen=False).running() as queue,
        lender_class.open(url) as lender,
    ):
        async with lender.transaction():
            await lender.order(1)
            await queue.send_message("ordered", 1, connection=lender.lent)
            if where == "before":
                await rest()
        await rest()


async def rest() -> None:
    print("here", flush=True)
    await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
