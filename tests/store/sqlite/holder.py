"""A process that claims messages as a listener, and then waits for what is done to it."""

import asyncio
import os
import time
from multiprocessing.connection import Connection

from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import AnyStore, open_store
from tests.store.given import claim, mail, send


def hold(path: str, pipe: Connection, fork: str = "") -> None:
    """Tell what is held, then send a message each time that it is asked to, until it is killed.

    Args:
        path: of the database.
        pipe: to whoever started it.
        fork: whether it has a child that "lives" on or "exits" at once.
    """
    asyncio.run(_hold(path, pipe, fork))


async def _hold(path: str, pipe: Connection, fork: str) -> None:
    store = await open_store(path, KvQueueSettings())
    listener_id = await store.enter_listener(["mail"])
    held = await claim(store, listener_id=listener_id, lease_ms=3_600_000)
    child = _forked(fork) if fork else 0
    pipe.send((child, [one.id for one in held]))
    while await asyncio.to_thread(pipe.recv):
        pipe.send(await _sent(store))


async def _sent(store: AnyStore) -> list[int]:
    return await send(store, mail())


def _forked(how: str) -> int:
    child = os.fork()
    if child == 0:
        if how == "lives":
            time.sleep(60)
        os._exit(0)
    if how == "exits":
        os.waitpid(child, 0)
    return child
