"""What a read is typed as: mypy and pyright check this file, and the run shows that it is so."""

from dataclasses import dataclass
from typing import Any, assert_type

import pytest
from pydantic import BaseModel

from kvqueue_fastapi import Kv, KvEntry, KvListEntry, KvU64, PayloadError


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


@pytest.mark.parametrize("stored", ["x", 1, [], {"name": 1}, b"{}", KvU64(1)])
async def test_value_of_another_type_is_refused_by_the_name_of_its_key(stored: Any) -> None:
    async with Kv.open(":memory:") as kv:
        await kv.set(("users", 1), stored)

        with pytest.raises(PayloadError, match=r"Key \('users', 1\): Value does not fit"):
            await kv.get(("users", 1), User)
