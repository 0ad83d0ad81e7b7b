"""The picture of the overview in the README: `python -m tests.dashboard.picture`.

It serves the shop of `served.py` on a store with an hour of minutes that are made up, and writes
`overview.png` beside itself.
"""

import asyncio
import math
import random
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from playwright.async_api import async_playwright

from tests.dashboard.browsing import Site, site_of
from tests.dashboard.chromium import FLAGS, chromium
from tests.web.serving import House

TARGET: Final = Path(__file__).parent / "overview.png"
SIZE: Final = {"width": 1180, "height": 720}
MINUTES: Final = 60
RATES: Final = {
    # handled in a minute, and the part that fails
    "film.rendered": (4, 0.0),
    "invoice.requested": (22, 0.06),
    "mail.welcome": (90, 0.004),
    "order.created": (140, 0.0),
}


def busy(url: str) -> None:
    """Make up what was handled in the last hour."""
    now = int(time.time()) // 60 * 60_000
    chance = random.Random(7)
    rows = [
        (now - ago * 60_000, kind, round(rate * wave), round(rate * wave * share * 2), 0)
        for kind, (rate, share) in RATES.items()
        for ago in range(1, MINUTES)
        for wave in [(1.2 + math.sin(ago / 9 + rate)) * chance.uniform(0.5, 1.1)]
    ]
    with closing(sqlite3.connect(url)) as store:
        store.executemany("INSERT INTO kvqueue_minutes VALUES (?, ?, ?, ?, ?)", rows)
        store.commit()


async def fill(site: Site) -> None:
    await site.send("film.rendered", 60, 60, 60)
    await site.send("invoice.requested", *({"order_id": n} for n in range(7)))
    await site.send("mail.welcome", *range(40), delay=900)
    await site.send("order.created", *range(312))
    await site.send("report.weekly", 1, 2, 3, delay=86_400)
    await site.send("stock.counted", *range(18))
    await site.died(7)


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        house = House(Path(directory))
        try:
            site = await site_of(house)
            busy(house.url)
            await fill(site)
            await take(site)
        finally:
            house.end()


async def take(site: Site) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        page = await browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
        await page.goto(site.url)
        await page.get_by_role("button", name="Pause report.weekly").click()
        await page.goto(site.url)
        await page.locator("#state").wait_for()
        await page.screenshot(path=TARGET)
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
