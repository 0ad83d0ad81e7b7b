"""When a message is tried again, and when it is given up."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from kvqueue_fastapi.errors import InvalidOptionError
from kvqueue_fastapi.retry import (
    MAX_DELAY_S,
    backoff_schedule_ms,
    deliver_at_ms,
    duration_ms,
    next_delay_ms,
    schedule_of,
)

DEFAULT_MS = (100, 1_000, 5_000, 30_000, 60_000)


@pytest.mark.parametrize(
    ("delay", "milliseconds"),
    [
        (0, 0),
        (-0.0, 0),
        (1, 1_000),
        (0.0001, 1),
        (0.069, 69),
        (1.001, 1_001),
        (2.0001, 2_001),
        (timedelta(microseconds=1), 1),
        (timedelta(milliseconds=69), 69),
        (timedelta(days=30), 2_592_000_000),
        (MAX_DELAY_S, 2_592_000_000),
    ],
)
def test_delay_is_whole_milliseconds_and_never_shorter(
    delay: float | timedelta, milliseconds: int
) -> None:
    assert duration_ms(delay, name="Delay", limit_s=MAX_DELAY_S) == milliseconds


def test_thousandths_of_a_second_stay_what_they_are() -> None:
    given = [*range(100_000), *range(2_592_000_000 - 1_000, 2_592_000_000)]

    read = [duration_ms(thousandths / 1000, name="D", limit_s=MAX_DELAY_S) for thousandths in given]

    assert read == given


@pytest.mark.parametrize(
    ("delay", "text"),
    [
        (-1, "Delay must be >= 0: received -1. "),
        (timedelta(-1), "Delay must be >= 0: received -86400.0. "),
        (float("-inf"), "Delay must be >= 0: received -inf. "),
        (2_592_000.001, "Delay cannot be greater than 30 days: received 2592000.001. "),
        (
            timedelta(days=30, microseconds=1),
            "Delay cannot be greater than 30 days: received 2592000.000001",
        ),
        (float("inf"), "Delay cannot be greater than 30 days: received inf. "),
        (float("nan"), "Delay cannot be NaN. "),
        (True, "Delay must be seconds or a timedelta: received True. "),
        ("5", "Delay must be seconds or a timedelta: received '5'. "),
        (None, "Delay must be seconds or a timedelta: received None. "),
        ([1], "Delay must be seconds or a timedelta: received [1]. "),
    ],
)
def test_delay_outside_its_limits_is_named(delay: Any, text: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        duration_ms(delay, name="Delay", limit_s=MAX_DELAY_S)

    assert str(caught.value).startswith(text)
    assert isinstance(caught.value, TypeError)


def test_delay_too_long_for_python_to_print_is_refused_too() -> None:
    with pytest.raises(InvalidOptionError, match="greater than 30 days: received inf"):
        duration_ms(10**5000, name="Delay", limit_s=MAX_DELAY_S)
    with pytest.raises(InvalidOptionError, match=">= 0: received -inf"):
        duration_ms(-(10**5000), name="Delay", limit_s=MAX_DELAY_S)


@pytest.mark.parametrize(
    ("limit_s", "text"), [(86_400, "24 hours"), (172_800, "2 days"), (0.5, "0.5 seconds")]
)
def test_limit_is_told_in_a_unit_that_reads_well(limit_s: float, text: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"^Wait cannot be greater than {text}: "):
        duration_ms(200_000, name="Wait", limit_s=limit_s)


def test_backoff_schedule_takes_seconds_and_timedeltas() -> None:
    schedule = backoff_schedule_ms([0.1, timedelta(seconds=1), 86_400])

    assert schedule == (100, 1_000, 86_400_000)
    assert backoff_schedule_ms(()) == ()
    assert len(backoff_schedule_ms([0] * 20)) == 20


def test_backoff_schedule_of_more_than_20_steps_is_refused() -> None:
    with pytest.raises(InvalidOptionError) as caught:
        backoff_schedule_ms([1] * 21)

    assert str(caught.value).startswith(
        "Invalid backoffSchedule, max 20 intervals allowed: received 21. "
    )


@pytest.mark.parametrize("step", [-1, float("nan"), 86_400.001, float("inf"), None, "1", True])
def test_wrong_backoff_step_is_named_by_its_index(step: Any) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        backoff_schedule_ms([0, 1, step])

    assert str(caught.value).startswith(
        "Invalid backoffSchedule, interval at index 2 is invalid: It "
    )
    assert isinstance(caught.value.__cause__, InvalidOptionError)


@pytest.mark.parametrize("schedule", ["1,5", b"15", 5, None, {1, 5}, {1: 5}, iter([1])])
def test_backoff_schedule_that_is_no_list_is_refused(schedule: Any) -> None:
    with pytest.raises(InvalidOptionError, match="a list or tuple of seconds is expected"):
        backoff_schedule_ms(schedule)


def test_message_with_five_steps_is_delivered_six_times() -> None:
    delays = [next_delay_ms(failures, DEFAULT_MS) for failures in range(1, 8)]

    assert delays == [100, 1_000, 5_000, 30_000, 60_000, None, None]


def test_empty_schedule_gives_up_at_the_first_failure() -> None:
    assert next_delay_ms(1, ()) is None


def test_jitter_adds_at_most_its_share_of_the_step() -> None:
    least = next_delay_ms(2, DEFAULT_MS, jitter=0.5, random=lambda: 0.0)
    middle = next_delay_ms(2, DEFAULT_MS, jitter=0.5, random=lambda: 0.5)
    most = next_delay_ms(2, DEFAULT_MS, jitter=1.0, random=lambda: 0.9999)

    assert (least, middle, most) == (1_000, 1_250, 2_000)


def test_jitter_takes_its_chance_from_python_by_default() -> None:
    delays = {next_delay_ms(5, DEFAULT_MS, jitter=1.0) for _ in range(50)}

    assert all(delay is not None and 60_000 <= delay <= 120_000 for delay in delays)
    assert len(delays) > 1


def test_own_schedule_wins_over_the_handlers_and_that_over_the_settings() -> None:
    assert schedule_of((1,), (2,), (3,)) == (1,)
    assert schedule_of(None, (2,), (3,)) == (2,)
    assert schedule_of(None, None, (3,)) == (3,)
    assert schedule_of((), (2,), (3,)) == ()
    assert schedule_of(None, (), (3,)) == ()


def test_deliver_at_is_utc_whatever_its_time_zone() -> None:
    berlin = timezone(timedelta(hours=1))

    at_ms = deliver_at_ms(datetime(1970, 1, 1, 1, 0, 5, 1, tzinfo=berlin))

    assert at_ms == 5_001
    assert deliver_at_ms(datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)) == -1_000
    assert deliver_at_ms(datetime.max.replace(tzinfo=timezone(timedelta(hours=-23)))) > 0


@pytest.mark.parametrize("moment", [datetime(2026, 1, 1), None, 5, "2026-01-01"])  # noqa: DTZ001 naive on purpose
def test_deliver_at_needs_a_datetime_with_a_time_zone(moment: Any) -> None:
    with pytest.raises(InvalidOptionError, match="deliver_at must be a datetime with a time zone"):
        deliver_at_ms(moment)


def test_deliver_at_reaches_30_days_ahead_and_any_time_back() -> None:
    last = datetime(1970, 1, 31, tzinfo=UTC)

    assert deliver_at_ms(last, now_ms=0) == 2_592_000_000
    assert deliver_at_ms(last, now_ms=10**13) == 2_592_000_000
    with pytest.raises(InvalidOptionError, match="cannot be more than 30 days ahead: received"):
        deliver_at_ms(last + timedelta(microseconds=1), now_ms=0)
