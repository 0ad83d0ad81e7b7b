"""Whatever comes from outside is taken, or refused by an error that names it."""

import base64
import math
import os
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kvqueue_fastapi import (
    InvalidKeyError,
    InvalidOptionError,
    KvQueueError,
    KvQueueSettings,
    Page,
    StoreError,
)
from kvqueue_fastapi.codec import checked_headers, decode_options, encode_options
from kvqueue_fastapi.keys import decode_key, encode_key_for_read, encode_key_for_write
from kvqueue_fastapi.listing import select
from kvqueue_fastapi.model import Options, type_problem
from kvqueue_fastapi.outgoing import SendOptions, prepare
from kvqueue_fastapi.store import open_store
from kvqueue_fastapi.store.sqlite.location import path_of
from tests.contract.harness import running

T = TypeVar("T")

HUGE: Final = 10**5_000
"""More digits than Python prints."""
SETTINGS: Final = KvQueueSettings()
quick = settings(max_examples=250, deadline=None, derandomize=True)
few = settings(quick, max_examples=60)


any_text = st.text(st.characters(), max_size=300)  # lone surrogates and control characters too
anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([HUGE, -HUGE]), st.floats(),
    any_text, st.binary(), st.decimals(), st.timedeltas(), st.datetimes(),
    st.lists(st.integers(), max_size=2), st.dictionaries(any_text, any_text, max_size=2),
    st.sampled_from([object, ..., frozenset()]),
)  # fmt: skip


def taken(call: Callable[[], T]) -> T | None:
    """What came of it; None: it was refused in words that help."""
    try:
        return call()
    except (InvalidOptionError, InvalidKeyError) as error:
        return says_enough(str(error))


async def answered(call: Callable[[], Awaitable[T]]) -> T | None:
    """`taken`, for what is awaited."""
    try:
        return await call()
    except (InvalidOptionError, InvalidKeyError) as error:
        return says_enough(str(error))


def says_enough(text: str) -> None:
    """Fail unless it is a problem and a remedy, in a few lines."""
    assert 30 < len(text) < 1_200
    assert ". " in text


@quick
@given(kind=any_text | anything)
def test_message_type_is_taken_or_named(kind: Any) -> None:
    problem = type_problem(kind)

    if problem is None:
        assert 1 <= len(kind) <= 255
        assert kind.encode().decode() == kind
    else:
        assert problem.startswith("Message type ")
        says_enough(problem)


options_of_a_send = st.fixed_dictionaries(
    {},
    optional={
        "delay": anything,
        "deliver_at": anything,
        "backoff_schedule": anything | st.lists(anything, max_size=3),
        "keys_if_undelivered": anything | st.lists(anything | st.lists(anything, max_size=2)),
        "idempotency_key": anything,
        "ordering_key": anything,
        "priority": anything,
        "headers": anything | st.dictionaries(st.binary() | any_text, anything, max_size=3),
    },
)


@quick
@given(options=options_of_a_send)
@example(options={"delay": math.nan})
@example(options={"delay": timedelta.max})
@example(options={"delay": -timedelta.resolution})
@example(options={"deliver_at": datetime.max.replace(tzinfo=UTC)})
@example(options={"deliver_at": datetime.min.replace(tzinfo=UTC)})
@example(options={"backoff_schedule": [HUGE]})
@example(options={"backoff_schedule": [0.1] * 21})
@example(options={"headers": {"a": HUGE}})
@example(options={"headers": {"\ud800": "x"}})
@example(options={"headers": {"a": "x" * 9_000}})
@example(options={"keys_if_undelivered": [("k", HUGE)]})
@example(options={"keys_if_undelivered": [()]})
@example(options={"priority": True})
@example(options={"priority": HUGE})
def test_options_of_a_send_are_stored_or_refused_by_name(options: dict[str, Any]) -> None:
    send = taken(lambda: prepare("n", 1, SendOptions(**options), SETTINGS, lambda _type: None))

    if send is not None:
        assert 0 <= send.delay_ms <= 30 * 86_400_000
        assert abs(send.priority) <= 1_000_000
        decode_options(send.options)  # what was stored can be read


@quick
@given(headers=st.dictionaries(any_text, any_text, max_size=5))
def test_headers_come_back_or_are_refused(headers: dict[str, str]) -> None:
    stored = taken(lambda: (encode_options(Options(headers=checked_headers(headers))),))

    assert stored is None or decode_options(stored[0]).headers == headers


@quick
@given(key=st.lists(anything, max_size=6) | st.tuples(st.binary() | st.floats()) | anything)
@example(key=("x" * 2_046,))
@example(key=("x" * 2_047,))
@example(key=((1 << 2_040) - 1,))
@example(key=(1 << 2_040,))
@example(key=("\0" * 1_022,))
@example(key=("\0" * 1_024,))
def test_key_comes_back_or_is_refused(key: Any) -> None:
    encoded = taken(lambda: encode_key_for_write(key))

    assert encoded is None or 0 < len(encoded) <= 2_048
    assert encoded is None or encode_key_for_read(decode_key(encoded)) == encoded


encoded_numbers = st.integers().map(lambda n: base64.urlsafe_b64encode(str(n).encode()).decode())


@few
@given(cursor=any_text | encoded_numbers | anything, limit=st.just(2) | anything)
@example(cursor=base64.urlsafe_b64encode(b"9" * 5_000).decode(), limit=2)
@example(cursor=base64.urlsafe_b64encode(str(-(1 << 63)).encode()).decode(), limit=2)
@example(cursor=base64.urlsafe_b64encode(str(1 << 63).encode()).decode(), limit=2)
@example(cursor=None, limit=HUGE)
async def test_cursor_and_limit_of_a_page_are_taken_or_refused(cursor: Any, limit: Any) -> None:
    async with running(":memory:", listen=False) as bench:
        await bench.queue.send_messages([("n", number) for number in range(4)])

        for pages in (bench.admin.messages, bench.admin.dead_letters):
            page = await answered(lambda: pages(cursor=cursor, limit=limit))  # noqa: B023
            assert page is None or isinstance(page, Page)


@few
@given(filters=st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("type", "state", "ordering_key", "search"), anything)
))  # fmt: skip
async def test_filters_of_a_page_are_taken_or_refused(filters: dict[str, Any]) -> None:
    async with running(":memory:", listen=False) as bench:
        await answered(lambda: bench.admin.messages(**filters))


@few
@given(value=anything)
@example(value=HUGE)
async def test_ids_and_types_that_a_keeper_gives_are_taken_or_refused(value: Any) -> None:
    async with running(":memory:", listen=False) as bench:
        assert await bench.admin.message(value) is None
        assert await bench.admin.requeue([value]) == {}
        assert await bench.admin.discard([value]) == []
        for call in (bench.admin.pause, bench.admin.resume, bench.admin.requeue_all):
            await answered(lambda: call(value))  # noqa: B023
        with pytest.raises(KvQueueError, match="cannot be cancelled"):
            await bench.admin.cancel(value)


@quick
@given(cursor=any_text | st.binary().map(base64.urlsafe_b64encode).map(bytes.decode) | anything)
@example(cursor="=")
@example(cursor="AmIA\n")
@example(cursor=HUGE)
def test_cursor_of_a_list_continues_it_or_is_refused(cursor: Any) -> None:
    whole = select(("a",), None, None)
    for reverse in (False, True):
        rest = taken(lambda: whole.beyond(cursor, reverse=reverse))  # noqa: B023

        assert rest is None or rest.common == whole.common
        assert rest is None or rest.start >= whole.start or rest.end <= whole.end


NAMES: Final = [name for name in KvQueueSettings.model_fields if name != "url"]
LIMITED: Final = {
    "concurrency": ("0", "greater than or equal to 1"),
    "sync_concurrency": ("10001", "less than or equal to 10000"),
    "lease_s": ("0.5", "greater than or equal to 1"),
    "max_crashes": ("0", "greater than or equal to 1"),
    "backoff_schedule_s": ("86401", "less than or equal to 86400"),
    "retry_jitter": ("1.5", "less than or equal to 1"),
    "shutdown_timeout_s": ("-1", "greater than or equal to 0"),
    "max_payload_bytes": ("16777217", "less than or equal to 16777216"),
    "max_pending": ("0", "greater than or equal to 1"),
    "idempotency_window_s": ("0", "greater than 0"),
    "dead_letter_retention_s": ("315360001", "less than or equal to 315360000"),
    "poll_interval_s": ("3601", "less than or equal to 3600"),
    "unhandled": ("drop", "'leave' or 'fail'"),
    "sqlite_synchronous": ("OFF", "'FULL', 'NORMAL' or 'EXTRA'"),
    "postgres_schema": ('a"b', "^[A-Za-z_][A-Za-z0-9_]{0,62}$"),
    "postgres_listen_url": ("http://db", "^postgres(ql)?://"),
    "postgres_pool_size": ("101", "less than or equal to 100"),
    "listen": ("maybe", "valid boolean"),
}


@pytest.fixture(scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def problem_of(environment: pytest.MonkeyPatch, name: str, text: str) -> str:
    """The error of a variable; "": it was taken."""
    environment.setenv(f"KVQUEUE_{name.upper()}", text)
    try:
        KvQueueSettings()
    except ValidationError as error:
        return str(error)
    finally:
        environment.delenv(f"KVQUEUE_{name.upper()}")
    return ""


@pytest.mark.parametrize("name", NAMES)
def test_variable_outside_its_limits_is_named_with_value_and_limit(
    name: str, environment: pytest.MonkeyPatch
) -> None:
    value, limit = LIMITED[name]

    problem = problem_of(environment, name, value)

    assert "KVQUEUE_" in problem
    assert f"\n{name}" in problem
    assert limit in problem
    assert value in problem


@quick
@given(
    name=st.sampled_from(NAMES),
    text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
    | st.sampled_from(["9" * 5_000, "1e400", "nan", "-inf", "[" * 5_000, "[1e400]", "{}", "0x10"])
    | st.integers().map(str)
    | st.floats().map(str),
)
def test_garbage_in_the_environment_is_taken_as_a_setting_or_named(
    name: str, text: str, environment: pytest.MonkeyPatch
) -> None:
    problem = problem_of(environment, name, text)

    assert not problem or (f"\n{name}" in problem and "KVQUEUE_" in problem)
    assert len(problem) < 4_000


@few
@given(name=st.text(st.characters(exclude_characters="/"), max_size=80))
@example(name="\ud800")
@example(name="\udc80")
@example(name="x" * 300)
@example(name=":memory: ")
@example(name="a?mode=memory")
@example(name="a%00b#c")
@example(name="..")
async def test_file_of_any_name_is_opened_or_refused(name: str) -> None:
    with TemporaryDirectory() as where:
        try:
            store = await open_store(f"{where}/{name}", SETTINGS)
        except (InvalidOptionError, StoreError) as error:
            assert len(str(error)) > 20  # noqa: PT017 because both are right
        else:
            await store.close()
            assert os.listdir(where) == [name]  # noqa: PTH208 because it is what a shell shows


@few
@given(url=anything | any_text.map("sqlite:///{}".format) | any_text.map(":{}".format))
@example(url="postgresql://localhost/x")
@example(url="sqlite://x")
@example(url=HUGE)
def test_url_is_a_path_or_refused(url: Any) -> None:
    path = taken(lambda: path_of(url))

    assert path is None or path == ":memory:" or Path(path).is_absolute()


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "name", ["limit", "cursor", "state", "type", "search", "priority", "delay"]
)
async def test_value_that_cannot_be_printed_is_refused_by_its_type(name: str) -> None:
    async with running(":memory:", listen=False) as bench:
        of_send = name in {"priority", "delay"}
        call = partial(bench.queue.send_message, "n") if of_send else bench.admin.messages

        with pytest.raises(InvalidOptionError, match="a Unprintable"):
            await call(**{name: Unprintable()})
