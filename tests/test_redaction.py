"""What is shown and logged of messages: what the app's hook lets through, and never at length."""

import asyncio
import logging
import re
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from injector import Injector
from pydantic import BaseModel, Field, field_validator

from kvqueue_fastapi import (
    InvalidOptionError,
    Kv,
    KvQueue,
    KvQueueAdmin,
    KvQueueModule,
    KvQueueSettings,
    MessageRecord,
    Redact,
    Reject,
)
from tests.contract.harness import Bench, Seen, running, until

EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+")
LOGIN = {"user": "ada", "password": "c0ffee", "mail": ["ada@example.com", {"password": 1}]}
HIDDEN = {"user": "ada", "password": "[hidden]", "mail": ["[e-mail]", {"password": "[hidden]"}]}


def hide(message_type: str, value: Any) -> Any:
    """What the README shows: passwords by their key, e-mail addresses wherever they are."""
    if isinstance(value, dict):
        return {
            key: "[hidden]" if key == "password" else hide(message_type, inner)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [hide(message_type, inner) for inner in value]
    return EMAIL.sub("[e-mail]", value) if isinstance(value, str) else value


@asynccontextmanager
async def hiding(
    where: Path, redact: Redact | None, *, listen: bool = False, **callbacks: Callable[..., Any]
) -> AsyncGenerator[Bench]:
    """Run a queue with a hook."""
    settings = KvQueueSettings(listen=listen, backoff_schedule_s=())
    module = KvQueueModule(str(where / "q.db"), settings=settings, redact=redact)
    injector = Injector([module])
    for message_type, callback in callbacks.items():
        injector.get(KvQueue).add_listener(message_type, callback)
    async with module.running(injector) as queue:
        yield Bench(queue, injector.get(KvQueueAdmin), injector.get(Kv))


async def the_message(bench: Bench, message_id: int) -> MessageRecord:
    record = await bench.admin.message(message_id)
    assert record is not None
    return record


async def refuse(data: Any) -> None:
    raise ValueError(f"no mailbox for {data['mail'][0]}")


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """As the user's console shows it, tracebacks included."""
    lines = [record for record in caplog.records if record.name == "kvqueue_fastapi"]
    return "\n".join(map(logging.Formatter("%(message)s").format, lines))


async def test_admin_shows_what_the_hook_gives_wherever_it_shows_a_message(tmp_path: Path) -> None:
    async with hiding(tmp_path, hide) as bench:
        sent = await bench.queue.send_message("login", LOGIN, headers={"from": "bob@example.com"})
        (listed,) = await bench.admin.messages()
        one = await the_message(bench, sent)

    assert listed == one
    assert one.data == HIDDEN
    assert one.headers == {"from": "[e-mail]"}


async def test_dead_letters_show_errors_traces_and_reasons_through_the_hook(tmp_path: Path) -> None:
    async with hiding(tmp_path, hide, login=refuse) as bench:
        await bench.queue.send_message("login", LOGIN)
        await bench.queue.run_until_idle()
        (letter,) = await bench.admin.dead_letters()

    assert letter.data == HIDDEN
    assert letter.reason == letter.errors[0].text == "ValueError: no mailbox for [e-mail]"
    assert letter.errors[0].trace.endswith("ValueError: no mailbox for [e-mail]\n")


async def test_hook_of_the_readme_hides_as_it_says(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    block = text[text.index("EMAIL = ") : text.index("\n\n\nqueue_module = ", text.index("EMAIL"))]
    names: dict[str, Any] = {"re": re, "Any": Any}
    exec(block, names)

    async with hiding(tmp_path, names["redact"]) as bench:
        sent = await bench.queue.send_message("login", LOGIN)
        record = await the_message(bench, sent)

    assert record.data == HIDDEN


async def test_hook_is_told_the_message_type_and_each_part(tmp_path: Path) -> None:
    calls: list[tuple[str, type]] = []

    def note(message_type: str, value: Any) -> Any:
        calls.append((message_type, type(value)))
        return value

    async with hiding(tmp_path, note, login=refuse) as bench:
        await bench.queue.send_message("login", LOGIN, headers={"a": "b"})
        await bench.queue.run_until_idle()
        calls.clear()
        await bench.admin.dead_letters()

    # the payload, the headers, the reason, an error's text and its trace
    assert sorted(calls, key=str) == [("login", dict)] * 2 + [("login", str)] * 3


async def test_handlers_and_requeue_have_the_whole_payload(tmp_path: Path) -> None:
    seen = Seen()

    async def handle(data: Any) -> None:
        if seen.add(data) == 1:
            raise Reject(data["password"])

    async with hiding(tmp_path, hide, login=handle) as bench:
        sent = await bench.queue.send_message("login", LOGIN)
        await bench.queue.run_until_idle()
        await bench.admin.requeue([sent])
        await bench.queue.run_until_idle()

    assert seen == [LOGIN, LOGIN]


async def test_foreign_payload_that_is_no_json_reaches_the_hook_as_text(tmp_path: Path) -> None:
    async with hiding(tmp_path, hide) as bench:
        foreign = sqlite3.connect(tmp_path / "q.db", isolation_level=None)
        foreign.execute("INSERT INTO kvqueue_messages (type, data) VALUES ('n', '{to: a@b.de')")
        foreign.close()
        (record,) = await bench.admin.messages()

    assert record.data == "{to: [e-mail]"


@pytest.mark.parametrize("search", ["c0ffee", "C0FF", "ada@", "example.com", "mailbox for ada"])
async def test_search_does_not_find_what_is_hidden(tmp_path: Path, search: str) -> None:
    async with hiding(tmp_path, hide, login=refuse) as bench:
        await bench.queue.send_message("login", LOGIN)
        await bench.queue.run_until_idle()
        await bench.queue.send_message("login", LOGIN)

        assert await bench.admin.messages(search=search) == ()
        assert await bench.admin.dead_letters(search=search) == ()


@pytest.mark.parametrize("search", ["ADA", "mailbox for", '"user":"ada"', "test_redaction.py"])
async def test_search_finds_what_is_shown(tmp_path: Path, search: str) -> None:
    async with hiding(tmp_path, hide, login=refuse) as bench:
        sent = await bench.queue.send_message("login", LOGIN)
        await bench.queue.run_until_idle()

        (letter,) = await bench.admin.dead_letters(search=search)

    assert letter.id == sent


async def test_pages_of_a_search_behind_a_hook_show_each_message_once(tmp_path: Path) -> None:
    found, cursor, pages = list[int](), None, 0
    async with hiding(tmp_path, hide) as bench:
        await bench.queue.send_messages(
            [("n", {"password": "needle", "n": n, "what": "needle"[: 1 + 5 * (n % 40 == 0)]})
             for n in range(400)]
        )  # fmt: skip
        while pages == 0 or cursor is not None:
            page = await bench.admin.messages(search="needle", limit=3, cursor=cursor)
            found += [record.data["n"] for record in page]
            cursor, pages = page.next_cursor, pages + 1

    assert found == list(range(0, 400, 40))
    assert pages == 4


async def test_log_shows_errors_through_the_hook_with_their_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with hiding(tmp_path, hide, login=refuse) as bench:
        await bench.queue.send_message("login", LOGIN)
        await bench.queue.run_until_idle()

    text = logged(caplog)
    assert "ValueError: no mailbox for [e-mail]" in text
    assert "in refuse" in text
    assert "example.com" not in text
    assert not any(record.exc_info for record in caplog.records)


async def test_log_of_bare_values_goes_through_the_hook_as_well(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with hiding(tmp_path, hide) as bench:
        listening = asyncio.create_task(bench.kv.listen_queue(refuse))
        await bench.kv.enqueue(LOGIN)
        await until(partial(bench.admin.dead_letters))
        listening.cancel()

    assert "no mailbox for [e-mail]" in logged(caplog)
    assert "example.com" not in logged(caplog)


async def test_hook_sees_an_error_before_it_is_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle() -> None:
        # The cut goes through the middle of the address.
        raise ValueError("x" * 980 + " ada@example.com")

    async with hiding(tmp_path, hide, n=handle) as bench:
        await bench.queue.send_message("n")
        await bench.queue.run_until_idle()

    assert "ada@" not in logged(caplog)


def breaks(_type: str, value: Any) -> Any:
    raise KeyError(value)


def exits(_type: str, _value: Any) -> Any:
    raise SystemExit


@pytest.mark.parametrize(("hook", "name"), [(breaks, "KeyError"), (exits, "SystemExit")])
async def test_hook_that_raises_shows_nothing_and_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, hook: Redact, name: str
) -> None:
    seen = Seen()
    async with hiding(tmp_path, hook, listen=True, login=refuse, good=seen.take) as bench:
        sent = await bench.queue.send_message("login", LOGIN, headers={"from": "bob@example.com"})
        await bench.queue.send_message("good", 1)
        await seen.reach(1)
        await until(partial(bench.admin.dead_letters))
        record = await the_message(bench, sent)

    failed = f"redaction failed: {name}"
    assert (record.data, record.headers, record.reason) == (failed, {"headers": failed}, failed)
    assert (record.errors[0].text, record.errors[0].trace) == (failed, failed)
    assert logged(caplog).count(f"redact raised {name} in {__file__}") == 1
    assert not any(part in logged(caplog) for part in ("example.com", "c0ffee"))


async def test_hook_that_gives_no_mapping_for_headers_hides_them(tmp_path: Path) -> None:
    async with hiding(tmp_path, lambda _type, _value: None) as bench:
        sent = await bench.queue.send_message("n", 1, headers={"a": "b"})
        record = await the_message(bench, sent)

    assert record.headers == {"headers": "redaction failed: TypeError"}
    assert record.data is None


@pytest.mark.parametrize(
    ("data", "given"),
    [
        ({"paid": True}, {"paid": 1}),
        ({"paid": False}, {"paid": 0}),
        ([1.0], [1]),
        (-0.0, 0.0),
        ({"a": 1, "b": 2}, {"a": 1}),
    ],
)
async def test_payload_counts_as_redacted_where_another_would_be_stored(
    tmp_path: Path, data: Any, given: Any
) -> None:
    async with hiding(tmp_path, lambda kind, value: given if kind == "n" else value) as bench:
        changed = await the_message(bench, await bench.queue.send_message("n", data))
        same = await the_message(bench, await bench.queue.send_message("m", data))

    assert changed.is_redacted
    assert repr(changed.data) == repr(given)
    assert not same.is_redacted


async def test_payload_is_not_redacted_by_another_order_of_its_names(tmp_path: Path) -> None:
    async with hiding(tmp_path, lambda _type, value: dict(sorted(value.items()))) as bench:
        sent = await bench.queue.send_message("n", {"b": [True, 1.0, None], "a": {}})
        record = await the_message(bench, sent)

    assert not record.is_redacted


class Incomparable:
    def __eq__(self, other: object) -> bool:
        raise NotImplementedError

    def __hash__(self) -> int:
        raise NotImplementedError

    def __repr__(self) -> str:
        return "<hidden>"


async def test_object_of_the_hook_is_shown_by_its_repr(tmp_path: Path) -> None:
    async with hiding(tmp_path, lambda _type, _value: {"card": Incomparable()}) as bench:
        sent = await bench.queue.send_message("n", LOGIN)
        record = await the_message(bench, sent)

    assert (record.data, record.is_redacted) == ({"card": "<hidden>"}, True)


class Unshowable:
    def __repr__(self) -> str:
        raise KeyError


def endless() -> Any:
    nested: list[Any] = []
    nested.append(nested)
    return nested


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({(1, 2): 3}, "TypeError"),
        ([Unshowable()], "KeyError"),
        (endless(), "ValueError"),
        ([10**6_000], "ValueError"),
    ],
)
async def test_nothing_is_shown_of_what_the_hook_gives_and_cannot_be_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, given: Any, name: str
) -> None:
    async with hiding(tmp_path, lambda _type, _value: given) as bench:
        await bench.queue.send_message("n", LOGIN)
        (record,) = await bench.admin.messages()

    assert (record.data, record.is_redacted) == (f"redaction failed: {name}", True)
    assert f"redact raised {name}" in logged(caplog)


async def async_hook(_type: str, value: Any) -> Any:
    return value


class AsyncHook:
    async def __call__(self, _type: str, value: Any) -> Any:
        return value


@pytest.mark.parametrize("hook", ["password", async_hook, AsyncHook()])
def test_hook_that_is_no_plain_function_is_refused(hook: Any) -> None:
    with pytest.raises(InvalidOptionError, match=r"redact is .* a plain function"):
        KvQueueModule("q.db", redact=hook)


LONG = "x" * 65_536


class Inner(BaseModel):
    password: int


class Card(BaseModel):
    kind: Literal["card"]


class Cash(BaseModel):
    kind: Literal["cash"]


class Order(BaseModel):
    order_id: int
    notes: dict[str, int] = {}
    payment: Annotated[Card | Cash, Field(discriminator="kind")] | None = None

    @field_validator("notes", mode="before")
    @classmethod
    def check_inner(cls, notes: Any) -> Any:
        Inner.model_validate(notes)
        return notes


async def failures(
    where: Path, data: Any, error: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> tuple[str, MessageRecord]:
    """Let a message die. Returns what was logged, and the dead letter."""

    async def handle(_data: Any) -> None:
        raise error()

    async with running(where, callbacks={"n": handle}, listen=False) as bench:
        await bench.queue.send_message("n", data, backoff_schedule=())
        await bench.queue.run_until_idle()
        (letter,) = await bench.admin.dead_letters()
    return logged(caplog), letter


async def test_console_has_the_whole_traceback_of_a_short_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def error() -> BaseException:
        one = ValueError("no such customer")
        one.__cause__ = KeyError(17)
        return one

    text, _ = await failures(tmp_path, None, error, caplog)

    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.getMessage().endswith("dead letter now: ValueError: no such customer")
    assert "KeyError: 17" in text
    assert "in handle" in text


def long_text() -> BaseException:
    return ValueError(f"cannot take {LONG}")


def long_cause() -> BaseException:
    error = ValueError("short")
    error.__cause__ = ValueError(LONG)
    return error


def long_context() -> BaseException:
    error = ValueError("short")
    error.__context__ = ValueError(LONG)
    return error


def long_note() -> BaseException:
    error = ValueError("short")
    error.add_note(LONG)
    return error


def long_group() -> BaseException:
    return ExceptionGroup("short", [ValueError("short"), ExceptionGroup("g", [ValueError(LONG)])])


@pytest.mark.parametrize("error", [long_text, long_cause, long_context, long_note, long_group])
async def test_no_error_is_logged_or_kept_at_full_length(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Callable[[], BaseException]
) -> None:
    text, letter = await failures(tmp_path, None, error, caplog)

    assert len(text) < 10_000
    assert "x" * 7_000 not in text
    assert "in handle" in text
    assert type(error()).__name__ in text
    assert len(letter.errors[0].trace) <= 8_000
    assert "in handle" in letter.errors[0].trace


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        (f'{{"order_id": "c0ffee{LONG}"}}', "order_id: Input should be a valid integer"),
        ('{"order_id": "c0ffee"}', "order_id: Input should be a valid integer"),
        ('{"order_id": 1, "notes": {"password": "c0ffee"}}', "notes.password: Input should be"),
        (
            '{"order_id": 1, "payment": {"kind": "c0ffee"}}',
            "payment: 'kind' is none of 'card', 'cash'",
        ),
        ("c0ffee", "Invalid JSON: expected value at line 1 column 1"),
    ],
)
async def test_payload_that_does_not_fit_is_named_by_field_and_never_by_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, stored: str, problem: str
) -> None:
    async def handle(order: Order) -> None: ...

    async with running(tmp_path, callbacks={"n": handle}, listen=False) as bench:
        foreign = sqlite3.connect(tmp_path / "q.db", isolation_level=None)
        foreign.execute("INSERT INTO kvqueue_messages (type, data) VALUES ('n', ?)", (stored,))
        foreign.close()
        await bench.queue.run_until_idle()
        (letter,) = await bench.admin.dead_letters()

    kept = f"{letter.reason} {letter.errors}"
    assert problem in logged(caplog)
    assert problem in kept
    assert "c0ffee" not in logged(caplog) + kept
    assert len(kept) < 4_000


async def test_payload_is_not_logged_by_any_ending(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "kvqueue_fastapi")
    endings = [None, ValueError("a"), Reject("b"), BaseException("c"), asyncio.CancelledError()]
    seen = Seen()

    async def handle(_data: Any) -> None:
        seen.add(1)
        if (error := endings[len(seen) - 1]) is not None:
            raise error

    async with running(tmp_path, callbacks={"n": handle}, backoff_schedule_s=()) as bench:
        for _ in endings:
            await bench.queue.send_message("n", {"password": "c0ffee"})
        await seen.reach(len(endings))

    assert len(caplog.records) >= 4
    assert "c0ffee" not in logged(caplog)


async def test_hook_that_changes_what_it_is_given_hides_it_and_changes_nothing(
    tmp_path: Path,
) -> None:
    def hide(_message_type: str, value: Any) -> Any:
        if isinstance(value, dict):
            value.pop("password", None)
        return value

    module = KvQueueModule(str(tmp_path / "q.db"), listen=False, redact=hide)
    injector = Injector([module])
    async with module.running(injector) as queue:
        message_id = await queue.send_message("n", {"password": "x", "a": 1}, headers={"b": "c"})
        record = await injector.get(KvQueueAdmin).message(message_id)

    assert record is not None
    assert (record.data, record.is_redacted, record.headers) == ({"a": 1}, True, {"b": "c"})
