"""What the screens show."""

import json
import re
from typing import Any

import pytest

from kvqueue_fastapi import KvQueueSettings
from kvqueue_fastapi.dashboard import lists, overview
from tests.dashboard.shop import Keeper, fail, keeping, words


def card(text: str, message_type: str) -> str:
    found = re.search(
        rf'<li class="card[^>]*id="type-{re.escape(message_type)}".*?</li>', text, re.DOTALL
    )
    assert found is not None
    return " ".join(re.sub(r"<[^>]+>", " ", found[0]).split())


# --- overview ---


def test_overview_of_an_empty_queue_says_what_to_do(keeper: Keeper) -> None:
    assert 'await queue.send_message("order.created"' in keeper.read()


def test_overview_of_many_types_shows_the_most_pressing_and_finds_the_others(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "MOST_CARDS", 2)
    for message_type in ("a.quiet", "b.busy", "c.quiet"):
        keeper.given(message_type, 1)
    keeper.given("b.busy", 2)
    keeper.dead(1)

    page = keeper.open()
    assert re.findall(r'id="type-([^"]+)"', page.text) == ["b.busy", "bad"]
    assert "The 2 most pressing of 4 types" in words(page)

    found = keeper.open("?type=QUI*t")
    assert re.findall(r'id="type-([^"]+)"', found.text) == ["a.quiet", "c.quiet"]
    assert 'name="back" value="?type=QUI%2At"' in found.text
    assert "No message type is like that" in keeper.read("?type=nobody's")


@pytest.mark.parametrize(
    ("sought", "cards"),
    [
        ("a*" * 200 + "b", 0),
        ("*" * 5_000 + "!", 0),
        ("*" * 5_000, 1),
        ("a*" * 254, 1),
        ("a*" * 255, 0),
        ("AAA*x*A", 1),
        ("x*a*x", 0),
    ],
)
def test_type_is_sought_at_once_however_many_wildcards_there_are(
    keeper: Keeper, sought: str, cards: int
) -> None:
    keeper.given("a" * 250 + "x" + "a" * 4, 1)

    page = keeper.open(f"?type={sought}")

    assert page.text.count('class="card"') == cards


def test_types_with_few_dead_letters_are_counted_where_they_are_many(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "MOST_TYPES", 1)
    keeper.dead(1, 2)
    keeper.dead(1, kind="worse")

    assert "1 more types have fewer" in keeper.read("dead")


def test_overview_has_a_card_for_each_type(keeper: Keeper) -> None:
    keeper.given("order.created", 1, 2)
    keeper.given("order.created", 3, delay=60)
    keeper.given("order.created", 4, 5, ordering_key="k")
    keeper.dead(1, 2)
    keeper.ask("pause", "mail")

    text = keeper.open().text

    order = card(text, "order.created")
    assert "3 ready 1 delayed 0 running 0 dead 1 blocked" in order
    assert "no handler" in order
    assert "Pause" in order
    assert "0 ready 0 delayed 0 running 2 dead" in card(text, "bad")
    assert "paused" in card(text, "mail")
    assert "Resume" in card(text, "mail")


def test_overview_warns_where_messages_wait_and_nobody_listens(keeper: Keeper) -> None:
    assert "Nobody listens." not in keeper.read()
    keeper.given("order.created", 1)
    keeper.ask("counts")
    keeper.act("pause", type="x")

    assert "Nobody listens. 1 message waits." in keeper.read()


# --- messages ---


def test_messages_are_listed_by_state_with_how_many_there_are(keeper: Keeper) -> None:
    ready = keeper.given("order.created", 1, 2)
    delayed = keeper.given("order.created", 3, delay=60)

    assert keeper.ids("messages") == ready + delayed
    assert keeper.ids("messages?state=delayed") == delayed
    assert "all 3 ready 2 delayed 1 running" in keeper.read("messages")


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("type:order.created", [0, 1]),
        ("type:order.*", [0, 1, 2]),
        ("key:42", [1]),
        ("teapot", [0, 3]),
        ("type:order.* teapot", [0]),
        ("state:delayed", [3]),
        ("nothing like it", []),
    ],
)
def test_search_finds_messages(keeper: Keeper, search: str, found: list[int]) -> None:
    ids = [
        *keeper.given("order.created", {"item": "Teapot"}),
        *keeper.given("order.created", 2, ordering_key="42"),
        *keeper.given("order.paid", 3),
        *keeper.given("mail", "teapot", delay=60),
    ]

    page = keeper.client.get("/queue/messages", params={"q": search})

    shown = [int(one) for one in re.findall(r'<tr id="m(\d+)">', page.text)]
    assert shown == [ids[place] for place in found]
    assert ("No message is like that" in page.text) is (not found)


def test_search_for_the_dead_leads_to_the_dead_letters(keeper: Keeper) -> None:
    keeper.dead(1, ordering_key="k 1")

    answer = keeper.client.get("/queue/messages", params={"q": 'state:dead key:"k 1" type:b*'})

    assert answer.url.path == "/queue/dead"
    assert answer.url.params["q"] == 'type:b* key:"k 1"'
    assert 'id="m1"' in answer.text


def test_search_for_the_dead_keeps_its_quotes(keeper: Keeper) -> None:
    (letter,) = keeper.dead("type:order")

    answer = keeper.client.get("/queue/messages", params={"q": '"type:order" state:dead'})

    assert answer.url.params["q"] == '"type:order"'
    assert f'id="m{letter}"' in answer.text


@pytest.mark.parametrize("place", ["messages", "dead"])
@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("cursor=zz", "cursor 'zz' is none"),
        ("cursor=%00", "cursor"),
        ("cursor=" + "9" * 5000, "cursor"),
        ("q=state:foo", "state:'foo' is none"),
        ("q=type:a+type:b", "given twice"),
        ("q=type:", "or is empty"),
        ("q=%ff%fe", ""),
    ],
)
def test_what_cannot_be_searched_for_is_told_on_the_page(
    keeper: Keeper, place: str, query: str, why: str
) -> None:
    keeper.dead(1)
    answer = keeper.client.get(f"/queue/{place}?{query}")

    assert answer.status_code == (400 if why else 200)
    assert why in answer.text.replace("&#39;", "'")


def test_state_that_is_none_is_told_on_the_page(keeper: Keeper) -> None:
    assert "state is 'foo'" in keeper.read("messages?state=foo", 400)


@pytest.mark.parametrize("place", ["messages", "dead"])
def test_lists_go_on_by_pages(keeper: Keeper, place: str) -> None:
    make = keeper.dead if place == "dead" else keeper.given
    ids = make(*(["bad"] if place == "messages" else []), *range(60))
    if place == "dead":
        ids = ids[::-1]

    first = keeper.open(f"{place}?q=type:bad")
    link = re.search(r'rel="next" href="([^"]+)"', first.text)
    assert link is not None
    second = keeper.client.get(str(first.url.join(link[1].replace("&amp;", "&"))))

    assert keeper.ids(f"{place}?q=type:bad") == ids[:50]
    assert re.findall(r'<tr id="m(\d+)">', second.text) == [str(one) for one in ids[50:]]
    assert "First page" in second.text
    assert 'rel="next"' not in second.text


def test_empty_lists_say_what_that_means(keeper: Keeper) -> None:
    assert "Nothing waits and nothing runs" in keeper.read("messages")
    assert "No dead letters" in keeper.read("dead")
    assert "No dead letter is like that" in keeper.read("dead?q=key:1")


# --- one message ---


def test_message_shows_its_attempts_headers_and_payload(keeper: Keeper) -> None:
    (letter,) = keeper.dead(
        {"customer": "Ada", "lines": [1, 2]},
        kind="worse",
        headers={"tenant": "north"},
        ordering_key="customer 7",
        priority=3,
    )

    page = keeper.open(f"messages/{letter}").text
    text = keeper.read(f"messages/{letter}")

    assert [int(one) for one in re.findall(r"Attempt (\d) failed", text)] == [1, 2, 3]
    assert "Given up: FailedError: Timeout" in text
    assert "in fail_again" in text
    assert "tenant north" in text
    assert "customer 7" in text
    assert "{\n  &#34;customer&#34;: &#34;Ada&#34;,\n  &#34;lines&#34;: [" in page
    assert "Dead" in text


def test_requeued_message_tells_where_it_comes_from(keeper: Keeper) -> None:
    (letter,) = keeper.dead("x")
    new = keeper.ask("requeue", [letter])[letter]

    assert f"requeued from dead letter {letter}" in keeper.read(f"messages/{new}")


@pytest.mark.parametrize(
    "message_id", ["0", "-1", "7", "abc", "9" * 19, "9" * 30, "1e3", "%20", "٣", "1%00"]
)
def test_ids_of_nothing_give_a_page_that_says_so(keeper: Keeper, message_id: str) -> None:
    assert "is not here" in keeper.read(f"messages/{message_id}", 404)
    assert "is not here" in keeper.read(f"messages/{message_id}/edit", 404)


@pytest.mark.parametrize("data", [None, 0, "text", [], {}, [[1], {"a": None}], 1.5, True, 2**70])
def test_any_payload_can_be_shown_and_edited(keeper: Keeper, data: Any) -> None:
    (letter,) = keeper.dead(data)

    keeper.open(f"messages/{letter}")
    page = keeper.open(f"messages/{letter}/edit").text

    area = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", page, re.DOTALL)
    assert area is not None
    assert json.loads(area[1].replace("&#34;", '"')) == data


# --- redaction ---


def hide_mail(message_type: str, value: Any) -> Any:
    return {**value, "mail": "***"} if isinstance(value, dict) and "mail" in value else value


def test_redacted_payload_is_hidden_everywhere_and_cannot_be_edited() -> None:
    with keeping(consumers=[fail], module={"redact": hide_mail}) as keeper:
        hidden, plain = keeper.dead({"mail": "ada@example.org"}, {"order": 1})
        for place in ("dead", f"messages/{hidden}", f"messages/{hidden}/edit"):
            assert "ada@example.org" not in keeper.open(place).text
        page = keeper.read(f"messages/{hidden}")
        assert "redacted" in page
        assert "Edit and requeue is not offered. Part of it is hidden" in page
        assert "Requeue with this payload" not in keeper.read(f"messages/{hidden}/edit")

        text = keeper.act("requeue-as", id=hidden, data='{"mail": "***"}', back="dead")

        assert "Part of it is hidden" in text
        assert keeper.ask("message", hidden).state == "dead"
        assert "Requeue with this payload" in keeper.read(f"messages/{plain}/edit")


class Odd:
    """Can neither be compared nor shown."""

    def __eq__(self, other: object) -> bool:
        raise NotImplementedError

    def __hash__(self) -> int:
        raise NotImplementedError

    def __repr__(self) -> str:
        raise NotImplementedError


@pytest.mark.parametrize(
    "given", [Odd(), {(1, 2): 3}, {"card": [Odd()]}], ids=["eq", "key", "repr"]
)
def test_payload_that_redact_makes_unshowable_hides_itself_alone(given: Any) -> None:
    def redact(_type: str, value: Any) -> Any:
        return given if value == {"mail": "ada@example.org"} else value

    with keeping(consumers=[fail], module={"redact": redact}) as keeper:
        odd, plain = keeper.dead({"mail": "ada@example.org"}, {"order": 1})

        for place in ("dead", f"messages/{odd}", f"messages/{odd}/edit"):
            assert "ada@" not in keeper.open(place).text
        assert keeper.ids("dead") == [plain, odd]
        assert "redaction failed: " in keeper.read("dead")


# --- settings and listeners ---


def test_settings_show_every_field_with_its_unit_and_no_password() -> None:
    settings = KvQueueSettings(
        lease_s=45, postgres_listen_url="postgresql://queue:s3cret@db/shop?password=other"
    )
    with keeping(module={"settings": settings}) as keeper:
        page = keeper.open("settings").text
        text = keeper.read("settings")

    for name, field in KvQueueSettings.model_fields.items():
        assert f"<code>{name}</code>" in page
        assert " ".join((field.description or "").split()) in text
    assert "lease_s 45 seconds set" in text
    assert "max_payload_bytes 65536 bytes" in text
    assert "postgresql://queue:***@db/shop?password=***" in text
    assert "s3cret" not in page
    assert "bad, strict, worse" in text


def test_settings_of_the_app_beside_ours_are_not_shown() -> None:
    class ShopSettings(KvQueueSettings):
        api_key: str = "s3cret"

    with keeping(module={"settings": ShopSettings()}) as keeper:
        assert "s3cret" not in keeper.open("settings").text


def test_listeners_of_nobody_say_what_to_do(keeper: Keeper) -> None:
    assert "Nobody listens" in keeper.read("listeners")
    assert "kvqueue worker" in keeper.read("listeners")
