"""A network that fails on demand: a TCP proxy in front of a server, on a thread of its own."""

import asyncio
import math
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

PATIENCE_S = 10.0

_RESET = struct.pack("ii", 1, 0)


class _Pair:
    """A client's connection, and the one to the server that is made for it.

    Attributes:
        asks: set while what the client says is passed on.
        answers: set while what the server says is passed on.
        port: that the server sees as the client's.
        said: by the client since nothing of it is passed on.
    """

    def __init__(self, client: asyncio.StreamWriter, *, asks: bool, answers: bool) -> None:
        self.asks, self.answers = asyncio.Event(), asyncio.Event()
        if asks:
            self.asks.set()
        if answers:
            self.answers.set()
        self.ends = [client]
        self.port = 0
        self.said = bytearray()


class Proxy:
    """Forwards connections to a server until it is told otherwise.

    Attributes:
        target: host and port of the server; another one holds for later connections.
        host: where it listens.
        port: where it listens.
        latency_ms: how long each way takes, for what is sent from now on.
        bytes_per_s: how much comes through, each way of each connection.
    """

    host = "127.0.0.1"

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.port = free_port()
        self.latency_ms = 0.0
        self.bytes_per_s = math.inf
        self._pairs: dict[asyncio.Task[None], _Pair] = {}
        self._listener: asyncio.Server | None = None
        self._asks = self._answers = True

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

    @property
    def ports(self) -> list[int]:
        """Where the server sees them."""
        return [pair.port for pair in list(self._pairs.values())]

    def cut(self) -> None:
        """Reset all connections, at both ends; new ones are welcome."""
        self._do(self._cut())

    def swallow(self, *, port: int | None = None, asks: bool = True, answers: bool = True) -> None:
        """Accept connections and bytes, pass nothing on, and close nothing: a cable pulled out.

        Args:
            port: only of the connection whose client the server sees there.
            asks: what clients say.
            answers: what the server says.
        """
        self._do(self._swallow(port, asks=asks, answers=answers))

    async def swallowed(self, words: bytes) -> None:
        """Wait until a client whose words are swallowed has said these."""
        async with asyncio.timeout(PATIENCE_S):
            while not any(words in pair.said for pair in list(self._pairs.values())):
                await asyncio.sleep(0.001)

    def drop(self) -> list[int]:
        """Reset the clients; the server hears of it, and of what they said, when it may.

        Returns: the ports at which the server sees them.
        """
        ports = self.ports
        self._do(self._drop())
        return ports

    def refuse(self) -> None:
        """Refuse new connections; those that are there go on."""
        self._do(self._refuse())

    def resume(self) -> None:
        """Forward again, what was swallowed first, and take new connections."""
        self._do(self._resume())

    def _do(self, step: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(step, self._loop).result()

    async def _resume(self) -> None:
        self._asks = self._answers = True
        for pair in self._pairs.values():
            pair.asks.set()
            pair.answers.set()
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, self.host, self.port)

    async def _swallow(self, port: int | None, *, asks: bool, answers: bool) -> None:
        if port is None:
            self._asks, self._answers = self._asks and not asks, self._answers and not answers
        for pair in self._pairs.values():
            if port in (None, pair.port):
                if asks:
                    pair.asks.clear()
                    pair.said.clear()
                if answers:
                    pair.answers.clear()

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _cut(self) -> None:
        for pair in self._pairs.values():
            for end in pair.ends:
                _reset(end)
        pairs = list(self._pairs)
        for pair in pairs:
            pair.cancel()
        await asyncio.gather(*pairs, return_exceptions=True)

    async def _drop(self) -> None:
        for pair in self._pairs.values():
            _reset(pair.ends[0])

    async def _end(self) -> None:
        await self._refuse()
        await self._cut()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pairs[task] = pair = _Pair(client, asks=self._asks, answers=self._answers)
        try:
            await pair.asks.wait()
            answers, server = await asyncio.open_connection(*self.target)
            pair.ends.append(server)
            pair.port = server.get_extra_info("sockname")[1]
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._carry(reader, server, pair.asks, pair.said))
                ways.create_task(self._carry(answers, client, pair.answers, bytearray()))
        # an end that fails fails the other, and a server that is not there fails the client
        except* OSError:
            for end in pair.ends:
                _reset(end)
        except* asyncio.CancelledError:
            pass
        finally:
            for end in pair.ends:
                end.close()
            del self._pairs[task]

    async def _carry(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        open_: asyncio.Event,
        withheld: bytearray,
    ) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS)
        async with asyncio.TaskGroup() as halves:
            halves.create_task(self._take(source, under_way, open_, withheld))
            halves.create_task(self._give(under_way, sink, open_))

    async def _take(
        self,
        source: asyncio.StreamReader,
        under_way: asyncio.Queue[tuple[float, bytes]],
        open_: asyncio.Event,
        withheld: bytearray,
    ) -> None:
        data = b"more"
        while data:
            try:
                data = await source.read(CHUNK_BYTES)
                if not open_.is_set():
                    withheld += data
            except OSError:
                # a reset does not pass through a cable that is out, either
                await open_.wait()
                raise
            await under_way.put((time.monotonic() + self.latency_ms / 1_000, data))

    async def _give(
        self,
        under_way: asyncio.Queue[tuple[float, bytes]],
        sink: asyncio.StreamWriter,
        open_: asyncio.Event,
    ) -> None:
        data = b"more"
        while data:
            due, data = await under_way.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()) + len(data) / self.bytes_per_s)
            await open_.wait()
            sink.write(data)
            await sink.drain()
        with suppress(OSError):
            sink.write_eof()


def _reset(end: asyncio.StreamWriter) -> None:
    connection = end.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.transport.abort()
