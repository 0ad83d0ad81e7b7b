"""What is done to all dead letters, and what is told where it is not done to the end."""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kvqueue_fastapi import admin
from kvqueue_fastapi.dashboard import bulk
from kvqueue_fastapi.errors import StoreBusyError
from tests.dashboard.shop import Keeper, bounds, keeping, words

ACTIONS = [("requeue-all", "requeued"), ("discard-all", "discarded")]


def audited(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [one.__dict__["audit"] for one in caplog.records if one.name.endswith(".audit")]


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "SLICE", 2)


@pytest.mark.parametrize(("action", "done"), ACTIONS)
def test_those_that_die_after_the_question_are_left(keeper: Keeper, action: str, done: str) -> None:
    keeper.dead(1, 2)
    asked = keeper.send(action, type="bad")
    (late,) = keeper.dead(3)

    text = keeper.act(action, type="bad", sure="yes", **bounds(asked.text))

    assert "What dies from now on is left as it is." in words(asked)

    assert f"2 dead letters were {done}." in text
    assert [one.id for one in keeper.ask("dead_letters")] == [late]


@pytest.mark.parametrize(("action", "done"), ACTIONS)
def test_one_that_was_sent_before_and_dies_after_the_question_is_left(
    keeper: Keeper, action: str, done: str
) -> None:
    (early,) = keeper.given("strict", -1)
    keeper.ask("pause", "strict")
    keeper.dead(1)
    asked = keeper.send(action).text
    keeper.ask("resume", "strict")
    (late,) = keeper.dead(2)

    text = keeper.act(action, sure="yes", **bounds(asked))

    assert f"1 dead letter was {done}." in text
    assert [one.id for one in keeper.ask("dead_letters")] == [early, late]


@pytest.mark.parametrize(("action", "done"), ACTIONS)
def test_question_of_one_process_is_answered_in_another(
    tmp_path: Path, action: str, done: str
) -> None:
    url = str(tmp_path / "queue.db")
    with keeping(url) as keeper, keeping(url) as other:
        token = other.token()  # of a page, with a look at the queue as it was
        keeper.dead(1, 2)
        asked = keeper.send(action).text

        text = other.act(action, token=token, sure="yes", **bounds(asked))

        assert f"2 dead letters were {done}." in text


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"count": "2"},
        {"died_by_ms": "9" * 18},
        {"died_by_ms": "", "count": "2"},
        {"died_by_ms": "1e3", "count": "2"},
        {"died_by_ms": "٣", "count": "2"},
        {"died_by_ms": "9" * 21, "count": "2"},
        {"died_by_ms": "9" * 18, "count": "all"},
    ],
)
def test_answer_without_what_was_asked_about_is_asked_again(
    keeper: Keeper, fields: dict[str, str]
) -> None:
    keeper.dead(1, 2)

    text = keeper.act("discard-all", type="bad", sure="yes", **fields)

    assert "Discard 2 dead letters?" in text
    assert len(keeper.ask("dead_letters")) == 2


def test_time_that_no_store_can_hold_is_told(keeper: Keeper) -> None:
    keeper.dead(1, 2)

    text = keeper.act("discard-all", type="bad", sure="yes", died_by_ms="9" * 20, count="2")

    assert "died_by_ms is 99999999999999999999, allowed is a time" in text
    assert len(keeper.ask("dead_letters")) == 2


@pytest.mark.parametrize(("action", "done"), ACTIONS)
def test_one_request_does_so_much_and_offers_to_go_on(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, action: str, done: str
) -> None:
    keeper.dead(1, 2, 3)
    asked = keeper.send(action, type="bad").text
    (late,) = keeper.dead(4)
    monkeypatch.setattr(bulk, "BULK_S", 0)

    answer = keeper.send(action, type="bad", sure="yes", **bounds(asked))
    assert f"Not done yet 2 dead letters were {done}. At most 1 is left." in words(answer)
    assert len(keeper.ask("dead_letters")) == 2

    text = keeper.act(action, type="bad", sure="yes", **bounds(answer.text))
    assert f"1 dead letter was {done}." in text
    assert [one.id for one in keeper.ask("dead_letters")] == [late]


@pytest.mark.parametrize(("action", "done"), ACTIONS)
def test_slice_that_somebody_else_took_is_told_and_counted_out(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, action: str, done: str
) -> None:
    keeper.dead(1, 2, 3)
    asked = keeper.send(action, type="bad").text
    monkeypatch.setattr(bulk, "BULK_S", 0)
    for verb in ("requeue", "discard"):
        monkeypatch.setattr(admin.KvQueueAdmin, verb, taken_by_another(verb))

    text = keeper.act(action, type="bad", sure="yes", **bounds(asked))

    assert f"No dead letter was {done} so far: somebody else took them first." in text
    assert "At most 1 is left." in text


def taken_by_another(verb: str) -> Callable[..., Awaitable[Any]]:
    act = getattr(admin.KvQueueAdmin, verb)

    async def late(self: admin.KvQueueAdmin, ids: list[int]) -> Any:
        await act(self, ids)
        return await act(self, ids)

    return late


def test_nothing_done_is_no_good_news(keeper: Keeper) -> None:
    answer = keeper.send("requeue-all", type="bad", sure="yes", died_by_ms="9", count="1")

    page = keeper.client.get(str(answer.url.join(answer.headers["location"])))

    assert 'class="news plain"' in page.text
    assert "No dead letter was requeued: none was left." in words(page)


def test_what_was_done_before_the_store_failed_is_told_and_logged(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kvqueue_fastapi.audit")
    keeper.dead(1, 2, 3)
    requeue = admin.KvQueueAdmin.requeue

    async def requeue_once(self: admin.KvQueueAdmin, ids: list[int]) -> dict[int, int]:
        monkeypatch.setattr(admin.KvQueueAdmin, "requeue", fail)
        return await requeue(self, ids)

    async def fail(self: admin.KvQueueAdmin, ids: list[int]) -> dict[int, int]:
        raise StoreBusyError("The database is locked.")

    monkeypatch.setattr(admin.KvQueueAdmin, "requeue", requeue_once)
    died_at_ms = keeper.ask("last_death_ms")
    text = keeper.confirm("requeue-all", type="bad")

    assert "2 messages were done before that and stay done" in text
    begun, ended = audited(caplog)
    assert begun["died_by_ms"] == ended["died_by_ms"] == died_at_ms
    assert (begun["stage"], begun["message_type"], "count" in begun) == ("begun", "bad", False)
    assert (ended["count"], ended["problem"]) == (2, "StoreBusyError")
