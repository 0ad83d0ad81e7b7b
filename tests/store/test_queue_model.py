"""Whatever is done to a queue, and in whatever order: it does what its rules say.

Hypothesis chooses what is done. It is done to a store and to `QueueModel`, which are compared
after each step.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from kvqueue_fastapi.keeper import MessageRecord, Query, State
from kvqueue_fastapi.model import (
    AtomicWrite,
    Claim,
    Claimed,
    Committed,
    Failure,
    Idempotency,
    Outcome,
    Send,
    Settlement,
    Wanted,
)
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import AnyStore, open_store
from kvqueue_fastapi.store.base import ClaimRequest
from kvqueue_fastapi.store.postgres.engine import PostgresStore
from tests.store.given import ManualClock, ending
from tests.store.queue_model import UNFINISHED, Place, QueueModel

MEMORY: Final = ":memory:"
EVERYTHING: Final = Query(limit=10_000)
# What a power cut does is not looked at, and each commit would wait for the disk.
SETTINGS: Final = KvQueueSettings(
    max_crashes=4, dead_letter_retention_s=0.05, sqlite_synchronous="NORMAL"
)
EFFORT: Final = effort(deadline=None, derandomize=True, report_multiple_bugs=False)

MOST_STEPS: Final = 80
STEPS: Final = (
    *("send", "claim", "claim_and_crash", "pass_time") * 4,
    *("find_types", "pause_or_resume", "sweep", "reopen"),
)
STEPS_WITH_CLAIMS: Final = (
    *("settle", "do_at_once") * 4,
    *("settle_and_send", "extend", "extend", "leave", "discard"),
)
STEPS_WITH_DEAD_LETTERS: Final = ("requeue",)


def message(kind: str, **fields: Any) -> Send:
    return Send(kind, **fields)


def message_once(sent: Send, window_ms: int) -> Send:
    return sent._replace(idempotency=Idempotency("x", sent.data.encode(), window_ms))


def write(sends: list[Send], settlements: Sequence[Settlement]) -> AtomicWrite:
    return AtomicWrite(sends=sends, settlements=settlements)


# So few of each that messages meet, and times that end together or a moment apart.
TYPES = st.sampled_from(["a", "b", "c"])
DELAYS_MS = st.sampled_from([0, 0, 10, 11, 20])
LEASES_MS = st.sampled_from([10, 20])
HOLDERS = st.sampled_from([1, 2])
LIMITS = st.sampled_from([9, 9, 2, 1, 0])
SENDS = st.builds(
    message,
    TYPES,
    data=st.sampled_from(["1", "1", "1", "1", "2"]),
    delay_ms=DELAYS_MS,
    priority=st.sampled_from([0, 0, -1, 7]),
    ordering_key=st.sampled_from([None, None, "k", "l"]),
)
SENDS_ONCE = st.builds(message_once, SENDS, window_ms=st.sampled_from([20, 1_000]))
WANTED = st.lists(
    st.builds(Wanted, TYPES, LIMITS), min_size=1, max_size=3, unique_by=lambda one: one.type
)
REQUESTS = st.builds(
    ClaimRequest,
    WANTED,
    LIMITS,
    HOLDERS,
    LEASES_MS,
    st.sampled_from([True, True, False]),
    st.none(),
    st.sampled_from([False, False, False, True]),
)

Call = AtomicWrite | list[Settlement] | ClaimRequest
"""What the writer is asked for."""


def some(one: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(one, min_size=1, max_size=4)


def one_of_some(choices: Iterable[Sequence[Any]]) -> st.SearchStrategy[Any]:
    """One of any of these that is not empty, each as likely as the next, however many it has."""
    return st.one_of(*(st.sampled_from(one) for one in choices if one))


def writes(*endings: st.SearchStrategy[Settlement]) -> st.SearchStrategy[AtomicWrite]:
    """With some sends, and one of each of these endings."""
    return st.builds(write, some(SENDS | SENDS | SENDS_ONCE), st.tuples(*endings))


WRITES = writes()


class Play:
    """Stores of one database and the model of its rules, to which the same is done.

    Attributes:
        stores: each step is done to the next one.
        claims: all that were ever made.
    """

    def __init__(
        self, data: st.DataObject, *urls: str, settings: KvQueueSettings = SETTINGS
    ) -> None:
        self.draw = data.draw
        self.urls = urls
        self.settings = settings
        self.stores: deque[AnyStore] = deque()
        self.clock = ManualClock()
        self.model = QueueModel(self.clock, SETTINGS)
        self.claims: list[Claim] = []

    @property
    def store(self) -> AnyStore:
        return self.stores[0]

    async def run(self) -> None:
        try:
            await self.open()
            await self.send()
            for _ in range(MOST_STEPS):
                if self.draw(st.integers(0, 99), "the end if 0") == 0:
                    break
                self.stores.rotate()
                await getattr(self, self.draw(st.sampled_from(self.steps()), "step"))()
                await self.compare()
        finally:
            await self.close()

    async def open(self) -> None:
        for url in self.urls:
            self.stores.append(await open_store(url, self.settings, self.clock))

    async def close(self) -> None:
        while self.stores:
            await self.stores.pop().close()

    def steps(self) -> list[str]:
        steps = [*STEPS]
        if self.claims:
            steps += STEPS_WITH_CLAIMS
        if self.model.ids(Place.DEAD):
            steps += STEPS_WITH_DEAD_LETTERS
        return steps

    async def compare(self) -> None:
        """What one store did, another one shows."""
        messages = await self.stores[-1].admin.list_messages(EVERYTHING)
        dead_letters = await self.stores[-1].admin.list_dead_letters(EVERYTHING)

        assert list(map(self.told, messages)) == self.model.records(*UNFINISHED)
        assert list(map(self.told, dead_letters)) == self.model.records(Place.DEAD)

    def told(self, record: MessageRecord) -> MessageRecord:
        """Without the texts of errors; what has become due is ready, though nobody looked yet."""
        errors = tuple(replace(error, text="", trace="") for error in record.errors)
        state = record.state
        if state is State.DELAYED and record.due_at_ms <= self.clock.now_ms:
            state = self.model.lane(record.crashes)
        return replace(record, errors=errors, reason=None, state=state)

    # --- what the writer does ----------------------------------------------------------------

    async def do(self, *calls: Call) -> None:
        """Call all at once, claims last: the store may do them in one transaction."""
        if isinstance(self.store, PostgresStore):
            # There, what is asked for at once is done in several transactions, in any order.
            for call in calls:
                await self.do_together(call)
        else:
            await self.do_together(*calls)

    async def do_together(self, *calls: Call) -> None:
        answers = await asyncio.gather(*map(self.answer, calls), return_exceptions=True)
        for call, answer in zip(calls, answers, strict=True):
            self.compare_answer(call, answer)

    async def answer(self, call: Call) -> Any:
        match call:
            case AtomicWrite():
                return await self.store.commit(call)
            case ClaimRequest():
                return await self.store.claim(call)
            case settlements:
                return await self.store.settle(settlements)

    def compare_answer(self, call: Call, answer: Any) -> None:
        match call:
            case AtomicWrite():
                refusal = self.model.refusal(call)
                assert isinstance(answer, refusal or Committed)
                if refusal is None:
                    self.model.commit(call, answer.message_ids)
            case ClaimRequest():
                assert isinstance(answer, Claimed)
                self.compare_claims(call, answer)
            case settlements:
                assert answer == [self.model.settle(one) for one in settlements]

    def compare_claims(self, request: ClaimRequest, claimed: Claimed) -> None:
        expected, isolated = self.model.claim(request)
        next_due_ms = self.model.next_due_ms()
        made = {(one.id, one.token) for one in self.claims}

        assert [one._replace(token=0) for one in claimed.claims] == expected
        assert sorted(claimed.isolated) == sorted(isolated)
        assert made.isdisjoint((one.id, one.token) for one in claimed.claims)
        if next_due_ms is not None:
            assert claimed.next_due_ms is not None
            assert 0 <= claimed.next_due_ms <= next_due_ms
        self.model.take(claimed.claims, request)
        self.claims += claimed.claims

    def endings(self) -> st.SearchStrategy[Settlement]:
        """Of a claim that holds, or whose message has another holder now, or of any."""
        return st.builds(
            ending,
            self.some_claims(),
            st.sampled_from(Outcome),
            delay_ms=DELAYS_MS,
            failure=st.just(Failure("oops")),
        )

    def some_claims(self) -> st.SearchStrategy[Claim]:
        live = [one for one in self.claims if self.model.holds(one.id, one.token)]
        running = {one.id for one in live}
        robbed = [one for one in self.claims if one.id in running and one not in live]
        return one_of_some([live, live, robbed, self.claims])

    async def send(self) -> None:
        await self.do(self.draw(WRITES, "write"))

    async def claim(self) -> None:
        await self.do(self.draw(REQUESTS, "request"))

    async def claim_and_crash(self) -> None:
        request = self.draw(REQUESTS, "request")
        await self.do(request)
        self.clock.pass_ms(request.lease_ms)

    async def settle(self) -> None:
        await self.do(self.draw(some(self.endings()), "settlements"))

    async def settle_and_send(self) -> None:
        await self.do(self.draw(writes(self.endings()), "write"))

    async def do_at_once(self) -> None:
        calls = WRITES | writes(self.endings()) | some(self.endings())
        await self.do(*self.draw(some(calls), "calls"), self.draw(REQUESTS, "request"))

    # --- what is done beside the writer ------------------------------------------------------

    async def pass_time(self) -> None:
        self.clock.pass_ms(self.draw(st.sampled_from([1, 9, 10, 20]), "milliseconds"))

    async def find_types(self) -> None:
        self.model.end_leases()

        assert await self.store.ready_types(after="", limit=9) == self.model.claimable_types()

    async def sweep(self) -> None:
        self.store.sweep()
        self.model.sweep()

    async def extend(self) -> None:
        claims = self.draw(some(self.some_claims()), "claims")
        lease_ms = self.draw(LEASES_MS, "lease_ms")
        leases = [(one.id, one.token) for one in claims]

        assert self.store.extend(leases, lease_ms) == self.model.extend(leases, lease_ms)

    async def leave(self) -> None:
        holder = self.draw(HOLDERS, "holder")
        self.store.leave_listener(holder)
        self.model.leave(holder)

    async def pause_or_resume(self) -> None:
        kind = self.draw(TYPES, "type")
        paused = self.draw(st.sampled_from([True, False, False]), "paused")
        await self.store.admin.set_paused(kind, paused=paused)
        (self.model.paused.add if paused else self.model.paused.discard)(kind)

    def some_ids(self) -> st.SearchStrategy[int]:
        return one_of_some([self.model.ids(Place.DEAD), self.model.ids(*Place)])

    async def requeue(self) -> None:
        message_ids = self.draw(some(self.some_ids()), "message_ids")
        dead = self.model.ids(Place.DEAD)

        requeued = await self.store.admin.requeue(message_ids)

        assert requeued.keys() == set(message_ids).intersection(dead)
        self.model.requeue(requeued)

    async def discard(self) -> None:
        message_ids = self.draw(some(self.some_ids()), "message_ids")

        gone = await self.store.admin.discard(message_ids)

        assert gone == self.model.discard(message_ids)

    async def reopen(self) -> None:
        if MEMORY not in self.urls:
            await self.close()
            await self.open()


@effort(EFFORT, max_examples=40)
@given(st.data())
def test_queue_in_memory_keeps_its_rules(data: st.DataObject) -> None:
    asyncio.run(Play(data, MEMORY).run())


@effort(EFFORT, max_examples=20)
@given(st.data())
def test_queue_in_a_file_with_two_openings_keeps_its_rules(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        url = str(Path(folder, "queue.db"))
        asyncio.run(Play(data, url, url).run())


@effort(
    EFFORT,
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_queue_on_postgres_keeps_its_rules(postgres_url: str, data: st.DataObject) -> None:
    schema = f"play_{secrets.token_hex(6)}"
    settings = SETTINGS.model_copy(update={"postgres_schema": schema})
    asyncio.run(Play(data, postgres_url, settings=settings).run())
