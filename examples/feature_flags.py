"""Feature flags that an app reads from memory, and that another process switches.

    python examples/feature_flags.py                             # both, for a moment
    python examples/feature_flags.py flags.db new_checkout on    # what the other process does
    python examples/feature_flags.py flags.db new_checkout on 5  # for five seconds

`kv.watch` keeps the flags fresh from the start of the app to its end: no request waits for the
store, and a change by whatever process is seen within a second. It needs `pip install httpx2`,
for the `TestClient` that plays the visitor.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import FastAPI
from fastapi.testclient import TestClient
from injector import Inject, Injector, singleton

from kvqueue_fastapi import Injected, Kv, KvEntry, KvQueueModule

# A watch follows at most ten keys. Of more flags, make one key, whose value holds them all.
KEYS: Final = [("flags", "new_checkout"), ("flags", "sale")]


@singleton
class FeatureFlags:
    """The flags as they are now."""

    def __init__(self, kv: Inject[Kv]) -> None:
        self._kv = kv
        self._on: frozenset[str] = frozenset()

    def is_on(self, name: str) -> bool:
        return name in self._on

    @asynccontextmanager
    async def kept_fresh(self) -> AsyncGenerator[None]:
        self._take(await self._kv.get_many(KEYS))
        following = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            following.cancel()
            await asyncio.wait([following])
            print("the flags are not followed any more")

    async def _follow(self) -> None:
        async for entries in self._kv.watch(KEYS):
            self._take(entries)

    def _take(self, entries: Iterable[KvEntry[Any]]) -> None:
        # Absent, expired, or something strange: off.
        self._on = frozenset(str(entry.key[-1]) for entry in entries if entry.value is True)


def make_app(url: str) -> FastAPI:
    queue_module = KvQueueModule(url)
    injector = Injector([queue_module])
    # The store opens before the app's own lifespan begins, and closes after it has ended.
    app = FastAPI(lifespan=lambda _app: injector.get(FeatureFlags).kept_fresh())
    queue_module.install(app, injector)

    @app.get("/checkout")
    async def checkout(flags: Annotated[FeatureFlags, Injected(FeatureFlags)]) -> str:
        page = "new checkout" if flags.is_on("new_checkout") else "old checkout"
        return f"{page}, sale" if flags.is_on("sale") else page

    return app


# --- the other process ---------------------------------------------------------------------


async def switch(url: str, name: str, state: str, seconds: str | None = None) -> None:
    expire_in = None if seconds is None else float(seconds)
    async with Kv.open(url) as kv:
        await kv.set(("flags", name), state == "on", expire_in=expire_in)


# --- both, for a moment --------------------------------------------------------------------


def demonstrate(url: str) -> None:
    with TestClient(make_app(url)) as client:
        page = client.get("/checkout").json()
        print(f"at first: {page}")
        # The third one goes off by itself.
        for change in ("new_checkout on", "sale on", "sale on 0.3", "new_checkout off"):
            command = [sys.executable, __file__, url, *change.split()]
            subprocess.run(command, check=True)  # noqa: S603 because it is this file
            page = next_page(client, page)
            print(f"{change}: {page}")


def next_page(client: TestClient, page: str) -> str:
    deadline = time.monotonic() + 5
    while (now := client.get("/checkout").json()) == page:
        if time.monotonic() > deadline:
            sys.exit("no change was seen in 5 s")
        time.sleep(0.01)
    return str(now)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(switch(*sys.argv[1:]))
    else:
        with tempfile.TemporaryDirectory() as directory:
            demonstrate(str(Path(directory) / "flags.db"))
