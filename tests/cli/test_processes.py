"""The command as a process: its two names, its missing extra, a terminal, Ctrl+C, a broken pipe."""

import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import kvqueue_fastapi
from kvqueue_fastapi.cli.texts import counted
from tests.cli.bench import Bench, Ran
from tests.cli.meddler import meddling
from tests.cli.terminal import KVQUEUE, PATIENCE_S, Terminal, piped
from tests.servers.directory import free_port

Kvqueue = Callable[..., Ran]
SCRIPT = str(Path(sys.executable).with_name("kvqueue"))


# --- names ---


def test_the_script_and_the_module_are_the_same_command(bench: Bench) -> None:
    bench.send(("n", 1))

    by_script, by_module = piped(SCRIPT, "ls", "--json"), piped(*KVQUEUE, "ls", "--json")

    assert by_script.returncode == by_module.returncode == 0
    assert json.loads(by_script.stdout) == json.loads(by_module.stdout)
    helps = piped(SCRIPT, "ls", "--help"), piped(*KVQUEUE, "ls", "--help")
    assert helps[0].stdout == helps[1].stdout
    assert "Usage: kvqueue ls [OPTIONS] [SEARCH]..." in helps[0].stdout
    assert "Exit codes: 0 all is well; 1 what was asked for could not be done" in helps[0].stdout


@pytest.mark.parametrize("library", ["typer", "rich"])
def test_without_the_extra_a_line_says_what_to_install(directory: Path, library: str) -> None:
    hidden = f"import sys; sys.modules[{library!r}] = None"
    start = f"{hidden}; from kvqueue_fastapi.cli import main; sys.exit(main(['ls']))"

    ran = piped(sys.executable, "-c", start)

    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == (
        f"kvqueue needs {library}, which is not installed. Run "
        "pip install 'kvqueue_fastapi[cli]'.\n"
    )


def test_ctrl_c_while_it_loads_ends_it_quietly(directory: Path) -> None:
    start = """
import sys
from kvqueue_fastapi.cli import main

class Interrupt:
    def find_spec(name, *_):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt)
sys.exit(main(["ls"]))
"""

    ran = piped(sys.executable, "-c", start)

    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")


@pytest.mark.parametrize("command", ["ls", "show 1", "stats", "doctor"])
def test_what_a_locale_cannot_write_is_written_as_escapes(bench: Bench, command: str) -> None:
    bench.send(("größe", "ü→😀"))

    ran = piped(*KVQUEUE, *command.split(), PYTHONIOENCODING="ascii")

    assert ran.returncode == (command == "doctor")
    assert "gr\\xf6\\xdfe" in ran.stdout
    assert "Traceback" not in ran.stderr


def test_the_package_loads_neither_library_by_itself(directory: Path) -> None:
    start = "import sys, kvqueue_fastapi; print({'typer', 'rich'} & {*sys.modules})"

    assert piped(sys.executable, "-c", start).stdout == "set()\n"
    assert "main" not in kvqueue_fastapi.__all__


# --- on a terminal ---


def test_on_a_terminal_it_is_a_table_and_in_a_pipe_it_is_plain(bench: Bench) -> None:
    bench.send(("order.created", {"id": 7}))

    with Terminal("ls") as terminal:
        assert terminal.ended() == 0
    plain = piped(*KVQUEUE, "ls")

    assert "─────" in terminal.text
    assert "\x1b[" in terminal.raw
    assert "\t" not in terminal.text
    assert plain.stdout.startswith("ID\tTYPE\tSTATE\tATTEMPT\tSENT\tKEY\tPAYLOAD\tLAST ERROR\n")
    assert not {"─", "\x1b"} & set(plain.stdout)


@pytest.mark.parametrize("columns", ["0", ""])
def test_a_width_of_nothing_counts_as_none(bench: Bench, columns: str) -> None:
    (sent,) = bench.send(("n", "text"))

    ran = piped(*KVQUEUE, "show", str(sent), COLUMNS=columns, LINES="0")

    assert ran.returncode == 0
    assert '"text"' in ran.stdout


def test_an_empty_list_says_what_to_do(bench: Bench) -> None:
    with Terminal("listeners") as terminal:
        assert terminal.ended() == 0

    assert "Nobody listens. Start the app, or a worker: kvqueue worker module:app" in terminal.text


def test_a_server_that_is_away_is_waited_for_by_name_until_ctrl_c() -> None:
    url = f"postgresql://ada:secret@127.0.0.1:{free_port()}/shop"

    with Terminal("stats", "--url", url) as terminal:
        terminal.says(lambda text: f"Waiting for {url.replace('secret', '***')}" in text)
        terminal.interrupt()
        code = terminal.ended()

    assert code == 130
    assert "secret" not in terminal.text
    assert "Traceback" not in terminal.text


@pytest.mark.parametrize(("answer", "code", "left"), [("", 1, 2), ("y", 0, 0)])
def test_what_cannot_be_undone_is_confirmed_with_its_count(
    bench: Bench, answer: str, code: int, left: int
) -> None:
    bench.die("n", 1, 2)

    with Terminal("dead", "discard", "--type", "n") as terminal:
        terminal.says(lambda text: "Discard 2 dead letters of type n? [y/n] (n)" in text)
        terminal.answer(f"{answer}\n")
        assert terminal.ended() == code

    assert len(bench.dead_letters()) == left
    assert ("Nothing was changed." in terminal.text) == (left > 0)
    assert bool(re.search(r"Discard n .*2/2", terminal.text)) == (left == 0)


@pytest.mark.parametrize("verb", ["discard", "requeue"])
@pytest.mark.parametrize("which", ["--all", "--type n"])
def test_those_that_die_while_it_asks_are_left(bench: Bench, verb: str, which: str) -> None:
    bench.die("n", 1, 2, 3)

    with Terminal("dead", verb, *which.split()) as terminal:
        terminal.says(lambda text: "3 dead letters" in text and "[y/n] (n)" in text)
        late = bench.die("n", 4, 5)
        terminal.answer("y\n")
        assert terminal.ended() == 0

    assert [one.id for one in bench.dead_letters()] == late
    assert f"3 dead letters{' of type n' * (which != '--all')} {verb}" in terminal.text


@pytest.mark.parametrize(
    ("key", "code", "says"), [("\x03", -signal.SIGINT, ""), ("\x04", 1, "Nothing was changed.")]
)
def test_ctrl_c_and_ctrl_d_end_a_question_at_once(
    bench: Bench, key: str, code: int, says: str
) -> None:
    bench.die("n", 1)

    with Terminal("dead", "discard", "--all") as terminal:
        terminal.says(lambda text: "[y/n] (n)" in text)
        if key == "\x03":
            terminal.interrupt()
        else:
            terminal.answer(key)
        assert terminal.ended() == code

    assert len(bench.dead_letters()) == 1
    assert says in terminal.text
    assert "Traceback" not in terminal.text


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize(
    ("command", "code"),
    [("ls --limit x", 2), ("pause ''", 2), ("ls --url none.db", 1), ("ls --limit 1", 0)],
)
def test_the_exit_code_tells_also_where_nobody_hears_why(
    bench: Bench, command: str, code: int, stderr: str
) -> None:
    bench.send(("n", 1), ("n", 2))

    ran = piped("sh", "-c", f"{shlex.join(KVQUEUE)} {command} {stderr}")

    assert (ran.returncode, ran.stderr) == (code, "")
    assert len(ran.stdout.splitlines()) == (2 if code == 0 else 0)


def test_a_working_directory_that_is_gone_is_told_in_a_line(directory: Path) -> None:
    ran = piped("sh", "-c", f"mkdir gone; cd gone; rmdir ../gone; {SCRIPT} ls")

    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "kvqueue: The working directory is gone. Change to one that is there.\n"


# --- broken off ---


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 1)])
def test_a_file_that_is_broken_off_says_where_to_go_on(
    bench: Bench, directory: Path, sent: signal.Signals, code: int
) -> None:
    (directory / "many").write_text("\n" + '{"type": "n"}\n' * 15_000)
    command = [*KVQUEUE, "send", "--file", "many"]

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as sending:
        assert sending.stderr is not None
        while stored(bench.url) == 0:
            assert sending.poll() is None
        sending.send_signal(sent)
        ended = sending.wait(PATIENCE_S)
        said = " ".join(sending.stderr.read().split())

    there = stored(bench.url)
    assert ended == code
    assert f"{there:,} messages went out. Go on with --from-line {there + 2}." in said
    assert 0 < there < 15_000
    assert "Traceback" not in said


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["send n 1", "send n 1 --json", "send --file m"])
def test_what_was_sent_is_told_also_where_it_is_broken_off_then(
    bench: Bench, sent: signal.Signals, command: str
) -> None:
    Path("m").write_text('{"type": "n"}\n' * 2)
    deed = f"os.kill(os.getpid(), {sent.value})"

    ran = piped(*KVQUEUE, *command.split(), *meddling(deed))

    ids = [message.id for message in bench.messages()]
    answers = {
        "send n 1": f"{ids[0]}\n",
        "send n 1 --json": f'{{"id":{ids[0]}}}\n',
        "send --file m": f"2 messages sent, ids {ids[0]} to {ids[-1]}.\n",
    }
    assert ran.stdout == answers[command]
    told = {signal.SIGINT: (130, ""), signal.SIGTERM: (1, "kvqueue: SIGTERM has ended it.\n")}
    assert (ran.returncode, ran.stderr) == told[sent]


ENDS_ITSELF = """
import os, sys
from contextlib import contextmanager
from kvqueue_fastapi import admin
from kvqueue_fastapi.cli import bulk, main

@contextmanager
def bar(*_):
    yield lambda _done: os.kill(os.getpid(), int(sys.argv[1]))

bulk.bar, bulk.SLICE, admin.SLICE = bar, 1, 1
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 1)])
@pytest.mark.parametrize("verb", ["requeue", "discard"])
@pytest.mark.parametrize("which", ["--all", "--type n", "ids"])
def test_what_is_done_to_dead_letters_is_told_where_it_is_broken_off(
    bench: Bench, verb: str, which: str, sent: signal.Signals, code: int
) -> None:
    ids = [str(one) for one in bench.die("n", *range(9))]
    chosen = ids if which == "ids" else which.split()

    ran = piped(
        *[sys.executable, "-c", ENDS_ITSELF, str(sent.value)],
        *["dead", verb, "--yes", "--json", *chosen],
    )

    left = [str(one.id) for one in bench.dead_letters()]
    done = 9 - len(left)
    assert (ran.returncode, 0 < done < 9) == (code, True)
    what = f"{verb.rstrip('e')}ed: {counted(done, 'dead letter')}"
    assert f"It was broken off. Before it, {what}." in ran.stderr
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [str(one["id"]) for one in told] == (ids[:done] if which == "ids" else [])
    if verb == "requeue" and told:
        assert [one["new_id"] for one in told] == [one.id for one in bench.messages()]


def stored(path: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM kvqueue_messages").fetchone()
    return int(count)


# --- live ---


def test_watched_stats_are_shown_anew_until_ctrl_c(bench: Bench) -> None:
    with Terminal("stats", "--watch", "0.1") as terminal:
        terminal.says(lambda text: "0 messages waiting" in text)
        bench.send(("n", 1))
        terminal.says(lambda text: "1 message waiting, 0 dead. Ctrl+C ends." in text)
        terminal.interrupt()
        assert terminal.ended() == 130

    assert "Traceback" not in terminal.text


def test_watched_stats_in_a_pipe_are_a_record_a_line(bench: Bench) -> None:
    bench.send(("n", 1))
    command = [*KVQUEUE, "stats", "--json", "--watch"]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        lines = [json.loads(watching.stdout.readline()) for _ in range(2)]
        watching.send_signal(signal.SIGINT)
        code = watching.wait(PATIENCE_S)
        said = watching.stderr.read()

    assert [line["ready"] for line in lines] == [1, 1]
    assert (code, said) == (130, b"")


def test_a_reader_that_has_seen_enough_ends_it_quietly(bench: Bench) -> None:
    bench.send(*(("n", "x" * 200) for _ in range(2_000)))
    command = [*KVQUEUE, "ls", "--limit", "2000"]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as listing:
        assert listing.stdout is not None
        assert listing.stderr is not None
        listing.stdout.readline()
        listing.stdout.close()
        listing.wait(PATIENCE_S)
        assert listing.stderr.read() == b""


ANSWERS = ["send n 1", "send n 1 --json", "send --file m", "send --file m --json"]


@pytest.mark.parametrize("command", [*ANSWERS, "ls", "stats --json"])
def test_a_full_disk_under_the_answer_is_told_in_a_line(bench: Bench, command: str) -> None:
    bench.send(("m", 1))
    Path("m").write_text('{"type": "n"}\n')

    ran = piped("sh", "-c", f"{shlex.join(KVQUEUE)} {command} > /dev/full")

    last = bench.messages()[-1]
    sent = f"Message {last.id} was sent, but the"
    if "--file" in command:
        sent = f"1 message went out, ids {last.id} to {last.id}, but the"
    begun = sent if "send" in command else "The"
    said = f"kvqueue: {begun} answer could not be written: No space left on device."
    assert ran.returncode == 1
    assert ran.stderr.startswith(said)
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ANSWERS)
def test_what_was_sent_is_fine_where_nobody_reads_the_answer(bench: Bench, command: str) -> None:
    Path("m").write_text('{"type": "n"}\n')
    ours, theirs = os.pipe()
    os.close(ours)

    ran = subprocess.run(
        [*KVQUEUE, *command.split()],
        stdout=theirs,
        stderr=subprocess.PIPE,
        timeout=PATIENCE_S,
        check=False,
    )
    os.close(theirs)

    assert (ran.returncode, ran.stderr) == (0, b"")
    assert len(bench.messages()) == 1


def test_nothing_is_done_where_nobody_hears_the_answer(bench: Bench) -> None:
    ran = piped("sh", "-c", f"{shlex.join(KVQUEUE)} send n 1 >&-")

    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "stdout is closed. Nothing was done" in ran.stderr
    assert bench.messages() == []


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("send n -", "stdin is closed."),
        ("send --file -", "stdin is closed."),
        ("dead discard --all", "Nobody is there to answer. Add --yes."),
    ],
)
def test_a_closed_stdin_is_told_in_a_line(bench: Bench, command: str, says: str) -> None:
    bench.die("n", 1)

    ran = piped("sh", "-c", f"{shlex.join(KVQUEUE)} {command} <&-")

    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert says in ran.stderr
