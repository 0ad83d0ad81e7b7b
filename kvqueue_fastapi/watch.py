"""Watches: what is under some keys, now and whenever it changes."""

import asyncio
import contextvars
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from kvqueue_fastapi.errors import KvQueueClosedError
from kvqueue_fastapi.model import Stored
from kvqueue_fastapi.store.base import MAX_READ_KEYS, Store

log = logging.getLogger("kvqueue_fastapi")

REST_S: Final = 0.01
"""How long to wait after a look, so that changes that come one upon the other cost one."""
POLL_S: Final = 0.5
"""How often to look when nothing says that something has changed."""

Snapshot = list[Stored | None]


class Watches:
    """All watches of one store: one look serves them all.

    Args:
        store: what is watched.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watches: list[_Watch] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._version = -1
        self._closed = False

    async def follow(self, keys: Sequence[bytes]) -> AsyncGenerator[Snapshot]:
        """What is under these keys: at once, then after each change, the latest.

        Ends when the store is closed.

        Raises:
            KvQueueClosedError: it is closed already.
        """
        if self._closed:
            raise KvQueueClosedError
        if not keys:
            return
        watch = _Watch(keys)
        self._watches.append(watch)
        self._wake.set()
        if self._task is None:
            # In an empty context: it outlives the request that happened to come first.
            self._task = asyncio.get_running_loop().create_task(
                self._look_forever(), context=contextvars.Context()
            )
        try:
            while (snapshot := await watch.next()) is not None:
                yield snapshot
        finally:
            self._watches.remove(watch)
            self._wake.set()

    async def close(self) -> None:
        """End every watch."""
        self._closed = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _look_forever(self) -> None:
        unsubscribe = self._store.subscribe_to_keys(self._wake.set)
        try:
            while self._watches and not self._closed:
                self._wake.clear()
                pause_s = await self._look_and_log()
                await asyncio.sleep(REST_S)
                await self._pause(pause_s)
        finally:
            unsubscribe()
            self._task = None
            for watch in self._watches:
                watch.end()

    async def _pause(self, seconds: float) -> None:
        timer = asyncio.get_running_loop().call_later(seconds, self._wake.set)
        await self._wake.wait()
        timer.cancel()

    async def _look_and_log(self) -> float:
        try:
            return await self._look()
        except KvQueueClosedError:
            self._closed = True
            return 0
        except Exception:
            # No error of the store ends a watch, as none ends a listener.
            log.exception("Watched keys could not be read; they are read again")
            return POLL_S

    async def _look(self) -> float:
        """Returns how many seconds until to look again."""
        # Read first, so that what is written meanwhile is seen by the next look.
        version = await self._store.last_version()
        has_changed = version != self._version
        stale = [watch for watch in self._watches if has_changed or watch.may_have_changed]
        while stale:
            group = _readable_at_once(stale)
            stale = stale[len(group) :]
            keys = list(dict.fromkeys(key for watch in group for key in watch.keys))
            found = dict(zip(keys, await self._store.get(keys), strict=True))
            for watch in group:
                watch.show([found[key] for key in watch.keys])
        # Last, because what could not be read is read again.
        self._version = version
        return min([POLL_S, *(watch.expires_in_s for watch in self._watches)])


class _Watch:
    """One watch: the keys, and the snapshot that is to be shown next."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.keys = keys
        self.expires_in_s = POLL_S
        self.may_have_changed = True
        self._snapshot: Snapshot | None = None
        self._shown: list[int | None] | None = None
        self._news = asyncio.Event()

    async def next(self) -> Snapshot | None:
        """The latest that was not shown yet; None: the watch has ended."""
        await self._news.wait()
        self._news.clear()
        self._shown = _versions(self._snapshot)
        return self._snapshot

    def show(self, snapshot: Snapshot) -> None:
        left_ms = [one.expires_in_ms for one in snapshot if one and one.expires_in_ms is not None]
        # A key that expires changes without a commit.
        self.may_have_changed = bool(left_ms)
        self.expires_in_s = min(left_ms, default=POLL_S * 1000) / 1000
        if _versions(snapshot) == self._shown:
            # It has come back to what was shown, before anybody saw it otherwise.
            self._news.clear()
        else:
            self._snapshot = snapshot
            self._news.set()

    def end(self) -> None:
        self._snapshot = None
        self._news.set()


def _versions(snapshot: Snapshot | None) -> list[int | None] | None:
    return None if snapshot is None else [one and one.version for one in snapshot]


def _readable_at_once(watches: Sequence[_Watch]) -> Sequence[_Watch]:
    size = 0
    for index, watch in enumerate(watches):
        size += len(watch.keys)
        if size > MAX_READ_KEYS:
            return watches[:index]
    return watches
