"""What the store's tests are given: a clock set by hand, and short words for the verbs."""

from typing import Any

from kvqueue_fastapi.model import (
    AtomicWrite,
    Claim,
    Idempotency,
    MessageRecord,
    Outcome,
    Send,
    Settlement,
    Wanted,
)
from kvqueue_fastapi.store import AnyStore
from kvqueue_fastapi.store.base import ClaimRequest

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
