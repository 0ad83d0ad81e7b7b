"""What buttons do."""

import logging
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from fastapi import Depends, Request
from starlette.authentication import BaseUser, SimpleUser

from kvqueue_fastapi.dashboard import visit
from kvqueue_fastapi.dashboard.wording import plain
from tests.dashboard.shop import Keeper, fail, keeping


def test_type_is_paused_and_goes_on(keeper: Keeper) -> None:
    keeper.given("order created/fast", 1)

    assert "order created/fast is paused" in keeper.act("pause", type="order created/fast")
    assert keeper.ask("counts")[0].paused
    assert "order created/fast goes on" in keeper.act("resume", type="order created/fast")
    assert not keeper.ask("counts")[0].paused


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_type_that_there_is_not_is_neither_paused_nor_resumed(keeper: Keeper, verb: str) -> None:
    told = keeper.act(verb, type="ordre")

    assert f"There is no message type ordre, so nothing was {verb}d." in told
    assert keeper.ask("counts") == []


def test_news_is_told_once(keeper: Keeper) -> None:
    keeper.given("order", 1)

    assert "order is paused." in keeper.act("pause", type="order")
    assert "order is paused." not in keeper.read()


@pytest.mark.parametrize("character", ["x", "Ω", "\U0001f600", "\u202e", "&", '"', "\\"])
def test_news_of_the_longest_names_are_no_longer_than_a_browser_keeps(
    keeper: Keeper, character: str
) -> None:
    name = character * 255
    keeper.given(name, 1)

    answer = keeper.send("pause", type=name)

    assert len(answer.headers["set-cookie"].partition(";")[0]) <= 4_096
    assert f"{plain(name)} is paused. Running handlers finish." in keeper.read()


def test_longer_news_are_cut(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visit, "MAX_NEWS_BYTES", 18)
    keeper.given("ΩΩΩΩΩΩ", 1)

    text = keeper.act("pause", type="ΩΩΩΩΩΩ")

    assert " ΩΩΩΩΩΩ " in text
    assert "paused. " not in text


def test_page_that_renews_itself_leaves_the_news_to_its_reader(keeper: Keeper) -> None:
    keeper.given("order", 1)
    keeper.send("pause", type="order")

    renewed = keeper.open(**{"hx-request": "true"})

    assert "order is paused." not in renewed.text
    assert "order is paused." in keeper.read()


def test_dead_letters_are_requeued_by_selection(keeper: Keeper) -> None:
    first, second, third = keeper.dead(1, 2, 3)

    text = keeper.act("requeue", id=[first, third], back="dead")

    assert "2 dead letters are requeued." in text
    assert keeper.ids("dead") == [second]
    assert [one.requeued_from for one in keeper.ask("messages")] == [first, third]


def test_one_requeued_dead_letter_tells_its_new_id(keeper: Keeper) -> None:
    (letter,) = keeper.dead(1)

    text = keeper.act("requeue", id=letter, back="dead")

    (new,) = keeper.ask("messages")
    assert f"Dead letter {letter} is requeued as message {new.id}. See it" in text


def test_discarding_asks_first_and_then_does_it(keeper: Keeper) -> None:
    first, second = keeper.dead(1, 2)

    question = keeper.act("discard", id=[first, second], back="dead")
    assert "Discard 2 dead letters?" in question
    assert "This cannot be taken back." in question
    assert len(keeper.ask("dead_letters")) == 2

    text = keeper.act("discard", id=[first, second], back="dead", sure="yes")
    assert "2 messages were discarded." in text
    assert len(keeper.ask("dead_letters")) == 0


def test_waiting_messages_are_cancelled_and_the_others_told(keeper: Keeper) -> None:
    waiting = keeper.given("order", 1, delay=60)
    letter = keeper.dead(1)

    text = keeper.act("cancel", id=[*waiting, *letter, 999], back="messages", sure="yes")

    assert "1 message was cancelled." in text
    assert f"Message {letter[0]} cannot be cancelled: it is a dead letter" in text
    assert "Message 999 cannot be cancelled" in text
    assert keeper.ask("message", waiting[0]) is None
    assert keeper.ask("message", letter[0]) is not None


@pytest.mark.parametrize(
    ("action", "done", "left"), [("requeue-all", "requeued", 2), ("discard-all", "discarded", 0)]
)
def test_all_of_a_type_go_after_a_question(
    keeper: Keeper, action: str, done: str, left: int
) -> None:
    keeper.dead(1, 2)
    keeper.dead(3, kind="worse")

    assert "2 dead letters? bad : 2" in keeper.act(action, type="bad")
    assert len(keeper.ask("dead_letters")) == 3
    assert f"2 dead letters were {done}." in keeper.confirm(action, type="bad")

    assert [one.type for one in keeper.ask("dead_letters")] == ["worse"]
    assert len(keeper.ask("messages")) == left


def test_all_of_every_type_go_after_a_question(keeper: Keeper) -> None:
    keeper.dead(1, 2)
    keeper.dead(3, kind="worse")

    assert "3 dead letters? bad : 2 worse : 1" in keeper.act("discard-all", type="")
    assert "3 dead letters were discarded." in keeper.confirm("discard-all", type="")
    assert len(keeper.ask("dead_letters")) == 0


def test_message_is_sent_again_and_the_old_one_stays(keeper: Keeper) -> None:
    (letter,) = keeper.dead({"a": 1}, headers={"tenant": "north"})

    text = keeper.act("send-again", id=letter, back=f"messages/{letter}")

    (new,) = keeper.ask("messages")
    assert f"Message {letter} is sent again as message {new.id}." in text
    assert (new.data, new.headers) == ({"a": 1}, {"tenant": "north"})
    assert keeper.ask("message", letter).state == "dead"


def test_dead_letter_is_mended_and_requeued(keeper: Keeper) -> None:
    (letter,) = keeper.dead(-1, kind="strict", headers={"tenant": "north"})

    text = keeper.act("requeue-as", id=letter, data=" 5\r\n", back="dead")

    (new,) = keeper.ask("messages")
    assert f"Dead letter {letter} is mended and requeued as message {new.id}." in text
    assert (new.data, new.headers, new.requeued_from) == (5, {"tenant": "north"}, letter)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ('{"a": ', "This is no JSON"),
        ("", "This is no JSON"),
        ('"five"', "Payload does not fit int"),
        ('{"a": [{"b": 1, "b": 2}]}', "the name &#34;b&#34; is there twice"),
        ('{"x": -1e400}', "the number -1e400 is too large"),
        ("[" * 100_000, "Not requeued."),
        ('"' + "x" * 70_000 + '"', "Not requeued."),
        ("1" * 5_000, "Not requeued."),
    ],
)
def test_payload_that_cannot_be_is_given_back_with_the_reason(
    keeper: Keeper, data: str, why: str
) -> None:
    (letter,) = keeper.dead(-1, kind="strict")

    answer = keeper.send("requeue-as", id=letter, data=data, back="dead")

    assert answer.status_code == 422
    assert "Not requeued." in answer.text
    assert why in answer.text
    assert data.replace('"', "&#34;") in answer.text
    assert keeper.ask("message", letter).state == "dead"


@pytest.mark.parametrize(
    "action", ["requeue", "discard", "cancel", "send-again", "requeue-as", "discard-all"]
)
def test_nothing_selected_is_told(keeper: Keeper, action: str) -> None:
    text = keeper.act(action, back="dead", sure="yes" if action in {"discard", "cancel"} else "")

    assert "Nothing was selected." in text


@pytest.mark.parametrize("action", ["requeue", "discard", "cancel", "send-again", "requeue-as"])
def test_messages_that_are_gone_meanwhile_are_told(keeper: Keeper, action: str) -> None:
    answer = keeper.act(action, id=["41", "x", "9" * 19, "9" * 40], data="1", sure="yes")

    assert 'class="news' not in answer
    assert any(word in answer for word in ("None of them", "cannot be", "no such dead letter"))


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_type_that_is_none_is_told(keeper: Keeper, verb: str) -> None:
    assert "Message type is ''" in keeper.act(verb, type="")


@pytest.mark.parametrize(
    "back",
    [
        "https://evil.example/",
        "//evil.example/",
        "../../login",
        "\\evil",
        "messages/1/../../..",
        "dead?q=a b",
        "dead\r\nset-cookie: a=b",
        "javascript:alert(1)",
    ],
)
def test_action_leads_back_to_the_dashboard_alone(keeper: Keeper, back: str) -> None:
    assert keeper.send("pause", type="order", back=back).headers["location"] == "../"


def test_action_leads_back_to_where_it_was(keeper: Keeper) -> None:
    back = "dead?q=type%3Abad&cursor=abc"

    assert keeper.send("pause", type="order", back=back).headers["location"] == f"../{back}"


def test_it_is_the_same_on_postgres(postgres_url: str) -> None:
    with keeping(postgres_url) as keeper:
        first, second = keeper.dead(1, 2)
        (third,) = keeper.dead(-1, kind="strict")

        assert keeper.ids("dead") == [third, second, first]
        keeper.act("requeue-as", id=third, data="5", back="dead")
        keeper.act("discard", id=second, sure="yes", back="dead")
        keeper.act("pause", type="strict")

        assert keeper.ids("dead?q=type:b*") == [first]
        assert [one.data for one in keeper.ask("messages")] == [5]
        assert "1 dead" in keeper.read()
        assert "paused" in keeper.read()


# --- forgery ---


def test_other_sites_cannot_act(keeper: Keeper) -> None:
    (letter,) = keeper.dead(1)
    token = keeper.token()
    same = {"origin": "http://testserver", "sec-fetch-site": "same-origin"}
    cases: list[tuple[dict[str, str], str]] = [
        ({"origin": "http://evil.example"}, token),
        ({"origin": "null"}, token),
        ({"origin": "http://testserver:81"}, token),
        ({"origin": "http://[::1"}, token),
        ({"origin": "http://[testserver]"}, token),
        ({**same, "sec-fetch-site": "cross-site"}, token),
        ({**same, "sec-fetch-site": "same-site"}, token),
        ({**same, "sec-fetch-site": "none"}, token),
        ({}, token),
        (same, ""),
        (same, "x" * 43),
        (same, "\ud800"),
    ]
    for headers, sent in cases:
        body = {"id": str(letter), "sure": "yes", "token": sent.encode("utf-8", "replace").decode()}
        answer = keeper.client.post("/queue/actions/discard", data=body, headers=headers)

        assert answer.status_code == 403, headers
        assert "Nothing was done" in answer.text
    assert keeper.ask("message", letter) is not None


def test_token_works_in_every_process_and_is_out_of_reach_of_scripts(keeper: Keeper) -> None:
    cookie = keeper.client.get("/queue/").headers["set-cookie"]
    token = keeper.client.cookies["kvqueue_dashboard"]

    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert token not in str(keeper.open("messages").url)
    # another process has seen neither cookie nor token before
    with keeping() as other:
        other.client.cookies.set("kvqueue_dashboard", token)
        assert other.send("pause", type="order", token=token).status_code == 303


def test_cookie_of_a_foreign_hand_is_replaced(keeper: Keeper) -> None:
    for value in ("", "x", "<script>", "x" * 44):
        keeper.client.cookies.clear()
        answer = keeper.open(cookie=f"kvqueue_dashboard={value}; kvqueue_dashboard_news=%%%")

        assert len(answer.cookies["kvqueue_dashboard"]) == 43


def test_secure_site_has_a_secure_cookie(keeper: Keeper) -> None:
    cookie = keeper.client.get("https://testserver/queue/").headers["set-cookie"]

    assert "Secure" in cookie


def test_actions_are_no_links(keeper: Keeper) -> None:
    assert keeper.client.get("/queue/actions/pause?type=order").status_code == 405


def test_form_that_is_too_long_is_refused(keeper: Keeper) -> None:
    answer = keeper.send("pause", type="x" * 600_000)

    assert answer.status_code == 400
    assert "The form is longer than" in answer.text


def test_form_with_too_many_fields_is_refused(keeper: Keeper) -> None:
    answer = keeper.send("requeue", id=["1"] * 3_000)

    assert answer.status_code == 400
    assert "more than 2000 fields" in answer.text


# --- audit ---


class NamelessUser(BaseUser):
    """One whose display_name raises, as that of Starlette's base class does."""


ID = UUID("0197f2f2-0000-7000-8000-000000000001")


@dataclass
class Account:
    id: UUID


def signed_in(user: Any) -> Any:
    def dependency(request: Request) -> None:
        request.state.user = user

    return Depends(dependency)


@pytest.mark.parametrize(
    ("user", "name"),
    [
        ("ada", '"ada"'),
        (SimpleUser("ada"), '"ada"'),
        ({"sub": 1, "email": "ada@example.org"}, '"ada@example.org"'),
        (NamelessUser(), '"NamelessUser"'),
        (ID, f'"{ID}"'),
        ({"id": 7, "name": ["Ada"]}, '"7"'),
        ({"id": ID}, f'"{ID}"'),
        (Account(ID), f'"{ID}"'),
        ("a\nb", r'"a\nb"'),
    ],
)
def test_each_action_is_logged_with_who_did_it(
    caplog: pytest.LogCaptureFixture, user: Any, name: str
) -> None:
    caplog.set_level(logging.INFO, "kvqueue_fastapi.audit")
    with keeping(consumers=[fail], dependencies=[signed_in(user)]) as keeper:
        ids = keeper.dead(1, 2)
        keeper.act("requeue", id=ids)

    (record,) = [one for one in caplog.records if one.name == "kvqueue_fastapi.audit"]
    assert record.getMessage() == (
        f'action="requeue" ids={ids} count=2 client="testclient" user={name}'
    )


def test_actions_that_fail_or_are_refused_are_logged_too(
    keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    keeper.act("send-again", id=7)
    keeper.send("discard", token="x" * 43, id=7, sure="yes")
    keeper.act("pause", type="a\nb")

    sent, refused, paused = [one for one in caplog.records if one.name == "kvqueue_fastapi.audit"]
    assert sent.levelname == refused.levelname == "WARNING"
    assert 'action="send-again" ids=[7] count=0' in sent.getMessage()
    assert 'problem="refused: its token' in refused.getMessage()
    assert "\n" not in paused.getMessage()


def test_questions_and_readings_are_not_logged(
    keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kvqueue_fastapi.audit")
    (letter,) = keeper.dead(1)

    keeper.act("discard", id=letter)
    keeper.read("dead")

    assert [one for one in caplog.records if one.name == "kvqueue_fastapi.audit"] == []
