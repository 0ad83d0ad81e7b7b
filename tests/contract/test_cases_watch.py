"""Cases 54 to 56: a watch shows keys at once and after each change, until it is ended."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from kvqueue_fastapi import InvalidKeyError, InvalidOptionError, Kv, KvEntry, KvU64, PayloadError
from tests.contract.harness import PATIENCE_S, QUIET_S, until

KEY = ("a",)
Watch = AsyncGenerator[list[KvEntry[Any]]]


@pytest.fixture(params=["file", "memory"])
async def kv(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kv]:
    url = str(tmp_path / "kv.db") if request.param == "file" else ":memory:"
    async with Kv.open(url) as kv:
        yield kv


class Flag(BaseModel):
    on: bool


class Follower:
    """Reads a watch as fast as it can, and keeps what it saw."""

    def __init__(self, watch: Watch) -> None:
        self.seen: list[list[Any]] = []
        self._watch = watch
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for entries in self._watch:
            self.seen.append([entry.value for entry in entries])

    async def reach(self, last: list[Any]) -> None:
        """Wait until this is what came last."""

        async def holds() -> bool:
            return self.seen[-1:] == [last]

        await until(holds)

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


@asynccontextmanager
async def following(
    kv: Kv, keys: Sequence[tuple[Any, ...]], kind: Any = None
) -> AsyncGenerator[Follower]:
    follower = Follower(kv.watch(keys, kind))
    try:
        yield follower
    finally:
        await follower.end()


async def values(watch: Watch) -> list[Any]:
    """What the watch shows next."""
    async with asyncio.timeout(PATIENCE_S):
        return [entry.value for entry in await anext(watch)]


async def all_but(tasks: set[asyncio.Task[Any]]) -> None:
    """Wait until no other tasks are left than these."""

    async def holds() -> bool:
        return asyncio.all_tasks() <= tasks

    await until(holds)


@pytest.mark.case(54)
async def test_watch_shows_the_absent_key_first_and_then_what_is_set(kv: Kv) -> None:
    async with aclosing(kv.watch([KEY])) as watch:
        first = await anext(watch)
        committed = await kv.set(KEY, 1)
        second = await anext(watch)

    assert first == [KvEntry(KEY, None, None)]
    assert second == [KvEntry(KEY, 1, committed.versionstamp)]


@pytest.mark.case(54)
async def test_watch_shows_a_key_at_once_that_is_there(kv: Kv) -> None:
    await kv.set(KEY, Flag(on=True))

    async with aclosing(kv.watch([KEY], Flag)) as watch:
        (entry,) = await anext(watch)

    assert entry.value == Flag(on=True)


@pytest.mark.case(54)
async def test_same_value_set_again_is_a_change_and_another_key_is_none(kv: Kv) -> None:
    await kv.set(KEY, 1)
    async with following(kv, [KEY]) as follower:
        await follower.reach([1])

        await kv.set(("b",), 1)
        await kv.delete(("c",))
        await kv.set(("a", "b"), 1)
        await kv.set(KEY, 1)
        await kv.enqueue(1)
        await asyncio.sleep(QUIET_S)

    assert follower.seen == [[1], [1]]


@pytest.mark.case(55)
async def test_watch_shows_its_keys_in_the_order_in_which_they_were_asked_for(kv: Kv) -> None:
    keys = [("c",), ("a",), ("b",), ("a",)]
    await kv.atomic().set(("a",), 1).set(("b",), KvU64(2)).commit()
    async with aclosing(kv.watch(keys)) as watch:
        first = await anext(watch)
        await kv.delete(("a",))
        second = await anext(watch)

    assert [entry.key for entry in first] == [entry.key for entry in second] == keys
    assert [entry.value for entry in first] == [None, 1, KvU64(2), 1]
    assert second[1] == second[3] == KvEntry(("a",), None, None)


@pytest.mark.case(55)
async def test_last_of_many_quick_changes_is_shown(kv: Kv) -> None:
    async with following(kv, [KEY]) as follower:
        await follower.reach([None])
        await asyncio.gather(*(kv.set(KEY, number) for number in range(200)))
        last = (await kv.get(KEY)).value
        await follower.reach([last])
        await asyncio.sleep(QUIET_S)

    assert follower.seen[-1] == [last]
    assert len(follower.seen) < 50


@pytest.mark.case(55)
async def test_watch_never_shows_half_a_commit(kv: Kv) -> None:
    async with following(kv, [("a",), ("b",)]) as follower:
        for number in range(100):
            await kv.atomic().set(("a",), number).set(("b",), number).commit()
        await follower.reach([99, 99])

    assert all(one == other for one, other in follower.seen)


@pytest.mark.case(55)
async def test_changes_come_in_the_order_of_their_commits(kv: Kv) -> None:
    async with aclosing(kv.watch([KEY])) as watch:
        await values(watch)
        stamps = [(await kv.set(KEY, number)).versionstamp for number in range(30)]
        seen = [(await anext(watch))[0].versionstamp]
        while seen[-1] != stamps[-1]:
            seen.append((await anext(watch))[0].versionstamp)

    assert seen == sorted(set(seen), key=str)
    assert set(seen) <= set(stamps)


@pytest.mark.case(55)
async def test_delete_of_an_absent_key_is_no_change(kv: Kv) -> None:
    async with aclosing(kv.watch([KEY])) as watch:
        await values(watch)

        await kv.delete(KEY)
        await kv.set(("b",), 1)
        upcoming = asyncio.create_task(values(watch))
        await asyncio.sleep(QUIET_S)
        assert not upcoming.done()
        await kv.set(KEY, 1)

        assert await upcoming == [1]


@pytest.mark.case(55)
async def test_slow_reader_is_shown_the_last_state_and_nothing_in_between(kv: Kv) -> None:
    async with aclosing(kv.watch([KEY])) as slow, following(kv, [KEY]) as quick:
        await values(slow)
        for number in range(5):
            await kv.set(KEY, number)
            await quick.reach([number])

        assert await values(slow) == [4]
        await kv.set(KEY, 5)
        assert await values(slow) == [5]


@pytest.mark.case(55)
async def test_slow_reader_is_not_shown_again_what_came_back_to_what_he_saw(kv: Kv) -> None:
    async with aclosing(kv.watch([KEY])) as slow, following(kv, [KEY]) as quick:
        await values(slow)
        await kv.set(KEY, 1)
        await quick.reach([1])
        await kv.delete(KEY)
        await quick.reach([None])

        upcoming = asyncio.create_task(values(slow))
        await asyncio.sleep(QUIET_S)
        await kv.set(KEY, 2)

        assert await upcoming == [2]


@pytest.mark.case(55)
async def test_watch_shows_what_a_second_store_on_the_file_writes(tmp_path: Path) -> None:
    url = str(tmp_path / "kv.db")
    async with Kv.open(url) as reader, Kv.open(url) as writer, aclosing(reader.watch([KEY])) as one:
        assert await values(one) == [None]
        await writer.set(KEY, 1)

        assert await values(one) == [1]


@pytest.mark.case(55)
async def test_watch_shows_the_key_of_a_message_that_was_given_up(kv: Kv) -> None:
    async def fail(value: str) -> None:
        raise ValueError(value)

    async with following(kv, [("failed",)]) as follower:
        await follower.reach([None])
        listening = asyncio.create_task(kv.listen_queue(fail))
        await kv.enqueue("lost", backoff_schedule=[], keys_if_undelivered=[("failed",)])

        await follower.reach(["lost"])
        await kv.close()
        await listening


@pytest.mark.case(56)
async def test_watches_end_when_the_store_is_closed(kv: Kv) -> None:
    followers = [Follower(kv.watch([KEY])) for _ in range(3)]
    for follower in followers:
        await follower.reach([None])

    await kv.close()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(follower.task for follower in followers))

    assert [follower.seen for follower in followers] == [[[None]]] * 3


@pytest.mark.case(56)
async def test_reader_can_close_the_store_himself(kv: Kv) -> None:
    seen = []

    async with asyncio.timeout(PATIENCE_S):
        async for entries in kv.watch([KEY]):
            seen.append(entries[0].value)
            await kv.close()

    assert seen == [None]


@pytest.mark.case(56)
@pytest.mark.parametrize("how", ["break", "cancel", "aclose", "error"])
async def test_watch_that_is_left_leaves_nothing_behind(kv: Kv, how: str) -> None:
    tasks = asyncio.all_tasks()

    async def read() -> None:
        watch = kv.watch([KEY])
        async for entries in watch:
            if how == "break" and entries:
                break
            if how == "aclose":
                await watch.aclose()
            if how == "error":
                raise LookupError

    async def read_and_fail() -> None:
        with suppress(LookupError):
            await read()

    reading = asyncio.create_task(read_and_fail())
    await asyncio.sleep(0.05)
    reading.cancel()

    await all_but(tasks)


@pytest.mark.case(56)
@pytest.mark.parametrize("at_rest", [False, True])
async def test_watch_can_begin_again_after_another_was_left(kv: Kv, *, at_rest: bool) -> None:
    tasks = asyncio.all_tasks()
    for number in range(5):
        async with aclosing(kv.watch([KEY])) as watch:
            assert await values(watch) == [number or None]
            await kv.set(KEY, number + 1)
            assert await values(watch) == [number + 1]
        if at_rest:
            await all_but(tasks)


@pytest.mark.case(56)
async def test_ten_keys_can_be_watched_and_eleven_cannot(kv: Kv) -> None:
    keys = [("k", number) for number in range(11)]
    with pytest.raises(TypeError, match=r"Too many keys \(max 10\)"):
        kv.watch(keys)

    async with aclosing(kv.watch(keys[:10])) as watch:
        await values(watch)
        await kv.set(("k", 9), 1)

        assert await values(watch) == [None] * 9 + [1]


@pytest.mark.case(56)
async def test_watch_of_no_keys_shows_nothing_and_ends(kv: Kv) -> None:
    assert [entries async for entries in kv.watch([])] == []


@pytest.mark.case(56)
@pytest.mark.parametrize("keys", ["ab", ("a",), [None], [("a", None)], {("a",)}, 5])
async def test_what_are_no_keys_is_refused_at_the_call(kv: Kv, keys: Any) -> None:
    with pytest.raises((InvalidKeyError, InvalidOptionError)):
        kv.watch(keys)


@pytest.mark.case(56)
async def test_type_that_nothing_can_check_is_refused_at_the_call(kv: Kv) -> None:
    with pytest.raises(InvalidOptionError, match="which pydantic cannot check"):
        kv.watch([KEY], type(kv))


async def test_hundred_watches_all_see_a_change(kv: Kv) -> None:
    followers = [Follower(kv.watch([KEY])) for _ in range(100)]
    await asyncio.gather(*(follower.reach([None]) for follower in followers))

    await kv.set(KEY, 1)
    await asyncio.gather(*(follower.reach([1]) for follower in followers))
    for follower in followers:
        await follower.end()

    assert [follower.seen for follower in followers] == [[[None], [1]]] * 100


async def test_watches_of_more_keys_than_one_read_takes_each_see_their_own(kv: Kv) -> None:
    watched = [[("k", watch, key) for key in range(10)] for watch in range(110)]
    followers = [Follower(kv.watch(keys)) for keys in watched]
    await asyncio.gather(*(follower.reach([None] * 10) for follower in followers))

    for number in (0, 109):
        await kv.set(("k", number, 3), number)
        await followers[number].reach([*[None] * 3, number, *[None] * 6])
    for follower in followers:
        await follower.end()

    assert [len(follower.seen) for follower in followers] == [2, *[1] * 108, 2]


async def test_typed_watch_ends_with_the_value_that_does_not_fit_and_others_go_on(kv: Kv) -> None:
    await kv.set(KEY, Flag(on=True))
    async with aclosing(kv.watch([KEY], Flag)) as typed, following(kv, [KEY]) as plain:
        await values(typed)
        await kv.set(KEY, "off")

        with pytest.raises(PayloadError, match=r"Key \('a',\)"):
            await values(typed)
        await kv.set(KEY, "on")
        await plain.reach(["on"])

        assert [entries async for entries in typed] == []


async def test_reader_may_write_the_key_that_he_watches(kv: Kv) -> None:
    seen = []
    async with asyncio.timeout(PATIENCE_S):
        async for (entry,) in kv.watch([KEY], int):
            seen.append(entry.value or 0)
            if seen[-1] == 5:
                break
            await kv.atomic().check(entry).set(KEY, seen[-1] + 1).commit()

    assert seen == [0, 1, 2, 3, 4, 5]
