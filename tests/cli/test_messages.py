"""`kvqueue ls`, `show`, `cancel`, `pause`, `resume`, `stats` and `listeners`."""

import asyncio
import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta

import pytest

from kvqueue_fastapi import KvQueueModule, OutgoingMessage, SendOptions
from tests.cli.bench import Bench, Ran
from tests.engines import ON_BOTH_ENGINES

Kvqueue = Callable[..., Ran]


def delayed(message_type: str, data: object) -> OutgoingMessage:
    return OutgoingMessage(message_type, data, SendOptions(delay=timedelta(hours=1)))


def keyed(message_type: str, data: object, key: str) -> OutgoingMessage:
    return OutgoingMessage(message_type, data, SendOptions(ordering_key=key))


# --- ls ---


@ON_BOTH_ENGINES
def test_messages_are_listed_one_a_line(bench: Bench, kvqueue: Kvqueue) -> None:
    first, second = bench.send(("order.created", {"id": 7}), delayed("mail.send", "hi"))

    ran = kvqueue("ls")

    assert (ran.code, ran.err) == (0, "")
    assert [row[:4] for row in ran.rows] == [
        [str(first), "order.created", "ready", "0"],
        [str(second), "mail.send", "delayed in 60 min", "0"],
    ]
    assert [row[6] for row in ran.rows] == ['{"id": 7}', '"hi"']


def test_messages_are_listed_as_json_with_all_that_is_known(bench: Bench, kvqueue: Kvqueue) -> None:
    (message_id,) = bench.send(("order.created", {"id": 7}))

    record = kvqueue("ls", "--json").record

    assert (record["id"], record["type"], record["data"]) == (
        message_id,
        "order.created",
        {"id": 7},
    )
    assert (record["state"], record["attempt"], record["errors"]) == ("ready", 0, [])


@pytest.mark.parametrize(
    ("arguments", "payloads"),
    [
        (["type:order.*"], [1, 2]),
        (["type:order.created"], [1]),
        (["key:42"], [2]),
        (["needle"], ["Needle here"]),
        (["type:mail.send", "state:delayed"], [4]),
        (["--state", "delayed"], [4]),
        (["--newest", "--limit", "2", "type:*.*", "state:ready"], ["Needle here", 2]),
        (["type:none"], []),
    ],
)
def test_messages_are_found_by_a_search(
    bench: Bench, kvqueue: Kvqueue, arguments: list[str], payloads: list[object]
) -> None:
    bench.send(
        ("order.created", 1),
        keyed("order.paid", 2, "42"),
        ("mail.send", "Needle here"),
        delayed("mail.send", 4),
    )

    ran = kvqueue("ls", "--json", *arguments)

    assert ran.code == 0
    assert [json.loads(line)["data"] for line in ran.out.splitlines()] == payloads


def test_a_list_tells_where_the_next_one_begins(bench: Bench, kvqueue: Kvqueue) -> None:
    ids = bench.send(*(("n", number) for number in range(5)))

    first = kvqueue("ls", "--limit", 3)
    cursor = re.fullmatch(r"There are more: --cursor (\S+)\n", first.err)
    assert cursor
    rest = kvqueue("ls", "--limit", 3, "--cursor", cursor[1])

    assert [row[0] for row in first.rows + rest.rows] == [str(one) for one in ids]
    assert rest.err == ""


def test_a_long_list_is_read_a_page_at_a_time(bench: Bench, kvqueue: Kvqueue) -> None:
    ids = bench.send(*(("n", number) for number in range(1_100)))

    ran = kvqueue("ls", "--limit", 1_050)

    assert [row[0] for row in ran.rows] == [str(one) for one in ids[:1_050]]
    assert "There are more" in ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--state", "odd"], "state is 'odd', allowed are ready, delayed"),
        (["state:odd"], "state:'odd' is none"),
        (["state:ready", "--state", "ready"], "are both given. Give one of them"),
        (["--state", "dead"], "Dead letters have a list of their own: kvqueue dead ls."),
        (["--limit", "0"], "'--limit' / '-n': Input should be greater than or equal to 1."),
        (["--cursor", "?"], "cursor '?' is none"),
        (["type:a", "type:b"], "type: is given twice"),
        (["--nonsense"], "No such option: --nonsense"),
    ],
)
def test_wrong_question_is_a_wrong_command(
    bench: Bench, kvqueue: Kvqueue, arguments: list[str], says: str
) -> None:
    ran = kvqueue("ls", *arguments)

    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err


def test_what_is_stored_cannot_steer_a_terminal_or_break_a_line(
    bench: Bench, kvqueue: Kvqueue
) -> None:
    (message_id,) = bench.send(keyed("\u202eevil", "\x1b[2J\x07\n\tnew row", "k"))

    listed, shown = kvqueue("ls"), kvqueue("show", message_id)

    assert len(listed.rows) == 1
    assert not {"\x1b", "\x07", "\u202e"} & set(listed.out + shown.out)
    assert "\\u202eevil" in listed.out


# --- show ---


@ON_BOTH_ENGINES
def test_message_is_shown_with_all_that_is_known_of_it(bench: Bench, kvqueue: Kvqueue) -> None:
    options = SendOptions(ordering_key="42", priority=3, headers={"trace": "4bf9"})
    (message_id,) = bench.send(OutgoingMessage("order.created", {"id": 7}, options))

    ran = kvqueue("show", message_id)

    facts = dict(re.findall(r"^(\S.*?)  +(.+)$", ran.out, re.MULTILINE))
    assert facts.pop("sent").endswith(" ago)")
    assert facts.pop("due").endswith(" ago)")
    assert facts == {
        "message": str(message_id),
        "type": "order.created",
        "state": "ready",
        "attempts": "0",
        "priority": "3",
        "ordering key": "42",
        "header": "trace: 4bf9",
    }
    assert ran.out.endswith('\npayload\n{\n  "id": 7\n}\n')


def test_dead_letter_is_shown_with_the_error_and_trace_of_each_attempt(
    bench: Bench, kvqueue: Kvqueue
) -> None:
    (message_id,) = bench.die("order.created", 9)

    ran, dead = kvqueue("show", message_id), kvqueue("dead", "show", message_id)

    assert "\nattempt 1, " in ran.out
    assert "\nValueError: no such customer: 9\nTraceback (most recent call last):" in ran.out
    assert re.search(r'^  File ".*", line \d+, in fail$', ran.out, re.MULTILINE)
    assert dead.out.partition("\nValueError")[2] == ran.out.partition("\nValueError")[2]


def test_message_that_is_not_there_cannot_be_shown(bench: Bench, kvqueue: Kvqueue) -> None:
    ran = kvqueue("show", 99)

    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        "kvqueue: There is no message 99: it was handled or discarded, or never sent.\n"
    )


# --- cancel ---


def test_messages_that_wait_are_cancelled_and_others_named(bench: Bench, kvqueue: Kvqueue) -> None:
    (dead,) = bench.die("order.created", 9)
    first, second = bench.send(("n", 1), ("n", 2))

    ran = kvqueue("cancel", first, 99, dead, second)

    assert ran.code == 1
    assert ran.out == f"Message {first} is cancelled.\nMessage {second} is cancelled.\n"
    assert re.findall(r"Message (\d+) cannot be cancelled: (.*?)[;,.]", ran.err) == [
        ("99", "there is none"),
        (str(dead), "it is a dead letter"),
    ]
    assert bench.messages() == []


def test_cancel_says_what_became_of_each_as_json(bench: Bench, kvqueue: Kvqueue) -> None:
    (message_id,) = bench.send(("n", 1))

    assert kvqueue("cancel", message_id, "--json").record == {
        "id": message_id,
        "cancelled": True,
        "problem": None,
    }


def test_a_dead_letter_is_not_cancelled_and_what_removes_it_is_told(
    bench: Bench, kvqueue: Kvqueue
) -> None:
    (dead,) = bench.die("n", 1)

    ran = kvqueue("cancel", dead)

    assert ran.code == 1
    assert "it is a dead letter; see discard(), or `kvqueue dead discard`." in ran.err


# --- pause and resume ---


@ON_BOTH_ENGINES
def test_paused_type_is_not_handled_until_it_is_resumed(bench: Bench, kvqueue: Kvqueue) -> None:
    async def handle(_data: object) -> None: ...

    bench.send(("mail.send", 1))

    paused = kvqueue("pause", "mail.send")
    while_paused = bench.handle(**{"mail.send": handle})
    resumed = kvqueue("resume", "mail.send")

    assert (paused.code, while_paused, resumed.code) == (0, 0, 0)
    assert bench.handle(**{"mail.send": handle}) == 1


def test_pause_answers_as_json(bench: Bench, kvqueue: Kvqueue) -> None:
    bench.send(("n", 1))

    assert kvqueue("pause", "n", "--json").record == {"type": "n", "paused": True}
    assert kvqueue("resume", "n", "--json").record == {"type": "n", "paused": False}


@pytest.mark.parametrize("verb", ["pause", "resume"])
@ON_BOTH_ENGINES
def test_a_type_that_nobody_knows_is_neither_paused_nor_resumed(
    bench: Bench, kvqueue: Kvqueue, verb: str
) -> None:
    ran = kvqueue(verb, "nope")

    assert (ran.code, ran.out) == (1, "")
    assert f"There is no message type nope, so nothing was {verb}d." in ran.err
    assert bench.ask(lambda admin: admin.counts()) == []


def test_a_type_that_was_paused_before_its_first_message_can_be_resumed(
    bench: Bench, kvqueue: Kvqueue
) -> None:
    bench.ask(lambda admin: admin.pause("early"))

    ran = kvqueue("resume", "early")

    assert (ran.code, ran.out) == (0, "early is handled again.\n")


def test_pause_says_how_to_resume(bench: Bench, kvqueue: Kvqueue) -> None:
    bench.send(("mail sent", 1), ("-n", 1))

    spaced, dashed = kvqueue("pause", "mail sent"), kvqueue("pause", "--", "-n")

    assert spaced.out.endswith(" is paused in every process, until: kvqueue resume 'mail sent'\n")
    assert dashed.out.endswith(" until: kvqueue resume -- -n\n")


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_what_can_be_no_type_cannot_be_paused(bench: Bench, kvqueue: Kvqueue, verb: str) -> None:
    ran = kvqueue(verb, "")

    assert ran.code == 2
    assert "Message type is ''" in ran.err


# --- stats ---


@ON_BOTH_ENGINES
def test_stats_tell_how_many_are_where_of_each_type(bench: Bench, kvqueue: Kvqueue) -> None:
    bench.die("bad", 1, 2)
    bench.send(("a", 1), delayed("a", 2), keyed("a", 3, "k"), keyed("a", 4, "k"))
    kvqueue("pause", "a")

    ran = kvqueue("stats")

    a, bad = (dict(zip(ran.out.splitlines()[0].split("\t"), row, strict=True)) for row in ran.rows)
    assert (a["TYPE"], a["READY"], a["DELAYED"], a["BLOCKED"], a["DEAD"]) == (
        "a",
        "2",
        "1",
        "1",
        "0",
    )
    assert a["NOTES"] == "paused, no handler"
    assert (bad["TYPE"], bad["READY"], bad["DEAD"], bad["OLDEST"], bad["NOTES"]) == (
        "bad",
        "0",
        "2",
        "",
        "",
    )


async def test_stats_and_listeners_tell_of_the_processes_that_work(
    url: str, monkeypatch: pytest.MonkeyPatch, kvqueue: Kvqueue
) -> None:
    monkeypatch.setenv("KVQUEUE_URL", url)
    ended = asyncio.Event()

    async def handle(_data: object) -> None:
        ended.set()

    module = KvQueueModule(url)
    module.runtime().queue.add_listener("n", handle)
    async with module.running() as queue:
        await queue.send_message("n", 1)
        await ended.wait()
        listener = (await asyncio.to_thread(kvqueue, "listeners", "--json")).record
        ran = await asyncio.to_thread(kvqueue, "listeners")
    counts = (await asyncio.to_thread(kvqueue, "stats", "--json")).record

    assert listener["types"] == ["n"]
    assert ran.rows[0][1] == str(listener["pid"])
    assert ran.rows[0][-1] == "n"
    assert (counts["type"], sum(counts["handled"])) == ("n", 1)
    # 5 minutes that are over, and a part of the one that runs
    assert 1 / 6 < counts["handled_per_minute"] <= 1 / 5


def test_numbers_that_json_does_not_know_are_text(bench: Bench, kvqueue: Kvqueue) -> None:
    kvqueue("send", "n", "1")
    with closing(sqlite3.connect(bench.url)) as connection, connection:
        payload = '{"a": [NaN, Infinity, -Infinity], "b": "NaN"}'
        connection.execute("UPDATE kvqueue_messages SET data = ?", (payload,))

    (line,) = kvqueue("ls", "--json").out.splitlines()

    read = json.loads(line, parse_constant=refuse)
    assert read["data"] == {"a": ["NaN", "Infinity", "-Infinity"], "b": "NaN"}


def refuse(word: str) -> None:
    raise AssertionError(word)
