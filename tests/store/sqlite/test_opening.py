"""Opening: what cannot be a queue is refused with an error that names the file and a remedy."""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kvqueue_fastapi.errors import KvQueueClosedError, StoreBusyError, StoreError
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import AnyStore, open_copy_source, open_store
from tests.store.given import mail, send

NOBODY = 65_534


@pytest.fixture
def diary(path: Path) -> Iterator[Path]:
    text = "Dear diary, today I learnt that a file of text is no database. " * 100
    path.write_text(text)
    yield path
    assert path.read_text() == text


async def test_file_that_is_no_database_is_refused(diary: Path, settings: KvQueueSettings) -> None:
    with pytest.raises(StoreError, match=r"queue\.db: file is not a database\. Point KVQUEUE_URL"):
        await open_store(str(diary), settings)


async def test_missing_directory_is_named(tmp_path: Path, settings: KvQueueSettings) -> None:
    with pytest.raises(StoreError, match=r"no/queue\.db: unable to open.* Check that its dir"):
        await open_store(str(tmp_path / "no" / "queue.db"), settings)


async def test_directory_is_no_database(tmp_path: Path, settings: KvQueueSettings) -> None:
    with pytest.raises(StoreError, match=r"is a directory\. Give the path of a file in it"):
        await open_store(str(tmp_path), settings)


async def test_pipe_is_no_database(path: Path, settings: KvQueueSettings) -> None:
    os.mkfifo(path)

    with pytest.raises(StoreError, match=r"queue\.db is no file, but a pipe.* Give the path of a"):
        await open_store(str(path), settings)
    with pytest.raises(StoreError, match=r"queue\.db is no file, but a pipe"):
        await open_copy_source(str(path), settings)


@pytest.fixture
def empty(path: Path) -> Path:
    path.touch()
    return path


async def test_empty_file_becomes_a_queue(empty: Path, settings: KvQueueSettings) -> None:
    store = await open_store(str(empty), settings)

    assert await send(store, mail()) == [1]
    await store.close()


@pytest.fixture
def read_only(settings: KvQueueSettings) -> Iterator[Path]:
    """A directory and a database that this user may only read, even where it is root."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        path = Path(directory) / "queue.db"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE orders (id)")
        path.chmod(0o444)
        Path(directory).chmod(0o555)
        user = os.geteuid()
        os.seteuid(NOBODY if user == 0 else user)
        yield path
        os.seteuid(user)
        Path(directory).chmod(0o755)


async def test_file_that_may_only_be_read_is_refused(
    read_only: Path, settings: KvQueueSettings
) -> None:
    with pytest.raises(StoreError, match=r"readonly database\. Give this user the right to write"):
        await open_store(str(read_only), settings)


async def test_file_that_another_program_holds_is_busy(
    path: Path, settings: KvQueueSettings
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE orders (id)")
        other.execute("BEGIN EXCLUSIVE")

        with pytest.raises(StoreBusyError):  # after a third of a lease
            await open_store(str(path), settings.model_copy(update={"lease_s": 3}))

    store = await open_store(str(path), settings)
    await store.close()


async def test_failed_opening_leaves_no_thread(tmp_path: Path, settings: KvQueueSettings) -> None:
    import threading

    before = threading.active_count()

    with pytest.raises(StoreError):
        await open_store(str(tmp_path / "no" / "queue.db"), settings)

    assert threading.active_count() == before


async def test_file_is_kept_in_wal_mode_and_can_shrink(store: AnyStore, path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert other.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        assert other.execute("PRAGMA user_version").fetchone() == (0,)


async def test_closing_twice_is_fine(path: Path, settings: KvQueueSettings) -> None:
    store = await open_store(str(path), settings)

    await store.close()
    await store.close()

    with pytest.raises(KvQueueClosedError):
        await send(store, mail())


async def test_closed_store_leaves_one_file(
    path: Path, settings: KvQueueSettings, tmp_path: Path
) -> None:
    store = await open_store(str(path), settings)
    await store.enter_listener(["mail"])
    await send(store, mail())

    await store.close()

    assert _names(tmp_path) == ["queue.db"]


def _names(directory: Path) -> list[str]:
    return [one.name for one in directory.iterdir()]
