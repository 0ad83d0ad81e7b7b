"""A network that fails on demand: a TCP proxy in front of a server, on a thread of its own."""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.servers.directory import free_port

CHUNK_BYTES = 65_536
CHUNKS = 64
"""How many are under way in each direction before the sender has to wait."""

_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards connections to a server until it is told otherwise.

    Attributes:
        target: host and port of the server; another one holds for later connections.
        host: where it listens.
        port: where it listens.
        latency_ms: how long each way takes, for what is sent from now on.
    """

    host = "127.0.0.1"

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.port = free_port()
        self.latency_ms = 0.0
        self._pairs: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.StreamWriter] = set()
        self._listener: asyncio.Server | None = None
        self._forwarding = asyncio.Event()

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()
        self.resume()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url_for(self, url: str) -> str:
        """The server's URL with the proxy's address in it."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}{at}{self.host}:{self.port}").geturl()

    @property
    def connections(self) -> int:
        """How many clients it serves now."""
        return len(self._pairs)

    def cut(self) -> None:
        """Reset all connections, at both ends; new ones are welcome."""
        self._do(self._cut())

    def swallow(self) -> None:
        """Accept connections and bytes, pass nothing on, and close nothing: a cable pulled out."""
        self._do(self._swallow())

    def refuse(self) -> None:
        """Refuse new connections; those that are there go on."""
        self._do(self._refuse())

    def resume(self) -> None:
        """Forward again, what was swallowed first, and take new connections."""
        self._do(self._resume())

    def _do(self, step: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(step, self._loop).result()

    async def _resume(self) -> None:
        self._forwarding.set()
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, self.host, self.port)

    async def _swallow(self) -> None:
        self._forwarding.clear()

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _cut(self) -> None:
        for end in self._ends:
            _reset(end)
        pairs = list(self._pairs)
        for pair in pairs:
            pair.cancel()
        await asyncio.gather(*pairs, return_exceptions=True)

    async def _end(self) -> None:
        await self._refuse()
        await self._cut()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        pair = asyncio.current_task()
        assert pair is not None
        self._pairs.add(pair)
        self._ends.add(client)
        ends = [client]
        try:
            await self._forwarding.wait()
            answers, server = await asyncio.open_connection(*self.target)
            self._ends.add(server)
            ends.append(server)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._carry(reader, server))
                ways.create_task(self._carry(answers, client))
        # an end that fails fails the other, and a server that is not there fails the client
        except* OSError:
            for end in ends:
                _reset(end)
        except* asyncio.CancelledError:
            pass
        finally:
            for end in ends:
                end.close()
            self._ends.difference_update(ends)
            self._pairs.discard(pair)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS)
        async with asyncio.TaskGroup() as halves:
            halves.create_task(self._take(source, under_way))
            halves.create_task(self._give(under_way, sink))

    async def _take(
        self, source: asyncio.StreamReader, under_way: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        data = b"more"
        while data:
            try:
                data = await source.read(CHUNK_BYTES)
            except OSError:
                # a reset does not pass through a cable that is out, either
                await self._forwarding.wait()
                raise
            await under_way.put((time.monotonic() + self.latency_ms / 1_000, data))

    async def _give(
        self, under_way: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter
    ) -> None:
        data = b"more"
        while data:
            due, data = await under_way.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._forwarding.wait()
            sink.write(data)
            await sink.drain()
        with suppress(OSError):
            sink.write_eof()


def _reset(end: asyncio.StreamWriter) -> None:
    connection = end.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.transport.abort()
