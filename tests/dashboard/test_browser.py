"""Each screen and each action in a real browser, with scripts and without."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.dashboard.browsing import (
    SCHEMES,
    WIDTHS,
    Site,
    is_as_wide_as_its_window,
    shown,
    site_of,
)
from tests.web.serving import House

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def site(house: House) -> AsyncIterator[Site]:
    yield await site_of(house)


async def dead(site: Site, page: Page, count: int = 1) -> list[int]:
    """Make dead letters, and look at them."""
    ids = await site.send("invoice.requested", *({"order_id": n} for n in range(count)))
    await site.died(count)
    await page.goto(f"{site.url}dead")
    return ids


# --- how it looks ---


async def test_every_screen_fits_every_window_in_both_schemes(
    site: Site, page: Page, screenshots: Path
) -> None:
    (letter, *_) = await dead(site, page, 3)
    await site.send("report.weekly", {"note": "x" * 300}, delay=600, headers={"h" * 90: "v" * 300})
    await site.send("<b>" + "long" * 60, 1, ordering_key="k" * 200)
    await site.send("film.rendered", 60)
    screens = {
        "overview": "",
        "messages": "messages",
        "nothing-found": "messages?q=key:nobody",
        "dead": "dead",
        "message": f"messages/{letter}",
        "edit": f"messages/{letter}/edit",
        "gone": "messages/999999",
        "listeners": "listeners",
        "settings": "settings",
    }
    for name, place in screens.items():
        await page.goto(site.url + place, wait_until="domcontentloaded")
        for scheme in SCHEMES:
            await page.emulate_media(color_scheme=scheme)
            for width in WIDTHS:
                await page.set_viewport_size({"width": width, "height": 800})
                assert await is_as_wide_as_its_window(page), (name, width)
                await page.screenshot(path=screenshots / f"{name}-{scheme}-{width}.png")


async def test_empty_screens_say_what_to_do(site: Site, page: Page, screenshots: Path) -> None:
    for name in ("messages", "dead"):
        await page.goto(site.url + name)
        await expect(page.locator(".empty h2")).to_be_visible()
        await page.screenshot(path=screenshots / f"empty-{name}.png")


async def test_texts_stand_out_from_their_grounds(site: Site, page: Page) -> None:
    # WCAG AA: 4.5 to 1
    await dead(site, page)
    for scheme in SCHEMES:
        await page.emulate_media(color_scheme=scheme)
        ratios = await page.evaluate(CONTRASTS)
        assert {name: ratio for name, ratio in ratios.items() if ratio < 4.5} == {}, scheme


CONTRASTS = """() => {
  const style = getComputedStyle(document.documentElement);
  const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = (name) => {
    const probe = document.createElement("i");
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const [r, g, b] = getComputedStyle(probe).color.match(/[\\d.]+/g).map(Number).map(channel);
    probe.remove();
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const pairs = [["text", "ground"], ["text", "surface"], ["muted", "ground"], ["muted", "surface"],
    ["muted", "sunken"], ["accent", "ground"], ["accent", "surface"], ["on-accent", "accent"],
    ["good", "good-soft"], ["bad", "bad-soft"], ["bad", "surface"], ["warn", "warn-soft"],
    ["blue", "blue-soft"], ["blue", "sunken"], ["violet", "violet-soft"], ["violet", "sunken"],
    ["teal", "teal-soft"], ["teal", "sunken"]];
  return Object.fromEntries(pairs.map(([front, back]) => {
    const [a, b] = [light(front), light(back)];
    return [`${front} on ${back}`, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
  }));
}"""


async def test_keyboard_reaches_everything_and_shows_where_it_is(site: Site, page: Page) -> None:
    await dead(site, page)
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    await page.keyboard.press("Enter")
    await expect(page.locator("#main")).to_be_focused()

    reached: list[str] = []
    for _ in range(8):
        await page.keyboard.press("Tab")
        reached.append(await page.evaluate(FOCUSED))
    assert any(one.startswith("INPUT:q") for one in reached)
    assert any("Select message" in one for one in reached)
    assert all(one.endswith("solid") for one in reached if one.startswith(("A:", "BUTTON:")))

    await page.get_by_label("Select message").press("Space")
    await page.get_by_role("button", name="Requeue", exact=True).press("Enter")
    await shown(page, "is requeued as message")


FOCUSED = """() => {
  const one = document.activeElement;
  const name = one.id || one.getAttribute("aria-label") || one.textContent.trim();
  return `${one.tagName}:${name}:${getComputedStyle(one).outlineStyle}`;
}"""


async def test_everything_that_can_be_used_has_a_name(site: Site, page: Page) -> None:
    (letter,) = await dead(site, page)
    for place in ("", "messages", "dead", f"messages/{letter}", f"messages/{letter}/edit"):
        await page.goto(site.url + place)
        nameless = await page.evaluate(NAMELESS)
        assert nameless == [], place
        assert await page.locator("h1").count() == 1


NAMELESS = """() => [...document.querySelectorAll("a, button, input:not([type=hidden]), textarea")]
  .filter((one) => !one.textContent.trim() && !one.ariaLabel && !one.labels?.length)
  .map((one) => one.outerHTML)"""


# --- live ---


async def test_overview_renews_itself(site: Site, page: Page) -> None:
    await page.goto(site.url)
    await expect(page.locator("#state")).to_have_text("live")

    await site.send("stock.counted", 1, 2)

    card = page.locator(".card", has_text="stock.counted")
    await expect(card.locator(".figure.ready b")).to_have_text("2")
    await expect(page.locator("#nav .badge").first).to_have_text("2")


async def test_page_holds_still_under_the_hand_of_its_user(site: Site, page: Page) -> None:
    await site.send("stock.counted", 1)
    await page.goto(f"{site.url}messages")
    await page.get_by_label("Select message").check()

    await page.evaluate(NEXT_LOOK)
    await site.send("stock.counted", 2)
    await page.evaluate("nextLook")
    await expect(page.locator("tbody tr")).to_have_count(1)
    await expect(page.get_by_label("Select message")).to_be_checked()

    await page.get_by_label("Select message").uncheck()
    await page.locator("h1").click()
    await site.send("stock.counted", 3)
    await expect(page.locator("tbody tr")).to_have_count(3)


NEXT_LOOK = """() => {
  const live = document.getElementById("live");
  window.nextLook = new Promise((heard) => live.addEventListener("look", () => heard(1)));
}"""


async def test_what_is_open_stays_open_when_the_page_is_renewed(site: Site, page: Page) -> None:
    await dead(site, page)
    await page.get_by_text("Requeue or discard all of a type").click()

    await site.send("invoice.requested", {"order_id": 7})

    await expect(page.locator("tbody tr")).to_have_count(2)
    await expect(page.get_by_role("button", name="Requeue all of invoice")).to_be_visible()


async def test_handled_message_leaves_its_own_page(site: Site, page: Page) -> None:
    (running,) = await site.send("film.rendered", 1.5)
    await page.goto(f"{site.url}messages/{running}")
    await shown(page, "Runs now")

    await shown(page, f"Message {running} is not here")


async def test_page_of_a_server_that_is_gone_says_so(site: Site, page: Page) -> None:
    await page.goto(site.url)
    await expect(page.locator("#state")).to_have_text("live")

    site.server.end()

    await expect(page.locator("#state")).to_have_text("connection lost")


async def test_page_whose_store_is_away_says_so_until_it_is_back(
    site: Site, page: Page, house: House
) -> None:
    await page.goto(site.url)
    await expect(page.locator("#state")).to_have_text("live")

    with closing(sqlite3.connect(house.url)) as other:
        other.execute("ALTER TABLE kvqueue_messages RENAME TO gone")
        await expect(page.locator("#state")).to_have_text("store away")
        await shown(page, "The store does not answer")

        other.execute("ALTER TABLE gone RENAME TO kvqueue_messages")
        await expect(page.locator("#state")).to_have_text("live")


# --- actions ---


async def test_type_is_paused_and_goes_on(site: Site, page: Page) -> None:
    await site.send("stock.counted", 1)
    await page.goto(site.url)

    await page.get_by_role("button", name="Pause stock.counted").click()
    await shown(page, "stock.counted is paused.")
    await expect(page.locator(".card .pill.warn")).to_have_text("paused")
    await page.get_by_role("button", name="Resume stock.counted").click()
    await shown(page, "stock.counted goes on.")


async def test_waiting_messages_are_found_selected_and_cancelled(site: Site, page: Page) -> None:
    await site.send("stock.counted", *range(3), delay=600)
    await site.send("order.paid", 1, delay=600)
    await page.goto(f"{site.url}messages")

    await page.get_by_label("Search").fill("type:stock.*")
    await page.get_by_role("button", name="Search").click()
    await expect(page.locator("tbody tr")).to_have_count(3)
    await expect(page.get_by_role("button", name="Cancel")).to_be_disabled()
    await page.get_by_label("Select all of this page").check()
    await shown(page, "3 selected:")
    await page.get_by_role("button", name="Cancel").click()
    await page.get_by_role("button", name="Cancel 3").click()

    await shown(page, "3 messages were cancelled.")
    assert page.url.endswith("messages?q=type%3Astock.*")


async def test_dead_letters_are_discarded_by_selection(site: Site, page: Page) -> None:
    await dead(site, page, 3)

    await page.get_by_label("Select message").nth(1).check()
    await page.get_by_role("button", name="Discard", exact=True).click()
    await page.get_by_role("button", name="Discard 1").click()

    await shown(page, "1 message was discarded.")
    await expect(page.locator("tbody tr")).to_have_count(2)


async def test_question_can_be_answered_with_no(site: Site, page: Page) -> None:
    await dead(site, page, 2)

    await page.get_by_text("Requeue or discard all of a type").click()
    await page.get_by_role("button", name="Discard all of invoice.requested").click()
    await shown(page, "Discard 2 dead letters?")
    await page.get_by_role("link", name="Leave as it is").click()

    await expect(page.locator("tbody tr")).to_have_count(2)


async def test_all_of_a_type_are_requeued(site: Site, page: Page) -> None:
    await dead(site, page, 2)

    await page.get_by_text("Requeue or discard all of a type").click()
    await page.get_by_role("button", name="Requeue all of invoice.requested").click()
    await page.get_by_role("button", name="Requeue 2").click()

    await shown(page, "2 dead letters were requeued.")


async def test_message_is_sent_again_cancelled_and_discarded(site: Site, page: Page) -> None:
    (letter,) = await dead(site, page)
    await page.get_by_role("link", name=f"{letter} invoice.requested").click()

    await page.get_by_role("button", name="Send again").click()
    await shown(page, f"Message {letter} is sent again as message")
    await page.get_by_role("button", name="Discard").click()
    await page.get_by_role("button", name="Discard 1").click()
    await shown(page, "1 message was discarded.")

    (waiting,) = await site.send("order.paid", 1, delay=600)
    await page.goto(f"{site.url}messages/{waiting}")
    await page.get_by_role("button", name="Cancel").click()
    await page.get_by_role("button", name="Cancel 1").click()
    await shown(page, "1 message was cancelled.")


# --- without ---


async def test_everything_works_without_scripts(site: Site, page: Page, browser: Browser) -> None:
    (letter, _) = await dead(site, page, 2)
    context = await browser.new_context(java_script_enabled=False)
    plain = await context.new_page()
    for place in ("", "messages", "listeners", "settings", f"messages/{letter}"):
        await plain.goto(site.url + place)
        await expect(plain.locator("h1")).to_be_visible()
    await plain.goto(f"{site.url}dead")
    await plain.get_by_label("Select message").first.check()
    await plain.get_by_role("button", name="Requeue", exact=True).click()

    await expect(plain.locator(".news")).to_contain_text("is requeued as message")
    await context.close()


async def test_read_only_dashboard_shows_and_does_nothing(site: Site, page: Page) -> None:
    (letter,) = await dead(site, page)
    for place in ("", "messages", "dead", f"messages/{letter}"):
        await page.goto(site.read_only_url + place)
        await shown(page, "read only")
        assert await page.locator("#content button:not(.search button)").count() == 0


async def test_other_site_cannot_act_with_the_keepers_browser(site: Site, page: Page) -> None:
    (letter,) = await dead(site, page)
    fields = f"<input name=id value={letter}><input name=sure value=yes><button>win</button>"
    form = f"<form method=post action={site.url}actions/discard>{fields}</form>"

    await page.goto(f"data:text/html,{form}")
    await page.get_by_role("button", name="win").click()

    await shown(page, "Nothing was done")
    await site.died(1)
