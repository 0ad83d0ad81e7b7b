"""Files that are not as they should be: refused with what to do, and harmless to the rest."""

import asyncio
import json
import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from kvqueue_fastapi import SchemaTooNewError, StoreError
from tests.contract.harness import Bench, Seen, running, until
from tests.faults.damage import flip, flip_page, flip_text, flip_under_a_running_app, root_page

STRANGER = Path(__file__).with_name("stranger.py")
MALFORMED = (
    "{}: database disk image is malformed. "
    "Stop, keep a copy, and restore a backup, without the -wal and -shm of another file "
    "beside it, or use sqlite3's .recover."
)
NO_DATABASE = (
    "{}: file is not a database. "
    "Point KVQUEUE_URL at a file of its own; if this was one, restore a backup."
)
READ_ONLY = (
    "{}: attempt to write a readonly database. "
    "Give this user the right to write the file and its directory."
)
CLOSED = (
    "{}: unable to open database file. Check that its directory exists and may be written to, "
    "and so may the file, its -wal and its -shm."
)


@pytest.fixture
async def database(tmp_path: Path) -> Path:
    """A file with ten messages, closed."""
    async with running(tmp_path, listen=False) as bench:
        await bench.queue.send_messages([("n", n) for n in range(10)])
    return tmp_path / "q.db"


# --- rights ---

RIGHTS: dict[str, tuple[dict[str, int], str]] = {
    "a file that may only be read": ({"q.db": 0o444}, READ_ONLY),
    "a file without rights": ({"q.db": 0o000}, CLOSED),
    "a directory that may only be read": ({".": 0o555}, READ_ONLY),
    "a directory without rights": ({".": 0o000}, CLOSED),
    "a log without rights": ({"q.db-wal": 0o000}, CLOSED),
    "all rights": ({}, "sent 11"),
}


def test_without_the_right_to_write_a_start_names_the_file_and_the_rights(database: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as top:
        Path(top).chmod(0o755)
        paths = [_with_rights(database, Path(top, what), RIGHTS[what][0]) for what in RIGHTS]

        answers = subprocess.run(
            [sys.executable, STRANGER, *paths], capture_output=True, text=True, check=True
        ).stdout

        for path in paths:
            path.parent.chmod(0o755)
    expected = [text.format(path) for path, (_, text) in zip(paths, RIGHTS.values(), strict=True)]
    assert json.loads(answers) == expected


def _with_rights(database: Path, directory: Path, rights: dict[str, int]) -> Path:
    directory.mkdir()
    path = directory / "q.db"
    shutil.copy(database, path)
    path.chmod(0o666)
    for name in rights.keys() & {"q.db-wal"}:
        (directory / name).touch()
    directory.chmod(0o777)
    for name, mode in rights.items():
        (directory / name).chmod(mode)
    return path


# --- what cannot be a queue, or is one no more ---


def _overwrite(path: Path) -> None:
    path.write_text("Dear diary, " * 1_000)


def _flip_header(path: Path) -> None:
    flip(path, 0, 100)


def _flip_schema(path: Path) -> None:
    flip(path, 100, 1_000)


def _cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _cut_in_a_page(path: Path) -> None:
    os.truncate(path, 5_000)


UNUSABLE: dict[Callable[[Path], None], str] = {
    _overwrite: NO_DATABASE,
    _flip_header: NO_DATABASE,
    _flip_schema: MALFORMED,
    _cut_in_half: MALFORMED,
    _cut_in_a_page: MALFORMED,
}


@pytest.mark.parametrize("spoil", UNUSABLE)
async def test_what_is_no_whole_database_is_refused_at_the_start_and_left_as_it_is(
    database: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(database)
    before = _content(database)

    with pytest.raises(StoreError) as caught:
        async with running(database.parent, callbacks={"n": Seen().take}):
            pytest.fail("it started")

    assert str(caught.value) == UNUSABLE[spoil].format(database)
    assert _content(database) == before


def _content(path: Path) -> bytes:
    return path.read_bytes()


async def test_a_file_that_was_cut_to_nothing_is_a_new_queue(database: Path) -> None:
    # There is nothing by which to tell it from one that was just made.
    os.truncate(database, 0)

    async with running(database.parent, listen=False) as bench:
        assert await stored_ids(bench) == []
        assert await bench.queue.send_message("n") == 1


async def test_the_schema_of_newer_code_is_refused_at_the_start(database: Path) -> None:
    with closing(sqlite3.connect(database)) as other, other:
        other.execute("UPDATE kvqueue_schema SET applied = 12, oldest_code = 9")

    with pytest.raises(SchemaTooNewError, match=r"from schema 9 on.* Upgrade kvqueue_fastapi"):
        async with running(database.parent, callbacks={"n": Seen().take}):
            pytest.fail("it started")


# --- damaged pages ---


@pytest.mark.parametrize("name", ["kvqueue_messages", "kvqueue_ready"])
async def test_what_lies_on_a_damaged_page_is_refused_with_what_to_do_and_the_rest_goes_on(
    database: Path, name: str
) -> None:
    flip_page(database, root_page(database, name))

    async with running(database.parent, listen=False) as bench:
        with pytest.raises(StoreError) as one:
            await bench.queue.send_message("n")
        with pytest.raises(StoreError) as many:
            await bench.kv.atomic().set(("k",), 1).enqueue("no").commit()
        neither = await bench.kv.get(("k",))
        await bench.kv.set(("k",), 2)

        assert str(one.value) == str(many.value) == MALFORMED.format(database)
        assert neither.versionstamp is None
        assert (await bench.kv.get(("k",))).value == 2


async def test_a_page_that_is_damaged_under_a_listener_holds_up_what_lies_on_it_until_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen, gate = Seen(), asyncio.Event()

    async def handle(data: str) -> None:
        if data == "running":
            await gate.wait()
        seen.add(data)

    database = tmp_path / "q.db"
    async with running(tmp_path, callbacks={"n": handle}, poll_interval_s=0.05) as bench:
        running_id = await bench.queue.send_message("n", "running")
        await bench.queue.send_message("n", "waiting", delay=0.5)
        await until(lambda: has_state(bench, running_id, "running"))
        page = root_page(database, "kvqueue_ready")

        flip_under_a_running_app(database, page)
        await until(lambda: said(caplog, f"could not claim.*{MALFORMED.format(database)}"))
        gate.set()
        await until(lambda: is_gone(bench, running_id))
        await bench.kv.set(("k",), 1)
        await asyncio.sleep(1)
        assert len(errors(caplog)) <= 5

        flip_under_a_running_app(database, page)
        assert await seen.stay(2) == ["running", "waiting"]


async def test_a_message_that_cannot_be_settled_holds_up_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen, gate = Seen(), asyncio.Event()

    async def handle(data: int) -> None:
        seen.add(data)
        await gate.wait()

    async with running(tmp_path, callbacks={"n": handle}) as bench:
        await bench.queue.send_messages([("n", n) for n in range(1, 11)])
        await seen.reach(10)
        with closing(sqlite3.connect(tmp_path / "q.db")) as other:
            # As the page of one message would, which we cannot choose.
            other.execute(STUCK)

            gate.set()
            await until(lambda: said(caplog, "10 messages could not be settled"))
            await until(lambda: said(caplog, "1 messages could not be settled"))
            assert await stored_ids(bench) == [5]

            other.execute("DROP TRIGGER stuck")
        await until(lambda: is_gone(bench, 5))
        assert len(seen) == 10


STUCK = """
CREATE TRIGGER stuck BEFORE DELETE ON kvqueue_messages WHEN old.id = 5
BEGIN SELECT RAISE(ABORT, 'stuck'); END
"""


async def test_a_damaged_payload_is_a_dead_letter_and_its_neighbours_are_handled(
    tmp_path: Path,
) -> None:
    # SQLite has no checksums for data: what is still JSON would be taken for what was sent.
    seen = Seen()
    async with running(tmp_path, listen=False) as bench:
        await bench.queue.send_messages([("n", word) for word in ("one", "landmark", "three")])
    database = tmp_path / "q.db"
    flip_text(database, b'"landmark"', 1)

    async with running(tmp_path, callbacks={"n": seen.take}) as bench:
        assert await seen.stay(2) == ["one", "three"]
        (letter,) = await bench.admin.dead_letters()

    assert letter.id == 2
    assert "cannot be decoded" in letter.reason


# --- a damaged log ---


async def test_a_log_with_garbage_behind_its_end_loses_nothing(tmp_path: Path) -> None:
    sent, copy = await _copy_while_open(tmp_path)
    with (copy / "q.db-wal").open("ab") as log:
        log.write(os.urandom(50_000))

    async with running(copy, listen=False) as bench:
        assert await stored_ids(bench) == sent
        assert await bench.queue.send_message("n") == len(sent) + 1
    assert integrity(copy) == "ok"


async def test_a_log_with_garbage_in_it_is_read_as_far_as_it_is_whole(tmp_path: Path) -> None:
    sent, copy = await _copy_while_open(tmp_path)
    log = copy / "q.db-wal"
    flip(log, log.stat().st_size - 20_000, 1_000)

    async with running(copy, listen=False) as bench:
        left = await stored_ids(bench)

    # SQLite takes it for the end of the log; what was behind it is lost.
    assert left == sent[: len(left)]
    assert 0 < len(left) < len(sent)
    assert integrity(copy) == "ok"


async def _copy_while_open(directory: Path) -> tuple[list[int], Path]:
    """What was sent, one commit after another, and what a killed process leaves of it."""
    copy = directory / "copy"
    copy.mkdir()
    async with running(directory, listen=False) as bench:
        sent = [await bench.queue.send_message("n", "x" * 500) for _ in range(20)]
        for name in ("q.db", "q.db-wal"):
            shutil.copy(directory / name, copy / name)
    return sent, copy


# --- a file that goes away ---


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_a_file_that_goes_away_under_a_running_app_is_told_of_until_it_is_back(
    database: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    aside = database.with_name("aside")
    async with running(database.parent, callbacks={"n": seen.take}, poll_interval_s=0.05) as bench:
        await seen.reach(10)
        shutil.move(database, aside)
        if how == "replaced":
            shutil.copy(aside, database)

        with pytest.raises(StoreError, match=f"{database} was {how} while it was open: .*Put that"):
            await bench.queue.send_message("n", "unseen")
        await until(lambda: said(caplog, f"could not claim.*{database} was {how} while"))

        shutil.move(aside, database)
        await bench.queue.send_message("n", "seen")
        assert (await seen.stay(11))[-1] == "seen"


async def test_a_queue_whose_file_was_removed_still_stops(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    async with asyncio.timeout(10):
        async with running(database.parent, callbacks={"n": seen.take}):
            await seen.reach(10)
            shutil.move(database, database.with_name("aside"))

    assert await said(caplog, "A listener could not stop cleanly; its messages come again")
    assert not list(database.parent.glob("*-listener-*"))


async def stored_ids(bench: Bench) -> list[int]:
    return [one.id for one in await bench.admin.messages(limit=1_000)]


async def has_state(bench: Bench, message_id: int, state: str) -> bool:
    record = await bench.admin.message(message_id)
    return record is not None and record.state == state


async def is_gone(bench: Bench, message_id: int) -> bool:
    return await bench.admin.message(message_id) is None


async def said(caplog: pytest.LogCaptureFixture, pattern: str) -> bool:
    return re.search(pattern, caplog.text, re.DOTALL) is not None


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno == logging.ERROR]


def integrity(directory: Path) -> str:
    with closing(sqlite3.connect(directory / "q.db")) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
