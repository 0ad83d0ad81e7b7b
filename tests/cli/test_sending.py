"""`kvqueue send`."""

import json
import math
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kvqueue_fastapi.cli import batches
from kvqueue_fastapi.cli.texts import counted
from tests.cli.bench import Bench, Ran
from tests.cli.meddler import WIDTH, meddling
from tests.cli.terminal import KVQUEUE, PATIENCE_S, piped
from tests.engines import ON_BOTH_ENGINES

Kvqueue = Callable[..., Ran]


def ndjson(*lines: object) -> str:
    return "".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in lines)


# --- one ---


@ON_BOTH_ENGINES
def test_the_id_of_what_was_sent_is_the_answer(bench: Bench, kvqueue: Kvqueue) -> None:
    ran = kvqueue("send", "order.created", '{"id": 7}')

    (message,) = bench.messages()
    assert (ran.code, ran.out, ran.err) == (0, f"{message.id}\n", "")
    assert (message.type, message.data) == ("order.created", {"id": 7})


def test_all_options_come_with_it(bench: Bench, kvqueue: Kvqueue) -> None:
    options = "--delay 60 --key 42 --priority 3 --idempotency-key k --header a=b --header c=d=e"

    first = kvqueue("send", "n", "1", *options.split())
    again = kvqueue("send", "n", "1", "--idempotency-key", "k", "--json")

    (message,) = bench.messages()
    assert first.out == f"{message.id}\n"
    assert again.record == {"id": message.id}
    assert (message.state, message.ordering_key, message.priority) == ("delayed", "42", 3)
    assert message.headers == {"a": "b", "c": "d=e"}


@pytest.mark.parametrize(("stdin", "data"), [('{"id": 7}\n', {"id": 7}), ('"text"', "text")])
def test_a_payload_comes_from_stdin(
    bench: Bench, kvqueue: Kvqueue, stdin: str, data: object
) -> None:
    kvqueue("send", "n", "-", stdin=stdin)

    assert [message.data for message in bench.messages()] == [data]


@pytest.mark.parametrize("data", ['{"a": 1, "a": 2}', "-1e400"])
def test_a_payload_from_stdin_is_taken_whole_or_not_at_all(
    bench: Bench, kvqueue: Kvqueue, data: str
) -> None:
    ran = kvqueue("send", "n", "-", stdin=data)

    assert (ran.code, ran.out, bench.messages()) == (2, "", [])
    assert ran.err.startswith(f"kvqueue: Part of the payload '{data}' would be lost: the n")


def test_numbers_that_json_cannot_write_but_a_store_can_hold_are_sent(
    bench: Bench, kvqueue: Kvqueue
) -> None:
    kvqueue("send", "n", "[-Infinity, 1e308]")

    assert [message.data for message in bench.messages()] == [[-math.inf, 1e308]]


def test_without_a_payload_it_is_null(bench: Bench, kvqueue: Kvqueue) -> None:
    kvqueue("send", "n")

    assert [message.data for message in bench.messages()] == [None]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "Name the TYPE of the message, or a --file of messages."),
        (["n", "{id: 7}"], 2, "The payload '{id: 7}' is no JSON"),
        (["n", '{"a": 1, "a": 2}'], 2, 'the name "a" is there twice in one object. Leave one.'),
        (["n", "[0.0e-9, 1e-400]"], 2, "would be lost: the number 1e-400 is too small"),
        (["n", "[1e400]"], 2, "Part of the payload '[1e400]' would be lost: the number 1e400 is"),
        (["n", "9" * 5_000], 2, "has 5000 digits"),
        (["n", "1", "--header", "ab"], 2, "--header 'ab' is no header. Write NAME=VALUE."),
        (["n", "1", "--delay", "-1"], 2, "Delay"),
        (["n", "1", "--delay", "soon"], 2, "Invalid value for '--delay'"),
        (["", "1"], 2, "Message type is ''"),
        (["n", json.dumps("x" * 70_000)], 1, "Payload too large (max 65536 bytes)"),
        (["n", "1", "--file", "m.ndjson"], 2, "With --file, type, payload and options stand in"),
        (["--priority", "1", "--file", "m.ndjson"], 2, "With --file, type, payload and options"),
        (["--key", "", "--file", "m.ndjson"], 2, "With --file, type, payload and options"),
        (["--delay", "0", "--file", "m.ndjson"], 2, "With --file, type, payload and options"),
        (["n", "1", "--from-line", "1"], 2, "--from-line is the number of a line of --file."),
        (["--file", "gone.ndjson"], 2, "gone.ndjson cannot be read: No such file or directory."),
    ],
)
def test_what_cannot_be_sent_is_refused(
    bench: Bench, kvqueue: Kvqueue, arguments: list[str], code: int, says: str
) -> None:
    ran = kvqueue("send", *arguments)

    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err
    assert bench.messages() == []


def test_payload_is_held_against_the_model_of_the_app(bench: Bench, kvqueue: Kvqueue) -> None:
    refused = kvqueue("send", "order.created", "{}", "--app", "cli_shop:app")
    taken = kvqueue("send", "order.created", '{"order_id": 1}', "--app", "cli_shop:app")

    assert (refused.code, taken.code) == (1, 0)
    assert "Payload does not fit Order" in refused.err
    assert len(bench.messages()) == 1


# --- a file of them ---


@ON_BOTH_ENGINES
def test_each_line_of_a_file_is_a_message(bench: Bench, kvqueue: Kvqueue, directory: Path) -> None:
    text = ndjson(
        {"type": "a", "data": {"n": 1}},
        "",
        {"type": "b", "delay": 60, "ordering_key": "k", "priority": 2, "headers": {"x": "y"}},
        {"type": "c", "backoff_schedule": [1], "keys_if_undelivered": [["dead", 1]]},
    )
    (directory / "messages.ndjson").write_text(text)

    ran = kvqueue("send", "--file", "messages.ndjson", "--json")

    a, b, c = bench.messages()
    assert ran.record == {"sent": 3, "first_id": a.id, "last_id": c.id}
    assert (a.type, a.data) == ("a", {"n": 1})
    assert (b.state, b.ordering_key, b.priority, b.headers) == ("delayed", "k", 2, {"x": "y"})
    assert (c.type, c.data) == ("c", None)


def test_a_file_comes_from_stdin(bench: Bench, kvqueue: Kvqueue) -> None:
    ran = kvqueue("send", "--file", "-", stdin=ndjson({"type": "n", "data": 1}) * 2_500)

    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("2,500 messages sent, ids ")
    assert [one.ready for one in bench.ask(lambda admin: admin.counts())] == [2_500]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "'{' is no JSON object: Expecting property name"),
        ("7", "it is no JSON object. Write one a line"),
        ("[1, 2]", "it is no JSON object. Write one a line"),
        ('{"type": "n", "data": {"a": 1, "a": 2}}', 'part of it would be lost: the name "a" is'),
        ('{"type": "n", "data": 1e400}', "part of it would be lost: the number 1e400 is too large"),
        ({"data": 1}, "type: Field required."),
        ({"type": 7}, "type: Input should be a valid string."),
        ({"type": "n", "dta": 1}, "dta: Extra inputs are not permitted."),
        ({"type": "n", "delay": -1}, "Delay"),
        ({"type": "", "data": 1}, "Message type is ''"),
        ({"type": "n", "data": "x" * 70_000}, "Payload too large"),
        ({"type": "n", "keys_if_undelivered": [[]]}, "key"),
    ],
)
def test_a_wrong_line_is_named_before_anything_is_sent(
    bench: Bench, kvqueue: Kvqueue, line: object, says: str
) -> None:
    text = ndjson({"type": "n"}, "", line, {"type": "n"})

    ran = kvqueue("send", "--file", "-", stdin=text)

    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("kvqueue: Line 3: ")
    assert says in ran.err
    assert ran.err.endswith(" Nothing was sent.\n")
    assert bench.messages() == []


def test_a_line_that_is_refused_late_is_named_and_where_to_go_on(
    bench: Bench, kvqueue: Kvqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "SLICE", 2)
    lines = [{"type": "n", "data": number} for number in range(5)]
    lines[3] = {"type": "order.created", "data": "no order"}
    app = ["--app", "cli_shop:app"]

    ended = kvqueue("send", "--file", "-", *app, stdin=ndjson(*lines))
    there = [message.data for message in bench.messages()]
    lines[3] = {"type": "order.created", "data": {"order_id": 1}}
    ran = kvqueue("send", "--file", "-", "--from-line", 4, *app, stdin=ndjson(*lines))

    assert (ended.code, there) == (1, [0, 1, 2])
    assert "Line 4: Payload does not fit Order" in ended.err
    assert ended.err.endswith("Before it, 3 messages went out. Go on with --from-line 4.\n")
    assert (ran.code, len(bench.messages())) == (0, 5)


@pytest.mark.parametrize(
    ("deed", "code", "sent", "says"),
    [
        ("append('no json')", 0, 5, ""),
        ('append(\'{"type": "late"}\')', 0, 5, ""),
        ("os.truncate('m', 4 * WIDTH + 7)", 1, 4, "while it was sent. Line 5: '{\"type\"' is no"),
        ("os.truncate('m', 3 * WIDTH)", 1, 3, "The file has become shorter while it was sent."),
        ("Path('m').write_bytes(b'\\xff' * 5 * WIDTH)", 1, 1, "Line 2: here, or in the lines"),
    ],
)
def test_of_a_file_that_changes_meanwhile_only_what_was_checked_is_sent(
    bench: Bench,
    kvqueue: Kvqueue,
    monkeypatch: pytest.MonkeyPatch,
    deed: str,
    code: int,
    sent: int,
    says: str,
) -> None:
    monkeypatch.setattr(batches, "SLICE", 1)
    Path("m").write_text(('{"type": "n"}'.ljust(WIDTH - 1) + "\n") * 5)

    ran = kvqueue("send", "--file", "m", *meddling(deed))

    assert (ran.code, [one.type for one in bench.messages()]) == (code, ["n"] * sent)
    assert says in ran.err
    there = f"Before it, {counted(sent, 'message')} went out. Go on with --from-line {sent + 1}.\n"
    assert ran.err.endswith(there if code else "")
    assert "Nothing was sent" not in ran.err


@pytest.mark.parametrize(("number", "code", "left"), [(3, 0, 1), (4, 2, 0), (99, 2, 0)])
def test_a_line_behind_the_last_message_is_refused(
    bench: Bench, kvqueue: Kvqueue, number: int, code: int, left: int
) -> None:
    text = ndjson({"type": "n"}, "", {"type": "n"}, "")

    ran = kvqueue("send", "--file", "-", "--from-line", number, stdin=text)

    assert (ran.code, len(bench.messages())) == (code, left)
    told = f"--from-line is {number}, the last message stands in line 3." in ran.err
    assert told == (code == 2)


def test_a_mark_before_utf_8_is_passed_over(bench: Bench, kvqueue: Kvqueue) -> None:
    text = b'\xef\xbb\xbf{"type": "n", "data": "\xc3\xbc"}\n'
    Path("marked").write_bytes(text)

    assert kvqueue("send", "--file", "marked").code == 0
    assert fed(text, "send", "--file", "-", PYTHONIOENCODING="ascii").returncode == 0
    assert fed(b'\xef\xbb\xbf"\xc3\xbc"', "send", "n", "-").returncode == 0
    assert [message.data for message in bench.messages()] == ["ü"] * 3


@pytest.mark.parametrize("command", ["send --file -", "send n -"])
def test_a_payload_that_is_no_utf_8_is_told_in_a_line(bench: Bench, command: str) -> None:
    ran = fed(b"\xff\xfe", *command.split())

    assert (ran.returncode, ran.stdout) == (2, b"")
    assert ran.stderr.startswith(b"kvqueue: stdin is no UTF-8: ")
    assert ran.stderr.count(b"\n") == 1


@pytest.mark.parametrize("file", ["/dev/stdin", "<(cat m)", "<(sleep 0.1; cat m; cat m)"])
def test_a_file_may_be_a_pipe(bench: Bench, file: str) -> None:
    Path("m").write_bytes(b'\xef\xbb\xbf{"type": "n", "data": "\xc3\xbc"}\n')
    if "; cat m" in file:
        Path("m").write_text('{"type": "n", "data": "ü"}\n')

    ran = piped("bash", "-c", f"cat m | {shlex.join(KVQUEUE)} send --file {file}")

    sent = file.count("cat m") or 1
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [message.data for message in bench.messages()] == ["ü"] * sent


def test_a_pipe_that_is_no_utf_8_is_told_in_a_line(bench: Bench) -> None:
    ran = fed(b"\xff", "send", "--file", "/dev/stdin")

    assert ran.returncode == 1
    assert ran.stderr.startswith(b"kvqueue: The file is no UTF-8: ")
    assert ran.stderr.count(b"\n") == 1


def fed(stdin: bytes, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*KVQUEUE, *arguments],
        input=stdin,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_an_empty_file_is_no_mistake(bench: Bench, kvqueue: Kvqueue) -> None:
    assert kvqueue("send", "--file", "-").out == "0 messages sent.\n"


def test_a_full_queue_is_told_with_where_to_go_on(
    bench: Bench, kvqueue: Kvqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVQUEUE_MAX_PENDING", "1")
    bench.send(("n", 0))

    ran = kvqueue("send", "--file", "-", stdin=ndjson({"type": "n"}, {"type": "n"}))

    assert ran.code == 1
    assert "Line 1: 1 messages wait, the limit is 1" in ran.err
    assert ran.err.endswith(" Go on with --from-line 1.\n")
