"""`kvqueue copy`, `backup` and `restore`."""

import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.bench import Bench, Ran
from tests.cli.terminal import piped
from tests.copying.pairs import EndedError, ending_at
from tests.engines import ON_BOTH_ENGINES

Kvqueue = Callable[..., Ran]


@ON_BOTH_ENGINES
def test_a_copy_has_all_of_its_source_and_counts_it(bench: Bench, kvqueue: Kvqueue) -> None:
    bench.die("n", 1)
    ids = bench.send(("n", 2), ("m", 3))

    ran = kvqueue("copy", bench.url, "copy.db")

    assert (ran.code, ran.err) == (0, "")
    assert "messages\t2\ndead letters\t1\nkeys\t0\n" in ran.out
    assert "Checked, row by row: copy.db has all of it." in ran.out
    listed = kvqueue("ls", "--json", "--url", "copy.db").records
    assert [(one["id"], one["data"]) for one in listed] == [(ids[0], 2), (ids[1], 3)]


def test_a_copy_tells_its_counts_as_json(bench: Bench, kvqueue: Kvqueue) -> None:
    bench.send(("n", 2))

    record = kvqueue("copy", bench.url, "copy.db", "--json").record

    assert len(record.pop("digest")) == 64
    assert record == {
        "target": "copy.db",
        "messages": 1,
        "dead_letters": 0,
        "keys": 0,
        "idempotency_keys": 0,
        "types": 1,
    }


def test_a_copy_that_was_broken_off_goes_on_when_it_is_run_again(
    bench: Bench, kvqueue: Kvqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.send(*(("n", number) for number in range(10)))
    with monkeypatch.context() as patch:
        patch.setattr("kvqueue_fastapi.copying.SLICE_ROWS", 3)
        patch.setattr("kvqueue_fastapi.cli.copies.Bars", lambda _progress: _Ending())
        with pytest.raises(EndedError):
            kvqueue("copy", bench.url, "copy.db")

    unfinished = kvqueue("ls", "--url", "copy.db")
    ran = kvqueue("copy", bench.url, "copy.db")

    assert unfinished.code == 1
    assert "unfinished copy" in unfinished.err
    assert "Run copy_store, or `kvqueue copy SOURCE TARGET`, with the same" in unfinished.err
    assert (ran.code, kvqueue("stats", "--json", "--url", "copy.db").record["ready"]) == (0, 10)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 1)])
def test_a_copy_that_is_broken_off_says_that_it_can_go_on(
    bench: Bench, kvqueue: Kvqueue, sent: signal.Signals, code: int
) -> None:
    bench.send(*(("n", number) for number in range(10)))

    ran = piped(sys.executable, "-c", COPY_ENDS, str(sent.value), "copy", bench.url, "copy.db")
    again = kvqueue("copy", bench.url, "copy.db")

    assert (ran.returncode, ran.stdout) == (code, "")
    assert "It was broken off. The same command goes on where it ended." in ran.stderr
    assert again.code == 0


COPY_ENDS = """
import os, sys
from kvqueue_fastapi import copying
from kvqueue_fastapi.cli import copies, main

class Bars:
    def __init__(self, progress): ...
    def advance(self, told): os.kill(os.getpid(), int(sys.argv[1]))

copying.SLICE_ROWS, copies.Bars = 1, Bars
sys.exit(main(sys.argv[2:]))
"""


class _Ending:
    """Bars whose window was closed."""

    def __init__(self) -> None:
        self.advance = ending_at("copy", 2)


def test_a_copy_of_nothing_or_onto_something_else_is_refused(
    bench: Bench, kvqueue: Kvqueue, directory: Path
) -> None:
    kvqueue("send", "n", "--create", "--url", "other.db")
    bench.send(("n", 1))

    from_nothing = kvqueue("copy", "gone.db", "copy.db")
    onto_another = kvqueue("copy", bench.url, "other.db")

    assert (from_nothing.code, onto_another.code) == (1, 1)
    assert "gone.db does not exist, so there is nothing to copy" in from_nothing.err
    assert not (directory / "gone.db").exists()
    assert not (directory / "copy.db").exists()


# --- backup and restore ---


def test_what_was_backed_up_can_be_restored(bench: Bench, kvqueue: Kvqueue) -> None:
    bench.die("n", 1)
    bench.send(("n", 2))

    backed_up = kvqueue("backup", "backup.db")
    bench.send(("n", 3))
    restored = kvqueue("restore", "backup.db", "restored.db", "--json")

    assert backed_up.code == 0
    assert backed_up.out.startswith("Backed up to ")
    assert backed_up.out.endswith(": 1 message, 1 dead letter, 0 keys.\n")
    assert (restored.record["messages"], restored.record["dead_letters"]) == (1, 1)
    assert restored.record["path"].endswith("restored.db")
    assert [one["data"] for one in kvqueue("ls", "--json", "--url", "restored.db").records] == [2]


ENDS_ITSELF = """
import os, sys, threading, time
from pathlib import Path
from kvqueue_fastapi.cli import main
from kvqueue_fastapi.store.sqlite import backups

def end():
    while not Path("b.db.unfinished").exists():
        time.sleep(0.001)
    os.kill(os.getpid(), int(sys.argv[1]))

backups.STEP_PAGES = 1
threading.Thread(target=end, daemon=True).start()
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 1)])
@pytest.mark.parametrize("command", ["backup b.db", "restore whole.db b.db"])
def test_what_is_broken_off_leaves_nothing_and_can_be_run_again(
    bench: Bench, kvqueue: Kvqueue, command: str, sent: signal.Signals, code: int
) -> None:
    bench.send(*(("n", "x" * 60_000) for _ in range(200)))
    kvqueue("backup", "whole.db")

    ran = piped(sys.executable, "-c", ENDS_ITSELF, str(sent.value), *command.split())

    assert (ran.returncode, list(Path().glob("b.db*"))) == (code, [])
    assert ran.stderr == ("kvqueue: SIGTERM has ended it.\n" if code == 1 else "")
    assert kvqueue(*command.split()).code == 0


def test_what_is_there_is_never_replaced(bench: Bench, kvqueue: Kvqueue) -> None:
    bench.send(("n", 1))
    kvqueue("backup", "backup.db")

    over_a_backup = kvqueue("backup", "backup.db")
    over_a_store = kvqueue("restore", "backup.db", bench.url)

    assert (over_a_backup.code, over_a_store.code) == (2, 2)
    assert over_a_backup.err.count("\n") == over_a_store.err.count("\n") == 1
    assert [message.data for message in bench.messages()] == [1]


def test_what_is_no_backup_is_not_restored(bench: Bench, kvqueue: Kvqueue, directory: Path) -> None:
    with closing(sqlite3.connect("other.db")) as connection:
        connection.execute("CREATE TABLE shopping (thing)")

    ran = kvqueue("restore", "other.db", "restored.db")

    assert ran.code == 1
    assert ran.err.startswith("kvqueue: ")
    assert not (directory / "restored.db").exists()


def test_backup_of_a_server_is_left_to_its_own_tools(kvqueue: Kvqueue) -> None:
    ran = kvqueue("backup", "backup.db", "--url", "postgresql://db/shop")

    assert ran.code == 2
    assert "Use pg_dump and pg_restore" in ran.err


@pytest.mark.parametrize("command", ["backup", "restore"])
@pytest.mark.parametrize("place", ["postgresql://u:s3cret@h/x", "postgresql:/u:s3cret@h/x"])
def test_a_url_in_the_place_of_a_backup_is_refused_without_its_password(
    bench: Bench, kvqueue: Kvqueue, directory: Path, command: str, place: str
) -> None:
    before = sorted(directory.iterdir())

    ran = kvqueue(command, place, *(["new.db"] if command == "restore" else []))

    assert (ran.code, ran.out) == (2, "")
    assert f"'{place.replace('s3cret', '***')}' is " in ran.err
    assert "s3cret" not in ran.err
    assert sorted(directory.iterdir()) == before


def test_a_backup_may_be_named_as_a_store_is(
    bench: Bench, kvqueue: Kvqueue, directory: Path
) -> None:
    bench.send(("n", 1))

    backed_up = kvqueue("backup", "sqlite:///b.db", "--json")
    restored = kvqueue("restore", "sqlite:///b.db", "new.db", "--json")
    gone = kvqueue("restore", "sqlite:///gone.db", "r.db")

    assert backed_up.record["path"] == str(directory / "b.db")
    assert restored.record["messages"] == 1
    assert gone.err == f"kvqueue: {directory / 'gone.db'}: there is no such file. Check the path.\n"


@pytest.mark.parametrize("command", [["backup", ""], ["restore", "", "r.db"]])
def test_an_empty_path_of_a_backup_is_told(
    bench: Bench, kvqueue: Kvqueue, command: list[str]
) -> None:
    ran = kvqueue(*command)

    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "kvqueue: The path of a file is empty. Give one, such as backup.db.\n"


def test_a_directory_is_no_backup(bench: Bench, kvqueue: Kvqueue, directory: Path) -> None:
    ran = kvqueue("restore", ".", "r.db")

    assert ran.code == 1
    assert f"{directory} is a directory. Give the path of a file in it, such as " in ran.err


def test_a_backup_whose_name_sqlite_could_take_for_a_uri_is_a_file(
    bench: Bench, kvqueue: Kvqueue, directory: Path
) -> None:
    with closing(sqlite3.connect("other.db")) as other, other:
        other.execute("CREATE TABLE mine (id)")
    bench.send(("n", 1))

    backed_up = kvqueue("backup", "file:other.db?")
    restored = kvqueue("restore", "file:other.db?", "file:new.db?mode=ro")

    assert (backed_up.code, restored.code) == (0, 0)
    assert f"Backed up to {directory / 'file:other.db?'} (" in backed_up.out
    assert (directory / "file:other.db?").stat().st_size > 0
    assert (directory / "file:new.db?mode=ro").stat().st_size > 0
    with closing(sqlite3.connect("other.db")) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]
