"""A new user finds a failing message, reads why, mends it and requeues it."""

from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.dashboard.browsing import shown, site_of
from tests.web.serving import House

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_new_user_finds_a_failing_message_reads_why_mends_and_requeues_it(
    house: House, page: Page, screenshots: Path
) -> None:
    site = await site_of(house)
    await site.send("mail.welcome", 1, 2, 3)
    await site.send("invoice.requested", {"order_id": 42})
    await site.died(1)

    # finds it: the overview has one red number, and it is a link
    await page.goto(site.url)
    card = page.locator(".card", has_text="invoice.requested")
    await expect(card.locator(".figure.dead b")).to_have_text("1")
    await page.screenshot(path=screenshots / "walk-1-overview.png")
    await card.locator(".figure.dead").click()

    # reads why
    await page.locator("tbody a").click()
    await shown(page, "Given up: ValueError: order 42 has no VAT number")
    await expect(page.locator("details[open] pre")).to_contain_text("in write_invoice")
    await page.screenshot(path=screenshots / "walk-2-message.png")

    # mends it: at first not quite
    await page.get_by_role("link", name="Edit and requeue").click()
    payload = page.get_by_label("Payload, as JSON")
    await expect(payload).to_have_value('{\n  "order_id": 42\n}')
    await payload.fill('{"order_id": "forty-two"}')
    await page.get_by_role("button", name="Requeue with this payload").click()
    await shown(page, "Payload does not fit Invoice")
    await expect(payload).to_have_value('{"order_id": "forty-two"}')
    await payload.fill('{"order_id": 42, "vat_number": "DE 99"}')
    await page.screenshot(path=screenshots / "walk-3-mended.png")

    # requeues it, and it is handled
    await page.get_by_role("button", name="Requeue with this payload").click()
    await shown(page, "is mended and requeued as message")
    await site.noted("invoice 42 DE 99")
    await shown(page, "No dead letters")
    await page.screenshot(path=screenshots / "walk-4-done.png")
