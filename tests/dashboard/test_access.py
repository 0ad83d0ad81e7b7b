"""Who gets in, and what they find there."""

import re
import subprocess
import sys
from typing import Annotated, Any
from urllib.parse import parse_qsl

import pytest
from fastapi import Depends, FastAPI, Form, Header, HTTPException, Request
from fastapi.security import HTTPBearer
from fastapi.testclient import TestClient
from injector import Injector

from kvqueue_fastapi import InvalidOptionError, KvQueueError, KvQueueModule
from kvqueue_fastapi.dashboard import dashboard_router
from tests.dashboard.shop import Keeper, app_with, keeping, words

PLACES = ("", "messages", "messages/1", "messages/1/edit", "dead", "listeners", "settings", "live")
ASSETS = ("dashboard.css", "dashboard.js", "htmx-4.0.1.min.js", "hx-sse-4.0.1.min.js", "icon.svg")
INLINE = re.compile(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|hx-on|javascript:")
OUTSIDE = re.compile(r'(?:src|href|action)="(?:https?:)?//')


def admin_only(secret: Annotated[str, Header()] = "") -> None:
    if secret != "open":
        raise HTTPException(401)


def test_dashboard_is_closed_unless_somebody_says_that_it_is_open() -> None:
    with pytest.raises(KvQueueError, match=r"dependencies=\[Depends\(admin_only\)\].*anonymous"):
        dashboard_router()


def test_a_dependency_may_be_given_as_it_is_and_what_is_none_is_refused() -> None:
    with keeping(dependencies=[admin_only], allow_anonymous=False) as keeper:
        keeper.open("", 401)

    for wrong in (["admin_only"], [None], [7], [HTTPBearer], [Depends], [Depends()], admin_only, 7):
        with pytest.raises(InvalidOptionError, match=r"dependencies has .*Depends\(admin_only\)\]"):
            dashboard_router(dependencies=wrong)  # type: ignore[arg-type]


def test_dependencies_may_come_one_by_one_and_must_be_some() -> None:
    with keeping(dependencies=map(Depends, [admin_only]), allow_anonymous=False) as keeper:
        keeper.open("", 401)
        keeper.open("", 200, secret="open")

    with pytest.raises(KvQueueError, match="not open to everybody"):
        dashboard_router(dependencies=map(Depends, []))  # type: ignore[arg-type]


@pytest.mark.parametrize("place", [*PLACES, *(f"static/{name}" for name in ASSETS)])
def test_everything_is_behind_the_dependencies(place: str) -> None:
    with keeping(dependencies=[Depends(admin_only)], allow_anonymous=False) as keeper:
        keeper.open(place, 401)
        if place != "live":
            # that of a message that is not there
            keeper.open(place, 404 if "messages/1" in place else 200, secret="open")


def test_actions_are_behind_the_dependencies() -> None:
    with keeping(dependencies=[Depends(admin_only)], allow_anonymous=False) as keeper:
        (letter,) = keeper.dead(1)

        answer = keeper.send("discard", token="x", id=letter, sure="yes")

        assert answer.status_code == 401
        assert keeper.ask("message", letter) is not None


async def by_form(request: Request) -> None:
    await guard(dict(await request.form()))


async def by_closed_form(request: Request) -> None:
    async with request.form() as form:
        await guard(dict(form))


async def by_body(request: Request) -> None:
    await guard(dict(parse_qsl((await request.body()).decode())))


async def by_parameter(token: Annotated[str, Form()] = "") -> None:
    await guard({"token": token} if token else {})


async def guard(form: dict[str, Any]) -> None:
    """As apps do that have forms of their own to protect."""
    if form and len(form["token"]) != 43:
        raise HTTPException(400)


@pytest.mark.parametrize("dependency", [by_form, by_closed_form, by_body, by_parameter])
def test_dependency_may_read_the_form(dependency: Any) -> None:
    with keeping(dependencies=[Depends(dependency)], allow_anonymous=False) as keeper:
        first, second, third = keeper.dead(1, 2, "ünïcode")

        text = keeper.act("discard", id=[first, third], sure="yes", back="dead?q=ü b")

        assert "2 messages were discarded." in text
        assert [one.id for one in keeper.ask("dead_letters")] == [second]


async def by_stream(request: Request) -> None:
    async for _ in request.stream():
        pass


def test_form_that_a_dependency_has_read_and_not_kept_is_told() -> None:
    with keeping(dependencies=[Depends(by_stream)], allow_anonymous=False) as keeper:
        (letter,) = keeper.dead(1)

        answer = keeper.send("discard", id=letter, sure="yes")

        assert answer.status_code == 400
        assert "has read the form and has not kept it" in words(answer)
        assert keeper.ask("message", letter) is not None


def test_nothing_of_it_is_in_the_schema(keeper: Keeper) -> None:
    assert keeper.client.get("/openapi.json").json()["paths"] == {}


def test_every_page_has_headers_that_keep_others_out(keeper: Keeper) -> None:
    keeper.dead(1)
    for place in ("", "dead", "messages/1", "messages/999", "dead?cursor=zz"):
        headers = keeper.client.get(f"/queue/{place}").headers

        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["cache-control"] == "no-store"
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"


def test_no_page_has_inline_scripts_or_styles_or_outside_addresses(keeper: Keeper) -> None:
    keeper.dead({"a": 1})
    keeper.given("order.created", 1, delay=60)
    for place in ("", "messages", "dead", "messages/1", "messages/1/edit", "settings"):
        text = keeper.open(place).text

        assert not re.search(
            r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|hx-on|javascript:", text
        )
        assert not re.search(r'(?:src|href|action)="(?:https?:)?//', text)


def test_head_is_answered_as_get_but_for_the_stream_and_actions(keeper: Keeper) -> None:
    keeper.dead(1)
    keeper.open()  # has the browser's token from now on
    for place in (*PLACES[:-1], "static/icon.svg"):
        head, page = keeper.client.head(f"/queue/{place}"), keeper.open(place)

        assert head.status_code == 200
        assert head.headers.keys() == page.headers.keys()
    for place in ("live", "actions/pause"):
        assert keeper.client.head(f"/queue/{place}").status_code == 405


def test_news_wait_for_somebody_who_reads_them(keeper: Keeper) -> None:
    keeper.dead(1)
    keeper.send("pause", type="bad")

    keeper.client.head("/queue/")
    keeper.client.get("/queue/", headers={"hx-request": "true"})

    assert "bad is paused" in words(keeper.open())
    assert "bad is paused" not in words(keeper.open())


def test_assets_are_kept_by_the_browser_alone_and_named_by_their_content(keeper: Keeper) -> None:
    page = keeper.open().text
    for name in ASSETS:
        (url,) = re.findall(rf'"\./(static/{re.escape(name)}\?v=[0-9a-f]+)"', page)
        answer = keeper.open(url)
        assert answer.headers["cache-control"].startswith("private, max-age=")
        assert answer.headers["x-content-type-options"] == "nosniff"
    keeper.open("static/htmx-LICENSE.txt", 404)
    keeper.open("static/..%2frouter.py", 404)


def test_read_only_has_neither_buttons_nor_routes() -> None:
    with keeping(read_only=True) as keeper:
        (letter,) = keeper.dead({"a": 1})
        keeper.given("order.created", 1)
        for place in ("", "messages", "dead", f"messages/{letter}"):
            text = keeper.open(place).text
            assert "read only" in text
            assert 'method="post"' not in text
            assert 'type="checkbox"' not in text
        keeper.open(f"messages/{letter}/edit", 404)
        answer = keeper.send("discard", token="x", id=letter, sure="yes")
        assert answer.status_code == 404
        assert keeper.ask("message", letter) is not None


def test_core_works_without_jinja_and_the_dashboard_names_its_extra() -> None:
    program = (
        "import sys; sys.modules['jinja2'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'jinja2' else find(name, *a)\n"
        "import kvqueue_fastapi\n"
        "try: import kvqueue_fastapi.dashboard\n"
        "except ModuleNotFoundError as error: print(error)\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert "pip install 'kvqueue_fastapi[dashboard]'" in ended.stdout, ended.stderr


# --- where it is mounted ---


def links(text: str) -> set[str]:
    return set(re.findall(r'(?:href|src|action)="([^"#]*)"', text))


@pytest.mark.parametrize("place", ["", "messages", "dead", "messages/1", "messages/1/edit"])
def test_every_link_is_relative_and_leads_somewhere(keeper: Keeper, place: str) -> None:
    keeper.dead({"a": 1})
    page = keeper.open(place)

    for link in links(page.text):
        url = page.url.join(link.replace("&amp;", "&"))
        assert str(url).startswith("http://testserver/queue/")
        if "/actions/" not in str(url):
            assert keeper.client.get(str(url)).status_code == 200, link


def test_it_works_in_a_mounted_app_and_under_a_long_prefix() -> None:
    module = KvQueueModule(":memory:", listen=False)
    sub = FastAPI()
    sub.include_router(dashboard_router(allow_anonymous=True), prefix="/a/b")
    outer = FastAPI()
    outer.mount("/office", sub)
    module.install(outer, Injector([module]))
    with TestClient(outer) as client:
        keeper = Keeper(client, "/office/a/b/")
        (waiting,) = keeper.given("order.created", 1, delay=60)

        text = keeper.act("cancel", id=waiting, sure="yes", back="messages")

        assert "1 message was cancelled." in text
        assert client.get("/office/a/b").url.path == "/office/a/b/"


@pytest.mark.parametrize("told", ["/behind/proxy", ""])
def test_it_works_behind_a_proxy_that_cuts_the_path(told: str) -> None:
    # also where nobody has told the app
    module = KvQueueModule(":memory:", listen=False)
    with TestClient(app_with(module), root_path=told) as client:
        keeper = Keeper(client, "/queue/")
        page = keeper.open("messages")
        answer = keeper.send("pause", type="order.created", back="")

    assert 'href="./dead"' in page.text
    assert answer.headers["location"] == "../"


# --- what is not there ---


def test_app_without_a_queue_says_so() -> None:
    app = FastAPI()
    app.include_router(dashboard_router(allow_anonymous=True), prefix="/queue")
    with TestClient(app) as client:
        text = Keeper(client, "/queue/").read("messages", 503)

    assert "The queue is not running" in text
    assert "install(app)" in text


def test_queue_that_is_not_started_says_so() -> None:
    client = TestClient(app_with(KvQueueModule(":memory:", listen=False)))

    text = Keeper(client, "/queue/").read("", 503)

    assert "The queue is not running" in text


def test_store_that_fails_is_told_on_the_page(tmp_path: str) -> None:
    with keeping(f"{tmp_path}/queue.db") as keeper:
        runtime = keeper.client.app.state.kvqueue  # type: ignore[attr-defined]
        keeper.given("order.created", 1)
        spoil(f"{tmp_path}/queue.db")

        text = keeper.read("", 503)

        assert runtime.queue is not None
        assert "The store does not answer" in text


def spoil(path: str) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(path)) as other:
        other.execute("ALTER TABLE kvqueue_messages RENAME TO gone")
        other.commit()
