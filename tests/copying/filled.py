"""A store with something of everything that a store may hold."""

from kvqueue_fastapi.model import (
    AtomicWrite,
    Encoding,
    Failure,
    KvDelete,
    KvSet,
    Outcome,
    Send,
)
from kvqueue_fastapi.store import AnyStore
from tests.store.given import ManualClock, claim, crash, mail, once, send, settle

OPTIONS = (
    '{"headers":{"a":"ä"},"backoff_schedule_ms":[1000,2000],"keys_if_undelivered":["027072657300"]}'
)
HOUR_MS = 3_600_000


async def fill(store: AnyStore, clock: ManualClock) -> None:
    """Leave messages in every state, dead letters, keys of every kind, and gaps between ids."""
    await _leave_dead_letters(store, clock)
    await _leave_crashed(store, clock)
    await _leave_tried(store, clock)
    await _leave_waiting(store)
    await _leave_keys(store, clock)
    await store.admin.set_paused("stopped", paused=True)


async def _leave_waiting(store: AnyStore) -> None:
    await send(
        store,
        Send("plain", '{"n": 1, "text": "Grüße 🫖 \\u0000"}'),
        Send("plain", "2", priority=7),
        Send("plain", "3", priority=-1_000_000, options=OPTIONS),
        Send("later", "4", delay_ms=HOUR_MS),
        Send("ordered", "5", ordering_key="a"),
        Send("ordered", "6", ordering_key="a"),
        Send("ordered", "7", ordering_key="b", delay_ms=HOUR_MS),
        Send("ordered", "8", ordering_key="b"),
        Send("stopped", "9"),
        once("paid", "10"),
        once("ä", '"11"'),
    )


async def _leave_tried(store: AnyStore, clock: ManualClock) -> None:
    await send(store, Send("failed", "20"), Send("failed", "21", ordering_key="c"))
    for held in await claim(store, "failed"):
        failure = Failure("ValueError: nö", "Traceback …\n  boom")
        await settle(store, held, Outcome.RETRY, delay_ms=1_000, failure=failure)
    clock.pass_ms(1_000)
    first, second = await claim(store, "failed")
    await settle(store, first, Outcome.LATER, delay_ms=HOUR_MS)
    await settle(store, second, Outcome.RETRY, failure=Failure("KeyError: 2"))


async def _leave_crashed(store: AnyStore, clock: ManualClock) -> None:
    for times in (1, 2, 3):
        kind = f"crashed-{times}"
        await send(store, Send(kind, f"{30 + times}"))
        await crash(store, clock, kind, times=times)
        await claim(store, "nothing")  # which finds that the lease is over


async def _leave_dead_letters(store: AnyStore, clock: ManualClock) -> None:
    await send(store, mail("40", options=OPTIONS), mail("41", ordering_key="d"), mail("42"))
    for held in await claim(store):
        await settle(store, held, Outcome.DEAD, failure=Failure("gone", "trace"))
    clock.pass_ms(1)
    oldest = (await store.admin.dead_ids("mail", died_by_ms=1 << 62, after=0, limit=1))[0]
    await store.admin.requeue([oldest])


async def _leave_keys(store: AnyStore, clock: ManualClock) -> None:
    sets = [
        KvSet(b"\x02json\x00", '{"ä": [1, null]}'.encode()),
        KvSet(b"\x02count\x00", (2**64 - 1).to_bytes(8, "little"), Encoding.U64),
        KvSet(b"\x02raw\x00\x01\xff\x00", bytes(range(256)), Encoding.BYTES),
        KvSet(b"\x02empty\x00", b"", Encoding.BYTES),
        KvSet(b"\x02soon\x00", b"1", expire_in_ms=HOUR_MS),
    ]
    for one in sets:
        await store.commit(AtomicWrite(mutations=[one]))
    await store.commit(AtomicWrite(mutations=[KvDelete(b"\x02none\x00")]))
    # The last one, because a later commit would sweep it away.
    await store.commit(AtomicWrite(mutations=[KvSet(b"\x02over\x00", b"1", expire_in_ms=1)]))
    clock.pass_ms(2)
