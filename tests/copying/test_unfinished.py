"""A copy that ended early: nobody can use it, and it goes on when it is run again."""

from collections.abc import Callable

import pytest

from kvqueue_fastapi import (
    CopyProgress,
    StoreError,
)
from kvqueue_fastapi.store.copies import TABLES
from tests.copying.pairs import EndedError, Pair, Side, ending_at
from tests.store.given import (
    ManualClock,
)


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize(("step", "call"), [("copy", 1), ("copy", 4), ("copy", 9), ("check", 2)])
async def test_a_copy_that_ended_early_cannot_be_used_and_goes_on_when_it_is_run_again(
    filled: Pair, clock: ManualClock, step: str, call: int
) -> None:
    told: list[CopyProgress] = []
    with pytest.raises(EndedError):
        await filled.copy(ending_at(step, call))

    with pytest.raises(StoreError, match=r"unfinished copy of .*source.* or empty it: \w+"):
        async with filled.target.opened(clock):
            pass
    await filled.copy(told.append)

    assert await filled.target.rows() == await filled.source.rows()
    again = [one for one in told if one.step == "copy"]
    whole = -(-sum(map(len, (await filled.source.rows()).values())) // 3)
    assert len(again) <= whole + len(TABLES) - call if step == "copy" else not again


@pytest.mark.usefixtures("small_slices")
async def test_progress_ends_with_all_rows_of_each_table(filled: Pair) -> None:
    told: list[CopyProgress] = []
    with pytest.raises(EndedError):
        await filled.copy(ending_at("copy", 5))

    await filled.copy(told.append)

    last = {(one.step, one.table): one for one in told}
    assert all(one.rows == one.total for one in last.values())
    assert {table for step, table in last if step == "check"} == {table.name for table in TABLES}


async def test_a_half_copied_file_is_closed_to_older_code(filled_files: Pair) -> None:
    oldest = "SELECT oldest_code FROM kvqueue_schema"
    with pytest.raises(EndedError):
        await filled_files.copy(ending_at("copy", 1))
    assert filled_files.target.execute(oldest) == [(2,)]

    await filled_files.copy()

    assert filled_files.target.execute(oldest) == [(1,)]


async def test_an_unfinished_copy_takes_no_other_source_and_is_none(
    filled: Pair, make_side: Callable[[str, str], Side], clock: ManualClock
) -> None:
    other = make_side("sqlite", "other")
    async with other.opened(clock):
        pass
    with pytest.raises(EndedError):
        await filled.copy(ending_at("copy", 1))

    with pytest.raises(StoreError, match=r"unfinished copy of another store, .*source"):
        await Pair(other, filled.target).copy()
    with pytest.raises(StoreError, match=r"source .* holds an unfinished copy of .*source"):
        await Pair(filled.target, make_side("sqlite", "third")).copy()


@pytest.mark.usefixtures("small_slices")
async def test_two_copies_into_one_target_do_not_mix(filled: Pair) -> None:
    def interfere(_told: CopyProgress) -> None:
        filled.target.execute("UPDATE {schema}.kvqueue_schema SET copying = '{}'")

    with pytest.raises(StoreError, match=r"Another copy into .* runs at this moment"):
        await filled.copy(interfere)
