"""What is done to all dead letters, and what is told where it is not done to the end."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from kvqueue_fastapi import admin
from kvqueue_fastapi.dashboard import bulk
from kvqueue_fastapi.errors import StoreBusyError
from tests.dashboard.shop import Keeper, keeping, words

ACTIONS = [("requeue-all", "requeued"), ("discard-all", "discarded")]


def audited(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [one.__dict__["audit"] for one in caplog.records if one.name.endswith(".audit")]


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "SLICE", 2)


@pytest.mark.parametrize(("action", "done"), ACTIONS)
def test_those_that_die_after_the_question_are_left(keeper: Keeper, action: str, done: str) -> None:
    keeper.dead(1, 2)
    question = keeper.send(action, type="bad").text
    found = re.search(r'name="died_by_ms" value="(\d+)"', question)
    assert found is not None
    (late,) = keeper.dead(3)

    text = keeper.act(action, type="bad", sure="yes", died_by_ms=found[1])

    assert f"2 dead letters were {done}." in text
    assert [one.id for one in keeper.ask("dead_letters")] == [late]


@pytest.mark.parametrize(("action", "done"), ACTIONS)
def test_question_of_one_process_is_answered_in_another(
    tmp_path: Path, action: str, done: str
) -> None:
    url = str(tmp_path / "queue.db")
    with keeping(url) as keeper, keeping(url) as other:
        token = other.token()  # of a page, with a look at the queue as it was
        keeper.dead(1, 2)
        found = re.search(r'name="died_by_ms" value="(\d+)"', keeper.send(action).text)
        assert found is not None

        text = other.act(action, token=token, sure="yes", died_by_ms=found[1])

        assert f"2 dead letters were {done}." in text


def test_answer_without_what_was_asked_about_is_asked_again(keeper: Keeper) -> None:
    keeper.dead(1, 2)

    text = keeper.act("discard-all", type="bad", sure="yes")

    assert "Discard 2 dead letters?" in text
    assert len(keeper.ask("dead_letters")) == 2


@pytest.mark.parametrize(("action", "done"), ACTIONS)
def test_one_request_does_so_much_and_offers_to_go_on(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, action: str, done: str
) -> None:
    keeper.dead(1, 2, 3)
    monkeypatch.setattr(bulk, "BULK_S", 0)

    text = keeper.confirm(action, type="bad")
    assert f"Not done yet 2 dead letters were {done}. 1 is left." in text
    assert len(keeper.ask("dead_letters")) == 1

    assert f"1 dead letter was {done}." in keeper.confirm(action, type="bad")
    assert len(keeper.ask("dead_letters")) == 0


def test_nothing_done_is_no_good_news(keeper: Keeper) -> None:
    answer = keeper.send("requeue-all", type="bad", sure="yes", died_by_ms="9")

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
    text = keeper.confirm("requeue-all", type="bad")

    assert "2 messages were done before that and stay done" in text
    begun, ended = audited(caplog)
    assert (begun["stage"], begun["message_type"], "count" in begun) == ("begun", "bad", False)
    assert (ended["count"], ended["problem"]) == (2, "StoreBusyError")
