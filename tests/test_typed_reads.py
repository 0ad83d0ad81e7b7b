"""What a read is typed as: mypy and pyright check this file, and the run shows that it is so."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, assert_type

import pytest
from pydantic import BaseModel

from kvqueue_fastapi import InvalidOptionError, Kv, KvEntry, KvListEntry, KvU64, PayloadError


class User(BaseModel):
    """A model."""

    name: str


@dataclass
class Point:
    """A dataclass."""

    x: int


async def test_get_gives_an_entry_of_the_type() -> None:
    async with Kv.open(":memory:") as kv:
        await kv.set(("users", 1), User(name="Ada"))
        entry = await kv.get(("users", 1), User)
        untyped = await kv.get(("users", 1))

        assert_type(entry, KvEntry[User])
        assert_type(entry.value, User | None)
        assert_type(untyped, KvEntry[Any])
        assert entry.value == User(name="Ada")
        assert untyped.value == {"name": "Ada"}


async def test_get_many_gives_entries_of_the_type() -> None:
    async with Kv.open(":memory:") as kv:
        await kv.set(("points", 1), Point(1))
        entries = await kv.get_many([("points", 1), ("points", 2)], Point)

        assert_type(entries, list[KvEntry[Point]])
        assert [entry.value for entry in entries] == [Point(1), None]


async def test_list_gives_values_that_are_there() -> None:
    async with Kv.open(":memory:") as kv:
        await kv.set(("tags", 1), ["a", "b"])
        async for entry in kv.list(prefix=("tags",), type=list[str]):
            assert_type(entry, KvListEntry[list[str]])
            assert_type(entry.value, list[str])
            assert_type(entry.versionstamp, str)
            assert entry.value == ["a", "b"]


async def test_watch_gives_entries_of_the_type() -> None:
    async with Kv.open(":memory:") as kv:
        await kv.atomic().sum(("count",), 3).commit()
        watch = kv.watch([("count",)], KvU64)
        entries = await anext(watch)
        await watch.aclose()

        assert_type(entries, list[KvEntry[KvU64]])
        assert entries[0].value == KvU64(3)


async def test_commit_gives_versionstamp_and_message_ids() -> None:
    async with Kv.open(":memory:") as kv:
        committed = await kv.atomic().enqueue(1).commit()

        assert_type(committed.versionstamp, str | None)
        assert_type(committed.message_ids, tuple[int, ...])
        assert committed.message_ids == (1,)


async def test_type_that_is_no_class_is_checked_and_typed_as_any() -> None:
    async with Kv.open(":memory:") as kv:
        await kv.set(("n",), 1)
        entry = await kv.get(("n",), int | None)
        literal = await kv.get(("n",), Literal[1])

        assert_type(literal, KvEntry[Any])
        assert (entry.value, literal.value) == (1, 1)
        with pytest.raises(PayloadError):
            await kv.get(("n",), Literal[2])


@pytest.mark.parametrize("kind", [5, "User", list["User"]])
async def test_type_that_cannot_be_checked_is_refused_also_where_the_key_is_absent(
    kind: Any,
) -> None:
    async with Kv.open(":memory:") as kv:
        for read in (kv.get(("k",), kind), kv.get_many([("k",)], kind)):
            with pytest.raises(InvalidOptionError, match="which pydantic cannot check"):
                await read
        with pytest.raises(InvalidOptionError):
            kv.list(prefix=(), type=kind)
        with pytest.raises(InvalidOptionError):
            kv.watch([("k",)], kind)


@pytest.mark.parametrize("stored", [b"my secret", KvU64(77_777), "my secret"])
async def test_error_of_a_typed_read_does_not_show_the_value(stored: Any) -> None:
    async with Kv.open(":memory:") as kv:
        await kv.set(("k",), stored)

        with pytest.raises(PayloadError) as caught:
            await kv.get(("k",), Point)
    assert "secret" not in str(caught.value)
    assert "77777" not in str(caught.value)


async def test_value_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    async with Kv.open(str(path)) as kv:
        await kv.set(("k",), "x")
        connection = sqlite3.connect(path)
        connection.execute("UPDATE kvqueue_kv SET value = ?", [b'"h\xe9"'])
        connection.commit()
        connection.close()

        with pytest.raises(PayloadError, match=r"Key \('k',\): Value cannot be decoded"):
            await kv.get(("k",))


@pytest.mark.parametrize("stored", ["x", 1, [], {"name": 1}, b"{}", KvU64(1)])
async def test_value_of_another_type_is_refused_by_the_name_of_its_key(stored: Any) -> None:
    async with Kv.open(":memory:") as kv:
        await kv.set(("users", 1), stored)

        with pytest.raises(PayloadError, match=r"Key \('users', 1\): Value does not fit"):
            await kv.get(("users", 1), User)
