"""What the store's tests are given: a clock set by hand, and short words for the verbs."""

import asyncio
import time
from typing import Any

import pytest

from kvqueue_fastapi.errors import StoreError
from kvqueue_fastapi.keeper import MessageRecord
from kvqueue_fastapi.model import (
    AtomicWrite,
    Claim,
    Idempotency,
    Outcome,
    Send,
    Settlement,
    Wanted,
)
from kvqueue_fastapi.store import AnyStore
from kvqueue_fastapi.store.base import ClaimRequest
from kvqueue_fastapi.store.postgres.engine import PostgresStore
from kvqueue_fastapi.store.sqlite.engine import SqliteStore

LEASE_MS = 30_000
DAY_MS = 86_400_000


class ManualClock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000

    def wall_ms(self) -> int:
        return self.now_ms

    def steady_ms(self) -> int:
        return self.now_ms - 1_600_000_000_000

    def pass_ms(self, milliseconds: int) -> None:
        self.now_ms += milliseconds


def mail(data: str = "null", **fields: Any) -> Send:
    return Send("mail", data, **fields)


def once(key: str, data: str = "1", *, digest: bytes | None = None) -> Send:
    return mail(data, idempotency=Idempotency(key, digest or data.encode(), DAY_MS))


async def send(store: AnyStore, *sends: Send) -> list[int]:
    """In one commit."""
    return list((await store.commit(AtomicWrite(sends=sends))).message_ids)


async def claim(
    store: AnyStore, *types: str, limit: int = 100, room: int = 100, **options: Any
) -> list[Claim]:
    wanted = [Wanted(kind, room) for kind in types or ("mail",)]
    options = {"lease_ms": LEASE_MS, **options}
    return list((await store.claim(ClaimRequest(wanted, limit=limit, **options))).claims)


async def claimed_ids(store: AnyStore, *types: str, **options: Any) -> list[int]:
    return [one.id for one in await claim(store, *types, **options)]


async def settle(
    store: AnyStore, held: Claim, outcome: Outcome = Outcome.DONE, **fields: Any
) -> bool:
    """Returns whether the lease still held."""
    return (await store.settle([ending(held, outcome, **fields)]))[0]


def ending(held: Claim, outcome: Outcome = Outcome.DONE, **fields: Any) -> Settlement:
    return Settlement(held.id, held.token, outcome, ordering_key=held.ordering_key, **fields)


async def crash(store: AnyStore, clock: ManualClock, *types: str, times: int = 1) -> Claim:
    """Claim one message and let its lease end, again and again. Returns the last claim."""
    for _ in range(times):
        found = await claim(store, *types, limit=1)
        (held,) = found or await claim(store, *types, isolated=True)
        clock.pass_ms(LEASE_MS)
    return held


async def shown(store: AnyStore, message_id: int) -> MessageRecord:
    record = await store.admin.show(message_id)
    assert record is not None
    return record


async def count_rows(store: AnyStore, table: str) -> int:
    """Also those that no verb shows."""
    is_sqlite = isinstance(store, SqliteStore)
    where = table if is_sqlite else f"{{schema}}.{table}"
    values: Any = ({},) if is_sqlite else ()
    rows = await store._fetch(f"SELECT count(*) FROM {where}", *values)
    return int(rows[0][0])


def spoil_batches(store: AnyStore, patch: pytest.MonkeyPatch) -> None:
    """Let what is done together fail, so that each is done alone."""
    if isinstance(store, SqliteStore):
        patch.setattr(store._batch, "_remember_types", _fail)
        return
    together = store._lanes._transactions._together

    async def alone(changes: Any, ids: Any, claims: Any, wait: Any) -> Any:
        if len(changes) + len(claims) > 1:
            _refuse()
        return await together(changes, ids, claims, wait)

    patch.setattr(store._lanes._transactions, "_together", alone)


def spoil_writing(store: AnyStore, patch: pytest.MonkeyPatch) -> None:
    """Let nothing be written, with a StoreError."""
    if isinstance(store, SqliteStore):
        patch.setattr(store._batch, "apply", _refuse)
    else:
        patch.setattr(store._lanes._transactions, "apply", _refuse)


def _fail(*_names: object) -> None:
    raise RuntimeError("not together")


def _refuse(*_names: object) -> None:
    raise StoreError("no such luck")


async def is_quiet(store: AnyStore) -> None:
    """Behind the first look at what other processes have written."""
    if isinstance(store, SqliteStore):
        store.extend([], LEASE_MS)
    else:
        await asyncio.to_thread(_hears, store)
    await asyncio.sleep(0)


def _hears(store: PostgresStore) -> None:
    deadline = time.monotonic() + 5
    while not store._notices._ready.is_set():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    store.extend([], LEASE_MS)
