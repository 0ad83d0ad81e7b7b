"""Cases 74 to 82: a failed message comes again, and is kept when it has failed too often."""

import asyncio
import json
import logging
import math
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kvqueue_fastapi import InvalidKeyError, InvalidOptionError, on_queue_message
from kvqueue_fastapi.keys import encode_key_for_write
from kvqueue_fastapi.model import AtomicWrite, KvSet, Send
from tests.contract.harness import Hand, ManualClock, Seen, by_hand, running, until

ERROR = ValueError("it fails always")


@on_queue_message("fails")
async def fails() -> None:
    raise ERROR


async def deliveries(hand: Hand, clock: ManualClock, until_ms: int, step_ms: int = 50) -> list[int]:
    """When messages were handled, in milliseconds from now."""
    began_ms, came = clock.now_ms, list[int]()
    while clock.now_ms - began_ms <= until_ms:
        came += [clock.now_ms - began_ms] * await hand.turn()
        clock.advance(step_ms)
    return came


@pytest.mark.case(74)
async def test_default_schedule_gives_six_deliveries_four_of_them_in_ten_seconds(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    async with by_hand(tmp_path, clock, fails) as hand:
        await hand.store.commit(AtomicWrite(sends=[Send("fails", "1")]))

        came = await deliveries(hand, clock, until_ms=200_000)

    assert came == [0, 100, 1_100, 6_100, 36_100, 96_100]
    assert sum(at <= 10_000 for at in came) == 4


@pytest.mark.case(75)
@pytest.mark.parametrize(
    ("schedule", "count"), [([], 1), ([0.02], 2), ([0, 0, 0], 4), ((0,) * 20, 21)]
)
async def test_message_is_delivered_once_and_once_for_each_step_of_its_schedule(
    place: str, schedule: Sequence[float], count: int
) -> None:
    seen = Seen()

    async def fail(data: int) -> None:
        seen.add(data)
        raise ERROR

    async with running(place, callbacks={"fails": fail}) as bench:
        await bench.queue.send_message("fails", 1, backoff_schedule=schedule)

        await seen.stay(count)
        (dead,) = await bench.admin.dead_letters()

    assert dead.attempt == len(dead.errors) == count


@pytest.mark.case(76)
@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        ([1] * 21, "max 20 intervals allowed: received 21"),
        ([0, 86_400.001], "interval at index 1 is invalid"),
        ([0, 0, -1], "interval at index 2 is invalid"),
        ([math.nan], "interval at index 0 is invalid: It cannot be NaN"),
        ([True], "interval at index 0 is invalid"),
        (5, "a list or tuple of seconds is expected: received 5"),
        ("12", "a list or tuple of seconds is expected: received '12'"),
    ],
)
async def test_wrong_schedule_is_refused_with_the_index_and_nothing_stored(
    place: str, schedule: Any, text: str
) -> None:
    async with running(place, listen=False) as bench:
        with pytest.raises(InvalidOptionError, match=text) as caught:
            await bench.queue.send_message("n", 1, backoff_schedule=schedule)

        assert isinstance(caught.value, TypeError)
        assert not await bench.admin.messages()


@pytest.mark.case(77)
async def test_giving_up_writes_the_envelope_under_all_keys_in_one_version(tmp_path: Path) -> None:
    keys = [("lost", 1), ("audit", "orders", b"\0")]
    clock = ManualClock()
    async with by_hand(tmp_path, clock, fails, backoff_schedule_s=(0.01,)) as hand:
        old = KvSet(encode_key_for_write(keys[0]), b"1", expire_in_ms=10**9)
        await hand.store.commit(AtomicWrite(mutations=[old]))
        await hand.store.commit(AtomicWrite(sends=[undelivered("fails", keys)]))
        await deliveries(hand, clock, until_ms=200)

    rows = {key: rest for key, *rest in read(tmp_path, "SELECT * FROM kvqueue_kv")}
    first, second = (rows[encode_key_for_write(key)] for key in keys)
    assert first == second
    assert json.loads(first[0]) == {"type": "fails", "data": {"n": 7}}
    assert first[3] is None
    assert len(rows) == 2


@pytest.mark.case(78)
async def test_message_without_keys_is_kept_as_a_dead_letter_and_logged(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(place, fails, backoff_schedule_s=()) as bench:
        message_id = await bench.queue.send_message("fails", {"n": 7}, headers={"by": "me"})
        await until(bench.admin.dead_letters)
        (dead,) = await bench.admin.dead_letters()
        (counts,) = await bench.admin.counts()

    assert (dead.id, dead.data, dead.headers) == (message_id, {"n": 7}, {"by": "me"})
    assert dead.reason == "ValueError: it fails always"
    assert "raise ERROR" in dead.errors[0].trace
    assert counts.dead == 1
    assert "failed for the last time (1); it is a dead letter now" in caplog.text


@pytest.mark.case(79)
@pytest.mark.parametrize(
    ("keys", "error", "text"),
    [
        ([()], InvalidKeyError, "key cannot be empty"),
        ([(b"x" * 2_047,)], InvalidKeyError, "Key too large for write"),
        ([("k", index) for index in range(11)], InvalidOptionError, "max 10.*received 11"),
        ([("k", None)], InvalidKeyError, "expected string, number, bigint"),
        (["abc"], InvalidKeyError, "abc"),
        ("abc", InvalidOptionError, "keys_if_undelivered is 'abc'"),
        (None, InvalidOptionError, "keys_if_undelivered is None"),
    ],
)
async def test_wrong_keys_if_undelivered_are_refused_when_sent(
    place: str, keys: Any, error: type[Exception], text: str
) -> None:
    async with running(place, listen=False) as bench:
        with pytest.raises(error, match=text):
            await bench.queue.send_message("n", 1, keys_if_undelivered=keys)

        assert not await bench.admin.messages()


@pytest.mark.case(80)
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_failing_handler_is_retried_while_other_messages_go_on(
    place: str,
    is_async: bool,  # noqa: FBT001 because pytest gives it
) -> None:
    seen = Seen()

    def sync(data: str) -> None:
        if seen.add(data) < 3 and data == "bad":
            raise ERROR

    async def handle(data: str) -> None:
        sync(data)

    async with running(
        place, callbacks={"n": handle if is_async else sync}, backoff_schedule_s=(0.05, 0.05)
    ) as bench:
        await bench.queue.send_message("n", "bad")
        await seen.reach(1)
        await bench.queue.send_messages([("n", f"good{index}") for index in range(20)])

        came = Counter(await seen.stay(23))

    assert came["bad"] == 3
    assert set(came.values()) == {3, 1}


@pytest.mark.case(81)
async def test_failing_handlers_never_stop_the_listener_and_are_logged_with_traceback(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    async with running(
        place, fails, callbacks={"good": seen.take}, backoff_schedule_s=(0,)
    ) as bench:
        await bench.queue.send_messages([("fails", None)] * 10)
        await bench.queue.send_message("good", 1)
        await seen.reach(1)
        await until(lambda: dead_count(bench.admin, 10))

    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(failures) == 20
    assert all(record.exc_info and record.exc_info[1] is ERROR for record in failures)
    assert {record.message_type for record in failures} == {"fails"}  # type: ignore[attr-defined]


@pytest.mark.case(82)
async def test_retried_message_keeps_its_payload_and_delays_nobody_else(place: str) -> None:
    seen = Seen()

    async def handle(data: dict[str, Any]) -> None:
        if seen.add(data) == 1 and data["n"] == 0:
            raise ERROR

    async with running(
        place, callbacks={"n": handle}, backoff_schedule_s=(0.2,), concurrency=1
    ) as bench:
        await bench.queue.send_messages([("n", {"n": number}) for number in range(5)])

        came = await seen.reach(6)

    assert [data["n"] for data in came] == [0, 1, 2, 3, 4, 0]
    assert came[0] == came[5]


async def dead_count(admin: Any, count: int) -> bool:
    await asyncio.sleep(0)
    return len(await admin.dead_letters(limit=1_000)) == count


def undelivered(message_type: str, keys: list[Any]) -> Send:
    options = {"keys_if_undelivered": [encode_key_for_write(key).hex() for key in keys]}
    return Send(message_type, '{"n": 7}', options=json.dumps(options))


def read(where: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(where / "q.db")) as connection, connection:
        rows = connection.execute(statement).fetchall()
    connection.close()
    return rows
