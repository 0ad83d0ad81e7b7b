import asyncio
import os
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kvqueue_fastapi import (
    BackupProgress,
    InvalidOptionError,
    Kv,
    SchemaTooNewError,
    StoreError,
    backup_store,
    on_queue_message,
    restore_store,
)
from kvqueue_fastapi.store.sqlite.backups import AHEAD
from tests.contract.harness import Seen, running


def named(directory: Path, beginning: str) -> list[str]:
    return sorted(path.name for path in directory.glob(f"{beginning}*"))


async def test_backup_of_a_running_app_waits_as_it_did_and_nobody_is_blamed(
    tmp_path: Path,
) -> None:
    seen, go_on = Seen(), asyncio.Event()

    @on_queue_message("n")
    async def handle(number: int) -> None:
        seen.add(number)
        await go_on.wait()

    async with running(tmp_path, handle, concurrency=1) as bench:
        await bench.kv.set(("k",), 1)
        await bench.queue.send_messages([("n", 0), ("n", 1)])
        await seen.reach(1)
        made = await backup_store(str(tmp_path / "q.db"), tmp_path / "b.db")
        go_on.set()
        await seen.reach(2)

    assert (made.messages, made.dead_letters, made.keys) == (2, 0, 1)
    assert made.size_bytes == (tmp_path / "b.db").stat().st_size
    async with running(str(tmp_path / "b.db"), listen=False) as bench:
        records = await bench.admin.messages()
        assert await bench.admin.listeners() == []
    assert [(one.data, one.state, one.attempt, one.crashes) for one in records] == [
        (0, "ready", 0, 0),
        (1, "ready", 0, 0),
    ]


async def test_backup_is_of_one_moment_whatever_is_sent_meanwhile(tmp_path: Path) -> None:
    stop = threading.Event()
    steps: list[BackupProgress] = []

    def send_on() -> None:
        with closing(sqlite3.connect(tmp_path / "q.db", timeout=30)) as foreign, foreign:
            while not stop.is_set():
                foreign.execute("INSERT INTO kvqueue_messages (type) VALUES ('late')")
                foreign.commit()

    async with running(tmp_path, listen=False) as bench:
        await bench.queue.send_messages([("n", "x" * 60_000)] * 400)
        sending = threading.Thread(target=send_on)
        sending.start()
        made = await backup_store(str(tmp_path / "q.db"), tmp_path / "b.db", progress=steps.append)
        stop.set()
        sending.join()
        counts = {one.type: one.ready for one in await bench.admin.counts()}

    assert 400 <= made.messages <= 400 + counts["late"]
    assert [step.pages for step in steps] == sorted(step.pages for step in steps)
    assert steps[-1].pages == steps[-1].total > 2_000
    with closing(sqlite3.connect(tmp_path / "b.db")) as copy, copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_backup_is_one_file_for_its_owner_alone(tmp_path: Path) -> None:
    async with running(tmp_path, listen=False):
        await backup_store(f"sqlite:///{tmp_path}/q.db", str(tmp_path / "b.db"))

    assert named(tmp_path, "b.db") == ["b.db"]
    assert stat.S_IMODE((tmp_path / "b.db").stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["file:b.db", "file:other.db?", "file:other.db?mode=rwc"])
async def test_name_that_sqlite_could_take_for_a_uri_is_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect(tmp_path / "other.db")) as other, other:
        other.execute("CREATE TABLE mine (id)")
    foreign = (tmp_path / "other.db").read_bytes()
    async with running(str(tmp_path / "q.db"), listen=False) as bench:
        await bench.queue.send_message("n")

    backed_up = await backup_store("q.db", name)
    restored = await restore_store(Path(name), f"{name}.new")

    assert backed_up.messages == restored.messages == 1
    assert (backed_up.path, restored.path) == (tmp_path / name, tmp_path / f"{name}.new")
    for made in (backed_up, restored):
        assert made.path.stat().st_size == made.size_bytes > 0
        assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert (tmp_path / "other.db").read_bytes() == foreign
    assert named(tmp_path, "[!q]") == [name, f"{name}.new", "other.db"]


@pytest.mark.parametrize("left", [b"", None], ids=["empty", "gone"])
async def test_backup_that_is_not_there_in_the_end_is_not_told_as_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bytes | None
) -> None:
    def lose(_descriptor: int) -> None:
        (tmp_path / "b.db.unfinished").unlink()
        if left is not None:
            (tmp_path / "b.db.unfinished").write_bytes(left)

    async with running(tmp_path, listen=False) as bench:
        await bench.queue.send_message("n")
        monkeypatch.setattr(os, "fsync", lose)
        with pytest.raises(StoreError, match=r"b\.db\.unfinished .* Make it again\."):
            await backup_store(str(tmp_path / "q.db"), tmp_path / "b.db")

    assert named(tmp_path, "b.db") == []


async def test_restored_store_goes_on_beyond_what_was_known_outside(tmp_path: Path) -> None:
    async with running(tmp_path, listen=False) as bench:
        before = await bench.queue.send_message("n", 1)
        await bench.kv.set(("k",), 1)
        stamp = (await bench.kv.get(("k",))).versionstamp
        await backup_store(str(tmp_path / "q.db"), tmp_path / "b.db")
        lost = await bench.queue.send_message("n", 2)
        known = await bench.kv.set(("k",), 2)

    restored = await restore_store(tmp_path / "b.db", str(tmp_path / "new.db"))

    assert (restored.path, restored.messages) == (tmp_path / "new.db", 1)
    async with running(str(tmp_path / "new.db"), listen=False) as bench:
        assert [one.id for one in await bench.admin.messages()] == [before]
        entry = await bench.kv.get(("k",))
        assert (entry.value, entry.versionstamp) == (1, stamp)
        assert await bench.queue.send_message("n", 3) == lost - 1 + AHEAD + 1
        fresh = await bench.kv.set(("k",), 3)
    assert fresh.versionstamp > known.versionstamp


async def test_restored_store_that_was_empty_gives_no_id_again_either(tmp_path: Path) -> None:
    async with running(tmp_path, listen=False) as bench:
        await backup_store(str(tmp_path / "q.db"), tmp_path / "b.db")
        known = await bench.queue.send_message("n")

    await restore_store(tmp_path / "b.db", str(tmp_path / "new.db"))

    async with running(str(tmp_path / "new.db"), listen=False) as bench:
        assert await bench.queue.send_message("n") == known + AHEAD


@pytest.mark.parametrize("name", ["b.db", "b.db-wal", "b.db-shm", "b.db-journal"])
async def test_nothing_that_is_there_is_replaced(tmp_path: Path, name: str) -> None:
    async with running(tmp_path, listen=False):
        await backup_store(str(tmp_path / "q.db"), tmp_path / "good.db")
        (tmp_path / name).write_bytes(b"precious")
        with pytest.raises(InvalidOptionError, match=rf"{name} is there already"):
            await backup_store(str(tmp_path / "q.db"), tmp_path / "b.db")
        with pytest.raises(InvalidOptionError, match=r"is there already.*Move it away"):
            await restore_store(tmp_path / "good.db", str(tmp_path / "b.db"))

    assert (tmp_path / name).read_bytes() == b"precious"
    assert named(tmp_path, "b.db") == [name]


async def test_log_that_comes_beside_the_target_meanwhile_is_refused(tmp_path: Path) -> None:
    def put(_progress: BackupProgress) -> None:
        (tmp_path / "b.db-wal").write_bytes(b"of another")

    async with running(tmp_path, listen=False):
        with pytest.raises(InvalidOptionError, match=r"b\.db-wal is there already"):
            await backup_store(str(tmp_path / "q.db"), tmp_path / "b.db", progress=put)

    assert named(tmp_path, "b.db") == ["b.db-wal"]


async def test_log_of_an_earlier_backup_is_never_played_into_a_store(tmp_path: Path) -> None:
    async with running(tmp_path, listen=False) as bench:
        await bench.queue.send_message("old")
        await backup_store(str(tmp_path / "q.db"), tmp_path / "b.db")
        async with Kv.open(str(tmp_path / "b.db")) as kv:
            await kv.set(("k",), "of another time")
            log = (tmp_path / "b.db-wal").read_bytes()
        (tmp_path / "b.db").unlink()
        await backup_store(str(tmp_path / "q.db"), tmp_path / "b.db")
    (tmp_path / "b.db-wal").write_bytes(log)
    (tmp_path / "latest.db").symlink_to("b.db")

    for name in ("b.db", "latest.db"):
        with pytest.raises(StoreError, match=r"b\.db-wal is there: .* `kvqueue backup --url"):
            await restore_store(tmp_path / name, str(tmp_path / "new.db"))

    assert log
    assert (tmp_path / "b.db-wal").read_bytes() == log
    assert named(tmp_path, "new.db") == []


async def test_backup_that_was_opened_can_be_restored_again_and_again(tmp_path: Path) -> None:
    async with running(tmp_path, listen=False):
        await backup_store(str(tmp_path / "q.db"), tmp_path / "b.db")
    async with Kv.open(str(tmp_path / "b.db")) as kv:
        await kv.set(("k",), 1)

    restored = [
        await restore_store(tmp_path / "b.db", str(tmp_path / f"new{number}.db"))
        for number in range(2)
    ]

    assert [one.keys for one in restored] == [1, 1]


async def test_a_name_that_no_system_takes_is_told_with_a_remedy(tmp_path: Path) -> None:
    url = str(tmp_path / "q.db")
    async with Kv.open(url):
        for work in (backup_store(url, "x" * 250), restore_store("x" * 250, str(tmp_path / "n"))):
            with pytest.raises(StoreError, match=r"x: File name too long\. Give another path"):
                await work


async def test_a_url_is_no_target_and_its_password_is_not_shown(tmp_path: Path) -> None:
    async with running(tmp_path, listen=False):
        with pytest.raises(InvalidOptionError, match=r"ada:\*\*\*@host/shop' is a server's"):
            await backup_store(str(tmp_path / "q.db"), "postgresql://ada:s3cret@host/shop")


@pytest.mark.parametrize(
    ("target", "error"),
    [(".", r"is a directory\. Give the path"), (Path(), "directory"), ("", "a file is empty")],
)
async def test_a_directory_or_nothing_is_no_target(
    tmp_path: Path, target: str | Path, error: str
) -> None:
    async with running(tmp_path, listen=False):
        with pytest.raises(InvalidOptionError, match=error):
            await backup_store(str(tmp_path / "q.db"), target)


async def test_what_is_no_store_or_is_damaged_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, but text enough to be read as one" * 100)
    with closing(sqlite3.connect(tmp_path / "other.db")) as other, other:
        other.execute("CREATE TABLE mine (id)")
    async with running(tmp_path, listen=False) as bench:
        await bench.queue.send_messages([("n", "x" * 5_000)] * 50)
    await backup_store(str(tmp_path / "q.db"), tmp_path / "cut.db")
    whole = (tmp_path / "cut.db").read_bytes()
    (tmp_path / "cut.db").write_bytes(whole[:20_480] + b"\xff" * 40_960 + whole[61_440:])

    for name, error in (
        ("none.db", "there is no such file"),
        ("text", "not a database"),
        ("other.db", "holds no store"),
        ("cut.db", "damaged|malformed"),
    ):
        with pytest.raises(StoreError, match=error):
            await restore_store(tmp_path / name, str(tmp_path / "new.db"))
    with pytest.raises(StoreError, match="there is no such file"):
        await backup_store(str(tmp_path / "none.db"), tmp_path / "b.db")
    assert named(tmp_path, "new.db") == []


async def test_backup_of_newer_code_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, listen=False):
        await backup_store(str(tmp_path / "q.db"), tmp_path / "b.db")
    with closing(sqlite3.connect(tmp_path / "b.db")) as newer, newer:
        newer.execute("UPDATE kvqueue_schema SET oldest_code = 99")

    with pytest.raises(SchemaTooNewError):
        await restore_store(tmp_path / "b.db", str(tmp_path / "new.db"))


@pytest.mark.parametrize(
    ("url", "error"),
    [
        (":memory:", "has no file. Use copy_store"),
        ("postgresql://shop@host/shop", "pg_dump and pg_restore"),
        (7, "allowed is a str"),
    ],
)
async def test_what_has_no_file_is_refused_with_what_to_use(
    tmp_path: Path, url: Any, error: str
) -> None:
    with pytest.raises(InvalidOptionError, match=error):
        await backup_store(url, tmp_path / "b.db")
    with pytest.raises(InvalidOptionError, match=error):
        await restore_store(tmp_path / "b.db", url)


async def test_cancelled_backup_leaves_nothing_behind(tmp_path: Path) -> None:
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hold(progress: BackupProgress) -> None:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(10)

    async with running(tmp_path, listen=False) as bench:
        await bench.queue.send_messages([("n", "x" * 60_000)] * 400)
        backup = asyncio.create_task(
            backup_store(str(tmp_path / "q.db"), tmp_path / "b.db", progress=hold)
        )
        await begun.wait()
        backup.cancel()
        loop.call_later(0.1, go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await backup
        left = named(tmp_path, "b.db")

    assert left == []


async def test_backup_that_another_makes_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "b.db.unfinished").write_bytes(b"another's")

    async with Kv.open(str(tmp_path / "q.db")):
        with pytest.raises(InvalidOptionError, match="another backup makes it, or was killed"):
            await backup_store(str(tmp_path / "q.db"), tmp_path / "b.db")

    assert (tmp_path / "b.db.unfinished").read_bytes() == b"another's"


async def test_directory_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    async with Kv.open(str(tmp_path / "q.db")):
        with pytest.raises(StoreError, match=r"none/b\.db\.unfinished cannot be written"):
            await backup_store(str(tmp_path / "q.db"), tmp_path / "none" / "b.db")


async def test_error_of_the_source_names_the_source(tmp_path: Path) -> None:
    source = tmp_path / "text"
    source.write_text("no database, but text enough to be read as one" * 100)

    with pytest.raises(StoreError, match=f"^{source}: file is not a database"):
        await backup_store(str(source), tmp_path / "b.db")
    with pytest.raises(StoreError, match=f"^{source}: file is not a database"):
        await restore_store(source, str(tmp_path / "new.db"))
    assert named(tmp_path, "") == ["text"]


async def test_what_a_failed_backup_leaves_beside_its_file_is_removed(tmp_path: Path) -> None:
    async with Kv.open(str(tmp_path / "q.db")) as kv:
        await kv.set(("k",), 1)

    def fail(_progress: BackupProgress) -> None:
        (tmp_path / "b.db.unfinished-wal").touch()
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        await backup_store(str(tmp_path / "q.db"), tmp_path / "b.db", progress=fail)

    assert named(tmp_path, "b.db") == []
