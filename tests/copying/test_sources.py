"""From where a copy can be made, and that nothing changes there."""

import hashlib
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from kvqueue_fastapi import (
    InvalidOptionError,
    Kv,
    KvU64,
    SchemaTooNewError,
    StoreError,
    copy_store,
)
from tests.copying.pairs import SETTINGS, Pair, Side


async def test_a_store_in_memory_is_copied_from_the_open_kv(tmp_path: Path) -> None:
    target = str(tmp_path / "kept.db")
    async with Kv.open(":memory:") as kv:
        await kv.set(("a", 1), {"b": [1]})
        await kv.set(("n",), KvU64(7))
        await kv.enqueue("hello")

        copied = await copy_store(kv, target)

        assert (copied.keys, copied.messages) == (2, 1)
        await kv.set(("a", 2), "the source goes on")
    async with Kv.open(target) as kept:
        assert (await kept.get(("a", 1))).value == {"b": [1]}
        assert (await kept.get(("n",))).value == KvU64(7)


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
async def test_an_open_kv_of_any_engine_is_a_source(
    engine: str, make_side: Callable[[str, str], Side]
) -> None:
    source, target = make_side(engine, "source"), make_side("sqlite", "target")
    async with Kv.open(source.url, settings=source.settings) as kv:
        await kv.set(("a",), 1)

        assert (await copy_store(kv, target.url)).keys == 1


@pytest.mark.parametrize("memory", [":memory:", "sqlite:///:memory:"])
async def test_a_url_in_memory_is_refused_with_what_to_do(tmp_path: Path, memory: str) -> None:
    with pytest.raises(InvalidOptionError, match="give copy_store the open Kv instead"):
        await copy_store(memory, str(tmp_path / "target.db"))
    with pytest.raises(InvalidOptionError, match=r"target is ':memory:'|target is 'sqlite:"):
        await copy_store(str(tmp_path / "source.db"), memory)


async def test_a_source_that_is_not_there_is_refused_and_not_made(files: Pair) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        await files.copy()

    assert not files.source.is_there()
    assert not files.target.is_there()


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
async def test_a_source_that_is_no_store_is_refused_and_left_as_it_is(
    engine: str, make_side: Callable[[str, str], Side]
) -> None:
    pair = Pair(make_side(engine, "source"), make_side("sqlite", "target"))
    if engine == "sqlite":
        pair.source.execute("CREATE TABLE orders (id INTEGER)")

    with pytest.raises(StoreError, match="holds no store"):
        await pair.copy()

    assert not pair.target.is_there()


async def test_a_source_of_newer_code_is_refused(filled: Pair) -> None:
    update = "UPDATE {schema}.kvqueue_schema SET applied = 99"
    filled.source.execute(update)
    with pytest.raises(StoreError, match=r"schema 99, this code knows .* Upgrade"):
        await filled.copy()

    filled.source.execute(update + ", oldest_code = 99")
    with pytest.raises(SchemaTooNewError):
        await filled.copy()


async def test_a_source_without_the_newest_schema_is_copied_and_left_so(
    filled_files: Pair,
) -> None:
    filled_files.source.execute("ALTER TABLE kvqueue_schema DROP COLUMN copying")
    filled_files.source.execute("UPDATE kvqueue_schema SET applied = 1")

    await filled_files.copy()

    assert filled_files.source.execute("SELECT applied FROM kvqueue_schema") == [(1,)]


async def test_a_source_of_too_old_a_schema_is_refused_with_what_to_do(filled_files: Pair) -> None:
    filled_files.source.execute("UPDATE kvqueue_schema SET applied = 0")

    with pytest.raises(StoreError, match=r"copied can be one from 1 on\. Start an app on it"):
        await filled_files.copy()


async def test_no_byte_of_the_source_changes(filled_files: Pair) -> None:
    before = _digests(filled_files.source)

    await filled_files.copy()

    assert _digests(filled_files.source)[""] == before[""]


async def test_no_byte_changes_of_a_source_that_was_killed(filled_files: Pair) -> None:
    # As a process leaves it that is killed: with commits that are in the -wal alone.
    path = filled_files.source.url
    killed = Side(path + ".killed", SETTINGS)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("INSERT INTO kvqueue_messages (type) VALUES ('late')")
        for ending in ("", "-wal"):
            shutil.copyfile(path + ending, killed.url + ending)
    before = _digests(killed)

    copied = await Pair(killed, filled_files.target).copy()

    after = _digests(killed)
    assert (after[""], after["-wal"]) == (before[""], before["-wal"])
    late = "SELECT count(*) FROM kvqueue_messages WHERE type = 'late'"
    assert filled_files.target.execute(late) == [(1,)]
    assert (
        copied.messages
        == filled_files.target.execute("SELECT count(*) FROM kvqueue_messages")[0][0]
    )


def _digests(side: Side) -> dict[str, str]:
    there = {ending: Path(side.url + ending) for ending in ("", "-wal")}
    return {
        ending: hashlib.sha256(path.read_bytes()).hexdigest()
        for ending, path in there.items()
        if path.exists()
    }
