"""What is not copied, or not there, and what the error says to do."""

from pathlib import Path
from typing import Any

import pytest

from kvqueue_fastapi import (
    Kv,
    StoreError,
    copy_store,
)
from kvqueue_fastapi.model import AtomicWrite
from tests.copying.pairs import Pair
from tests.store.given import (
    ManualClock,
    claimed_ids,
    mail,
    send,
)


async def test_a_target_that_holds_something_is_refused_by_what_it_holds(
    filled: Pair, clock: ManualClock
) -> None:
    async with filled.target.opened(clock) as store:
        sent = await send(store, mail(), mail())

    with pytest.raises(StoreError, match=r"is not new: it holds .*2 rows in kvqueue_messages"):
        await filled.copy()

    async with filled.target.opened(clock) as store:
        assert await claimed_ids(store) == sent


async def test_a_target_that_gave_ids_or_versions_is_refused(
    pair: Pair, clock: ManualClock
) -> None:
    async with pair.source.opened(clock), pair.target.opened(clock) as store:
        await store.commit(AtomicWrite(versioned=True))
    with pytest.raises(StoreError, match="versions of keys that are gone, up to 1"):
        await pair.copy()

    async with pair.target.opened(clock) as store:
        await store.admin.discard(await send(store, mail()))
    pair.target.execute("DELETE FROM {schema}.kvqueue_types")
    with pytest.raises(StoreError, match=r"ids of messages that are gone, up to \d+"):
        await pair.copy()


async def test_a_store_is_not_copied_into_itself(filled: Pair) -> None:
    with pytest.raises(StoreError, match="is the source itself"):
        await Pair(filled.source, filled.source).copy()


@pytest.mark.parametrize("used", ["source", "target"])
async def test_a_store_on_which_a_process_listens_is_refused_by_its_name(
    pair: Pair, clock: ManualClock, used: str
) -> None:
    async with pair.source.opened(clock), pair.target.opened(clock):
        pass
    side = pair.source if used == "source" else pair.target
    async with side.opened(clock) as store:
        listener_id = await store.enter_listener(["mail"])

        with pytest.raises(StoreError, match=f"in use by process .*{listener_id}.* Stop every app"):
            await pair.copy()

        store.leave_listener(listener_id)
        assert (await pair.copy()).messages == 0


async def test_a_memory_store_that_listens_is_refused(tmp_path: Path) -> None:
    async with Kv.open(":memory:") as kv:
        await kv._handle.store.enter_listener(["mail"])

        with pytest.raises(StoreError, match="in use by process"):
            await copy_store(kv, str(tmp_path / "target.db"))


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("data", b"a\0b", "NUL"),
        ("errors", b"\xff", "no UTF-8"),
        ("type", b"\xe2", "no UTF-8"),
        ("priority", 1 << 31, "32 bits"),
        ("state", -(1 << 15) - 1, "16 bits"),
    ],
)
async def test_what_postgres_cannot_store_is_named_and_can_be_put_right(
    to_postgres: Pair, clock: ManualClock, column: str, value: Any, why: str
) -> None:
    async with to_postgres.source.opened(clock) as store:
        await send(store, *[mail("1")] * 3)
    cast = "CAST(? AS TEXT)" if isinstance(value, bytes) else "?"
    update = f"UPDATE kvqueue_messages SET {column} = {cast} WHERE id = 2"
    to_postgres.source.execute(update, value)

    with pytest.raises(StoreError, match=f"message 2 of kvqueue_messages: its {column} is .*{why}"):
        await to_postgres.copy()
    with pytest.raises(StoreError, match="unfinished copy"):
        async with to_postgres.target.opened(clock):
            pass

    to_postgres.source.execute(update, 0 if isinstance(value, int) else b"fine")
    assert (await to_postgres.copy()).messages == 3
