"""The network that the tests of faults rest on fails as it says."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.servers.directory import free_port
from tests.servers.proxy import Proxy

PATIENCE_S = 10.0
SILENCE_S = 0.1


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader

    async def ask(self, words: bytes, within_s: float = PATIENCE_S) -> bytes:
        self.writer.write(words)
        return await asyncio.wait_for(self._reader.read(100), within_s)

    async def hear(self) -> bytes:
        return await asyncio.wait_for(self._reader.read(100), PATIENCE_S)


@pytest.fixture
def heard() -> list[bytes]:
    """What the server was told."""
    return []


@pytest.fixture
async def port(heard: list[bytes]) -> AsyncIterator[int]:
    """Of a server that answers with what it is told, or with its client's port."""
    port = free_port()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while words := await reader.read(100):
                heard.append(words)
                own = str(writer.get_extra_info("peername")[1]).encode()
                writer.write(own if words == b"port?" else words)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", port)
    yield port
    server.close()


@pytest.fixture
def proxy(port: int) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", port) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[Client]:
    client = await connected(proxy)
    assert await client.ask(b"well?") == b"well?"
    yield client
    client.writer.transport.abort()


async def connected(proxy: Proxy) -> Client:
    return Client(*await asyncio.open_connection(proxy.host, proxy.port))


async def test_cut_resets_connections_and_welcomes_new_ones(proxy: Proxy, client: Client) -> None:
    proxy.cut()

    with pytest.raises(ConnectionResetError):
        await client.hear()
    again = await connected(proxy)
    assert await again.ask(b"again") == b"again"
    again.writer.transport.abort()


async def test_swallow_is_silence_and_resume_passes_on_what_was_said(
    proxy: Proxy, client: Client
) -> None:
    proxy.swallow()
    with pytest.raises(TimeoutError):
        await client.ask(b"hello?", SILENCE_S)
    late = await connected(proxy)
    with pytest.raises(TimeoutError):
        await late.ask(b"me too", SILENCE_S)

    proxy.resume()

    assert await client.hear() == b"hello?"
    assert await late.hear() == b"me too"
    late.writer.transport.abort()


async def test_swallowing_connections_can_be_cut(proxy: Proxy, client: Client) -> None:
    proxy.swallow()
    with pytest.raises(TimeoutError):
        await client.ask(b"hello?", SILENCE_S)

    proxy.cut()

    with pytest.raises(ConnectionResetError):
        await client.hear()
    assert proxy.connections == 0


async def test_answers_alone_can_be_swallowed(proxy: Proxy, client: Client) -> None:
    proxy.swallow(asks=False)
    with pytest.raises(TimeoutError):
        await client.ask(b"hello?", SILENCE_S)

    proxy.resume()

    assert await client.hear() == b"hello?"


async def test_one_connection_can_be_swallowed_by_the_port_that_the_server_sees(
    proxy: Proxy, client: Client
) -> None:
    other = await connected(proxy)
    port = int(await other.ask(b"port?"))

    proxy.swallow(port=port)

    assert await client.ask(b"still?") == b"still?"
    with pytest.raises(TimeoutError):
        await other.ask(b"me too", SILENCE_S)
    other.writer.transport.abort()


async def test_server_hears_later_what_a_dropped_client_has_said(
    proxy: Proxy, client: Client, heard: list[bytes]
) -> None:
    proxy.swallow(answers=False)
    client.writer.write(b"last words")
    await client.writer.drain()
    await proxy.swallowed(b"last words")

    proxy.drop()
    with pytest.raises(ConnectionResetError):
        await client.hear()
    assert b"last words" not in heard
    proxy.resume()

    async with asyncio.timeout(PATIENCE_S):
        while b"last words" not in heard:
            await asyncio.sleep(0.001)


async def test_refuse_turns_new_connections_away_only(proxy: Proxy, client: Client) -> None:
    proxy.refuse()

    with pytest.raises(ConnectionRefusedError):
        await connected(proxy)
    assert await client.ask(b"still?") == b"still?"


async def test_latency_holds_each_way(proxy: Proxy, client: Client) -> None:
    proxy.latency_ms = 20

    asked = time.monotonic()
    await client.ask(b"when?")

    assert time.monotonic() - asked >= 0.04


async def test_server_that_is_not_there_resets_its_client(proxy: Proxy, client: Client) -> None:
    proxy.target = ("127.0.0.1", free_port())

    with pytest.raises(ConnectionResetError):
        await (await connected(proxy)).hear()


def test_url_names_the_proxy_and_keeps_the_rest() -> None:
    proxy = Proxy("127.0.0.1", 5432)

    url = proxy.url_for("postgresql://me:word@127.0.0.1:5432/mine?sslmode=disable")

    assert url == f"postgresql://me:word@127.0.0.1:{proxy.port}/mine?sslmode=disable"
