"""Whatever messages hold, a page is a page and says what they hold."""

import html
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.dashboard.shop import Keeper, fail, keeping

SCRIPT = "<script>alert(1)</script>"
BREAKOUT = " ".join(
    (
        SCRIPT,
        "\"><img src=x onerror='alert(1)'>",
        "</textarea></pre></title><svg onload=alert(1)>",
        "{{ 7 * 7 }}{% raw %}",
        "</bdi></a><a href=javascript:alert(1)>",
    )
)
FOREIGN = re.compile(
    r'<(?:script(?!(?: defer)? src="[./]+static/)|img|svg onload|a href=javascript)[^>]*'
)
PLACES = ("", "messages", "dead", "messages/{}", "messages/{}/edit", "dead?q={q}")


def unescaped(text: str) -> list[str]:
    """Tags that no template has."""
    return FOREIGN.findall(text)


def test_hostile_text_is_escaped_wherever_it_is() -> None:
    # a handler for a type of any name
    with keeping(consumers=[fail], title=BREAKOUT) as keeper:
        (letter,) = keeper.dead(BREAKOUT, headers={"name": BREAKOUT}, ordering_key=BREAKOUT)
        keeper.given(BREAKOUT, {BREAKOUT: BREAKOUT}, ordering_key=BREAKOUT)
        for place in PLACES:
            page = keeper.client.get("/queue/" + place.format(letter, q="x")).text
            assert not unescaped(page)
            assert "49" not in re.findall(r">\s*(\d+)\s*<", page)
        shown = html.unescape(keeper.open(f"messages/{letter}").text)
        assert f"FailedError: {BREAKOUT}" in shown
        assert SCRIPT in html.unescape(keeper.open("messages").text)


def test_hostile_queries_are_escaped(keeper: Keeper) -> None:
    for place in ("messages", "dead"):
        for name in ("q", "state", "cursor", "seen"):
            answer = keeper.client.get(f"/queue/{place}", params={name: BREAKOUT})
            assert answer.status_code in {200, 400}
            assert not unescaped(answer.text)
    assert not unescaped(keeper.client.get(f"/queue/messages/{BREAKOUT.replace('/', '')}").text)


def test_hostile_forms_are_escaped(keeper: Keeper) -> None:
    (letter,) = keeper.dead(-1, kind="strict")
    for fields in (
        {"action": "pause", "type": BREAKOUT, "back": BREAKOUT},
        {"action": "discard", "id": [str(letter), BREAKOUT], "back": BREAKOUT},
        {"action": "discard-all", "type": BREAKOUT, "back": BREAKOUT},
        {"action": "requeue-as", "id": str(letter), "data": BREAKOUT, "back": BREAKOUT},
    ):
        answer = keeper.client.send(
            keeper.client.build_request("GET", keeper.send(**fields).url.join(keeper.prefix))
        )
        assert not unescaped(answer.text)
        assert not unescaped(keeper.send(**fields).text)


def test_what_nobody_sees_is_shown_as_an_escape(keeper: Keeper) -> None:
    # ends with a direction override, a zero-width space and an escape sequence
    data = {"file": "invoice\u202egpj.exe", "a\u200bb": "\x1b[31m"}
    (letter,) = keeper.dead(data, headers={"name": "x\u202ey"})

    page = keeper.open(f"messages/{letter}").text

    assert not re.search("[\u202a-\u202e\u200b\x1b]", page)
    assert "invoice\\u202egpj.exe" in page
    assert "x\\u202ey" in page
    area = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", edit_of(keeper, letter), re.DOTALL)
    assert area is not None
    assert json.loads(html.unescape(area[1])) == data


def edit_of(keeper: Keeper, letter: int) -> str:
    return keeper.open(f"messages/{letter}/edit").text


def test_lone_surrogates_of_a_foreign_hand_can_be_shown_and_mended(tmp_path: Path) -> None:
    url = str(tmp_path / "queue.db")
    with keeping(url) as keeper:
        (letter,) = keeper.dead("x")
        overwrite(url, letter, r'{"name": "\ud800 and half"}')

        page = keeper.open(f"messages/{letter}").text
        keeper.open("dead")

        assert r"\ud800 and half" in page
        assert r"\ud800 and half" in edit_of(keeper, letter)


@pytest.mark.parametrize(
    "data", ["no json", "", "[" * 3_000 + "]" * 3_000, "9" * 5_000, "NaN", "\x00", "1e999"]
)
def test_payloads_of_a_foreign_hand_can_be_shown(tmp_path: Path, data: str) -> None:
    url = str(tmp_path / "queue.db")
    with keeping(url) as keeper:
        (letter,) = keeper.dead("x")
        overwrite(url, letter, data)

        keeper.open("dead")
        keeper.open(f"messages/{letter}")
        keeper.open(f"messages/{letter}/edit")


def overwrite(url: str, letter: int, data: str) -> None:
    with closing(sqlite3.connect(url)) as other:
        other.execute("UPDATE kvqueue_dead_letters SET data = ? WHERE id = ?", (data, letter))
        other.commit()


def test_largest_payload_is_shown_whole_and_in_lists_by_its_beginning(keeper: Keeper) -> None:
    data = {"text": "x" * 65_000}
    (letter,) = keeper.dead(data)

    assert "x" * 65_000 in keeper.open(f"messages/{letter}").text
    assert len(keeper.open("dead").text) < 12_000
    assert "is mended and requeued" in keeper.act(
        "requeue-as", id=letter, data=json.dumps(data), back="dead"
    )


def test_longer_payloads_are_cut_and_not_edited() -> None:
    from kvqueue_fastapi import KvQueueSettings

    settings = KvQueueSettings(max_payload_bytes=1_000_000)
    with keeping(module={"settings": settings}) as keeper:
        (letter,) = keeper.dead("é" * 400_000)

        text = keeper.read(f"messages/{letter}")

        assert "The first 262,144 of 400,002 characters." in text
        assert "It is too long or too deep to be edited here." in text


def test_longest_names_do_not_stretch_a_page(keeper: Keeper) -> None:
    name = "t" * 255
    keeper.given(name, 1, ordering_key="k" * 255, headers={"h" * 200: "v" * 2_000})

    for place in ("", "messages", "messages/1"):
        keeper.open(place)


@pytest.mark.parametrize(
    "value", [b"", b"ok", b"good\na", b"good\nhttps://evil.example\na", b"x\n\na", b"\xff\n\na"]
)
def test_news_of_a_foreign_hand_is_not_told(keeper: Keeper, value: bytes) -> None:
    import base64

    news = base64.urlsafe_b64encode(value).decode()

    answer = keeper.open(cookie=f"kvqueue_dashboard_news={news}")

    assert 'class="news' not in answer.text


def test_news_that_cannot_be_read_are_deleted(keeper: Keeper) -> None:
    answer = keeper.open(cookie="kvqueue_dashboard_news=%%%")

    assert 'kvqueue_dashboard_news=""' in answer.headers["set-cookie"]
    assert "Max-Age=0" in answer.headers["set-cookie"]
