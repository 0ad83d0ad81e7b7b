import time
from typing import Any

import pytest

from kvqueue_fastapi.dashboard import wording
from kvqueue_fastapi.dashboard.pulse import HEIGHT, pulse_of
from kvqueue_fastapi.keeper import Minute
from kvqueue_fastapi.search import parse_search

MINUTE_MS = 60_000
NOW_MS = 1_000_000 * MINUTE_MS + 30_000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "\N{EN DASH}"),
        (0, "0 ms"),
        (0.0421, "42 ms"),
        (1, "1 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3_599, "59 min 59 s"),
        (3_600, "1 h"),
        (90_061, "1 d 1 h"),
        (864_000_000, "10000 d"),
    ],
)
def test_spans_of_time_have_one_unit_or_two(seconds: float | None, text: str) -> None:
    assert wording.duration(seconds) == text


def test_times_are_told_as_seen_from_now() -> None:
    now_ms = time.time() * 1_000

    assert wording.ago(int(now_ms)) == "now"
    assert wording.ago(int(now_ms) - 125_500) == "2 min 5 s ago"
    assert wording.ago(int(now_ms) + 3_600_900) == "in 1 h"


@pytest.mark.parametrize(
    ("at_ms", "text"),
    [
        (0, "1970-01-01 00:00:00.000 UTC"),
        (1_795_397_123_007, "2026-11-23 01:25:23.007 UTC"),
        (-1, "1969-12-31 23:59:59.999 UTC"),
        (2**63 - 1, "9223372036854775807 ms"),
        (-(2**63), "-9223372036854775808 ms"),
    ],
)
def test_every_time_that_a_store_can_hold_can_be_written(at_ms: int, text: str) -> None:
    assert wording.utc(at_ms) == text
    assert wording.ago(at_ms)


@pytest.mark.parametrize("name", ["order.created", "hold up", 'say "x"', "a:b", "größe/1", "key:1"])
def test_search_for_a_type_finds_that_type(name: str) -> None:
    search = parse_search(wording.of_type(name))

    assert search.text is None
    assert search.type == name or (search.type_pattern or "").split("*") == name.split('"')


@pytest.mark.parametrize(
    ("part", "text"), [(0, "0 %"), (0.0004, "0.0 %"), (0.021, "2.1 %"), (0.5, "50 %"), (1, "100 %")]
)
def test_shares_are_written_in_per_cent(part: float, text: str) -> None:
    assert wording.share(part) == text


def deep() -> Any:
    data: list[Any] = []
    for _ in range(100_000):
        data = [data]
    return data


def test_payload_that_is_too_deep_is_said_to_be() -> None:
    assert wording.as_json(deep()) == "(nested too deeply to be shown)"


# --- the pulse ---


def test_pulse_of_nothing_is_flat() -> None:
    pulse = pulse_of([], NOW_MS)

    assert (pulse.handled, pulse.failed, pulse.per_minute, pulse.failure_share) == (0, 0, 0, 0)
    assert (pulse.good, pulse.bad) == ("", "")


def test_pulse_sums_the_last_hour_and_leaves_the_rest() -> None:
    now = NOW_MS - 30_000
    minutes = [
        Minute("a", now, 11, 0, 0),
        Minute("a", now - 5 * MINUTE_MS, 44, 3, 1),
        Minute("b", now - 5 * MINUTE_MS, 0, 1, 0),
        Minute("a", now - 59 * MINUTE_MS, 45, 0, 0),
        Minute("a", now - 60 * MINUTE_MS, 1_000, 0, 0),
        Minute("a", now + MINUTE_MS, 1_000, 0, 0),
    ]

    pulse = pulse_of(minutes, NOW_MS)

    assert (pulse.handled, pulse.failed, pulse.most) == (100, 5, 49)
    # five minutes, and half of this one
    assert pulse.per_minute == 10
    assert pulse.failure_share == pytest.approx(5 / 105)
    assert pulse.good.count("M") == 3
    assert pulse.bad.count("M") == 1
    assert f"v-{(HEIGHT - 1) * 45 / 49:.1f}" in pulse.good
