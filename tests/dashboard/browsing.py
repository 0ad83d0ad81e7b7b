"""A real server with a dashboard, and what the tests in the browser do with both."""

import asyncio
import json
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Literal

from playwright.async_api import Page

from tests.web.serving import House, Server, finished_lines

HERE = Path(__file__).parent
SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
WIDTHS = (1280, 375)
PATIENCE_S = 15


class Site:
    """The shop of `served.py` on a real server.

    Attributes:
        url: of the dashboard.
    """

    def __init__(self, house: House, server: Server, address: str) -> None:
        self._ledger = house.directory / "ledger"
        self._address = address
        self.server = server
        self.url = f"{address}/queue/"
        self.read_only_url = f"{address}/seen/"

    async def send(self, message_type: str, *payloads: Any, **options: Any) -> list[int]:
        body = {"type": message_type, "data": list(payloads) or [None], "options": options}
        request = urllib.request.Request(
            f"{self._address}/send",
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        ids: list[int] = json.loads(await asyncio.to_thread(_answer, request))
        return ids

    async def died(self, count: int) -> None:
        """Wait until so many are dead letters."""
        request = urllib.request.Request(f"{self._address}/died")

        async def all_died() -> bool:
            return int(await asyncio.to_thread(_answer, request)) == count

        await until(all_died)

    async def noted(self, line: str) -> None:
        """Wait until a handler has done this."""

        async def is_noted() -> bool:
            return line in await asyncio.to_thread(finished_lines, self._ledger)

        await until(is_noted)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await asyncio.sleep(0.02)


async def site_of(house: House, **settings: Any) -> Site:
    server = house.uvicorn(source=HERE, **settings)
    return Site(house, server, f"http://127.0.0.1:{await server.port()}")


async def shown(page: Page, text: str) -> None:
    """Wait until the page says something."""
    await page.get_by_text(text).first.wait_for()


async def is_as_wide_as_its_window(page: Page) -> bool:
    script = "document.documentElement.scrollWidth <= window.innerWidth"
    return bool(await page.evaluate(script))


def _answer(request: urllib.request.Request) -> bytes:
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        body: bytes = answer.read()
        return body
