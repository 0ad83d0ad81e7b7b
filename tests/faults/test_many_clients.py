"""Five hundred clients at once, and clients that go away while the server works for them."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.faults.filling import rows
from tests.web.serving import House, Server, finished_lines, until

CLIENTS = 500
BATCH = 5
KEPT = "SELECT data, count(*) FROM kvqueue_messages WHERE type = 'kept' GROUP BY data"
HERE = Path(__file__).parent


class Client:
    """One connection that is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    @asynccontextmanager
    async def of(cls, server: Server) -> AsyncGenerator["Client"]:
        port = int(await server.port())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def ask(self, path: str, number: int) -> tuple[int, int]:
        """Returns the status and the answer."""
        self.writer.write(request(path, number))
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.split("content-length: ")[1].split()[0])
        answer = await self._reader.readexactly(size)
        return int(head.split()[1]), json.loads(answer)


def request(path: str, number: int, text: str = "") -> bytes:
    body = json.dumps({"number": number, "text": text})
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_500_clients_send_at_once_is_there_once_and_handled_once(
    house: House, workers: int
) -> None:
    server = house.uvicorn("--workers", str(workers), source=HERE / "clients")
    await server.started(workers)

    async def send_four(first: int) -> list[tuple[int, int]]:
        async with Client.of(server) as client:
            return [await client.ask("/one", first + n) for n in range(4)]

    answered = await asyncio.gather(*(send_four(4 * n) for n in range(CLIENTS)))
    answers = [answer for answers in answered for answer in answers]
    handled = await until(lambda: len(lines := noted(house)) >= 4 * CLIENTS and lines)

    assert {status for status, _ in answers} == {200}
    sent = {f"{message_id} {number}" for number, (_, message_id) in enumerate(answers)}
    assert len({message_id for _, message_id in answers}) == 4 * CLIENTS
    assert Counter(handled) == dict.fromkeys(sent, 1)


async def test_clients_that_go_away_leave_whole_batches_or_nothing(house: House) -> None:
    chance = random.Random(17)
    server = house.uvicorn(source=HERE / "clients")
    await server.started()

    async def send_and_go(number: int) -> None:
        raw = request("/batch", number, "x" * 2_000)
        cut = chance.choice([chance.randrange(len(raw)), len(raw)])
        async with Client.of(server) as client:
            if number % 10 == 0:
                assert (await client.ask("/batch", number))[0] == 200
                return
            client.writer.write(raw[:cut])
            await asyncio.sleep(chance.uniform(0, 0.5))
            client.writer.transport.abort()

    await asyncio.gather(*(send_and_go(number) for number in range(CLIENTS)))
    async with Client.of(server) as client:
        status, _ = await client.ask("/one", CLIENTS)

    kept = rows(Path(house.url), KEPT)
    assert {count for _, count in kept} == {BATCH}
    assert {str(number) for number in range(0, CLIENTS, 10)} <= {data for data, _ in kept}
    assert (status, noted(house).count("gone") > 0) == (200, True)
    assert "Traceback" not in server.log


def noted(house: House) -> list[str]:
    return finished_lines(house.directory / "ledger")
