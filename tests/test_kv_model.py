"""Whatever is done to a key-value store, and in whatever order: it does what its rules say.

Hypothesis does the same to `Kv` and to `KvModel`, and compares them after each step.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Generator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from hypothesis import seed
from hypothesis import settings as effort
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kvqueue_fastapi import Kv, KvCommit, KvQueueAdmin, KvQueueSettings, KvU64
from kvqueue_fastapi.keeper import MessageRecord
from kvqueue_fastapi.keys import Key, encode_key, is_versionstamp, versionstamp_of
from kvqueue_fastapi.listing import KvList
from kvqueue_fastapi.testing import FakeClock
from tests.kv_draws import ANY_KEY, GROUP, HOT_KEY, HOT_KEYS, LISTS, SPANS_S, TASKS, picked, sets
from tests.kv_model import EVERYTHING, KvModel, ListOptions, Row, Waiting, list_entry, told
from tests.kv_steps import Delete, ListAtOnce, Operation, Set, Short, Step, answer_of

R = TypeVar("R")

MEMORY = ":memory:"
PATIENCE_S = 10
NOWHERE = ("nobody", "sets", "this")
OTHER_STAMP = "f" * 16 + "0000"
EFFORT = effort(max_examples=45, stateful_step_count=25, deadline=None, database=None)
# What a power cut does is not looked at, and each commit would wait for the disk.
SETTINGS = KvQueueSettings(idempotency_window_s=2, sqlite_synchronous="NORMAL")


class Done(NamedTuple):
    """A step that was done beside others.

    Attributes:
        known: the versionstamp of the last commit that anybody was told of when it began.
        answer: what came of it.
    """

    step: Step
    known: str
    answer: Any

    @property
    def is_commit(self) -> bool:
        return isinstance(self.answer, KvCommit) and self.answer.ok


class Place(NamedTuple):
    """Where a list can be resumed.

    Attributes:
        behind: the encoded key that came last.
    """

    how: ListOptions
    cursor: str | None
    behind: bytes | None


@dataclass
class Listing:
    """A list that somebody goes through, and what the rules make of it."""

    how: ListOptions
    real: KvList[Any]
    expected: Generator[Row]
    length: int = 0


@dataclass
class Watching:
    """Keys that somebody watches.

    Attributes:
        shown: the number of the state that he saw last.
    """

    kv: Kv
    keys: list[Key]
    feed: AsyncGenerator[Any]
    shown: int


class KvMachine(RuleBasedStateMachine):
    """A store and the model of its rules, to which the same is done.

    Several `Kv` may have the store open: each call is made through the next of them.
    """

    def __init__(self, url: str, openings: int) -> None:
        super().__init__()
        self.url = url
        self.clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.model = KvModel(self.clock.wall_ms(), round(SETTINGS.idempotency_window_s * 1000))
        self.known = self.model.now.versionstamp
        self.listings: list[Listing] = []
        self.places = [Place(ListOptions(EVERYTHING), cursor=None, behind=None)]
        self.watchings: list[Watching] = []
        self.runner = asyncio.Runner()
        self.kvs: deque[Kv] = deque()
        self.open(openings)

    def teardown(self) -> None:
        self.close()
        self.runner.close()

    def open(self, openings: int) -> None:
        async def opened() -> Kv:
            return await Kv.open(self.url, settings=SETTINGS, clock=self.clock)

        self.kvs.extend(self.wait(opened()) for _ in range(openings))

    def close(self) -> None:
        """Close all, which ends what they watch and list."""
        while self.kvs:
            self.wait(self.kvs.pop().close())
        while self.watchings:
            watching = self.watchings.pop()
            for snapshot in self.wait(rest_of(watching.feed)):
                self.see(watching, told(snapshot))
        self.listings.clear()

    def kv(self) -> Kv:
        self.kvs.rotate()
        return self.kvs[0]

    def wait(self, work: Coroutine[Any, Any, R]) -> R:
        return self.runner.get_loop().run_until_complete(work)

    # --- commits and reads -------------------------------------------------------------------

    def do(self, *tasks: list[Step]) -> None:
        """Do all tasks at once, the steps of each one after the other, and compare."""
        done: list[Done] = []

        async def in_turn(steps: list[Step]) -> None:
            for step in steps:
                known = self.known
                done.append(Done(step, known, await answer_of(step, self.kv())))
                if done[-1].is_commit:
                    self.known = max(self.known, done[-1].answer.versionstamp)

        async def at_once() -> None:
            await asyncio.gather(*map(in_turn, tasks))

        self.wait(at_once())
        self.compare(done)

    def compare(self, done: list[Done]) -> None:
        """Take in commits in the order of their versionstamps; then judge all other answers.

        A refusal, or what was read, is right if it is in some state that could be seen by then.
        """
        commits = [one for one in done if one.is_commit]
        for one in sorted(commits, key=lambda one: one.answer.versionstamp):
            assert one.known < one.answer.versionstamp
            self.take(one.step, one.answer)
        for one in done:
            if not one.is_commit:
                visible = self.model.since(one.known)
                assert one.answer in [one.step.answer(state) for state in visible]

    def take(self, operation: Operation, commit: KvCommit) -> None:
        before = self.model.now
        assert operation.answer(before) is None

        self.model.commit(operation, commit.versionstamp, commit.message_ids)

        assert is_versionstamp(commit.versionstamp)
        assert commit.versionstamp > before.versionstamp
        assert list(commit.message_ids) == self.model.now.sent
        assert sorted(self.model.now.messages) == list(self.model.now.messages)

    @initialize(tasks=TASKS)
    def begin(self, tasks: list[list[Step]]) -> None:
        self.do(*tasks)

    @rule(tasks=TASKS, seconds=st.just(0) | SPANS_S)
    def do_at_once(self, tasks: list[list[Step]], seconds: float | None) -> None:
        self.do(*tasks)
        self.pass_time(seconds)

    @rule(group=GROUP, seconds=st.just(0) | SPANS_S)
    def commit_together(self, group: list[Step], seconds: float | None) -> None:
        self.do(*[[step] for step in group])
        self.pass_time(seconds)

    @rule(seconds=st.sampled_from([0.999, 1]), data=st.data())
    def commit_when_keys_expire(self, seconds: float, data: st.DataObject) -> None:
        self.do([Operation([Set(key, KvU64(7), expire_in=1) for key in HOT_KEYS])])
        self.pass_time(seconds)
        self.do(*[[step] for step in data.draw(GROUP)])

    def delete(self, key: Key) -> None:
        self.wait(self.kv().delete(key))

        self.known = self.wait(self.last_versionstamp())
        self.take(Operation([Delete(key)]), KvCommit(ok=True, versionstamp=self.known))

    # --- lists -------------------------------------------------------------------------------

    @rule(how=LISTS, length=st.integers(0, 6))
    def begin_list(self, how: ListOptions, length: int) -> None:
        self.list_from(Place(how, cursor=None, behind=None), how, length)

    @rule(place=picked(lambda self: self.places), other=LISTS, length=st.integers(1, 6))
    def resume_list(self, place: Place, other: ListOptions, length: int) -> None:
        how = place.how._replace(limit=other.limit, batch_size=other.batch_size)
        self.list_from(place, how, length)

    def list_from(self, place: Place, how: ListOptions, length: int) -> None:
        options = {**how.range._asdict(), **how._asdict(), "cursor": place.cursor}
        del options["range"], options["behind"]
        expected = self.model.list(how._replace(behind=place.behind))
        self.listings.append(Listing(how, self.kv().list(**options), expected))
        self.wait(self.go_on(self.listings[-1], length))

    @precondition(lambda self: self.listings)
    @rule(listing=picked(lambda self: self.listings), length=st.integers(1, 6))
    def go_on_with_list(self, listing: Listing, length: int) -> None:
        self.wait(self.go_on(listing, length))

    async def go_on(self, listing: Listing, length: int) -> None:
        for _ in range(length):
            entry, row = await anext(listing.real, None), next(listing.expected, None)

            assert repr(entry) == repr(row and list_entry(row))
            if row is None:
                assert listing.length == listing.how.limit or listing.real.cursor == ""
                return
            assert listing.real.cursor != ""
            listing.length += 1
            self.places.append(Place(listing.how, listing.real.cursor, encode_key(row.key)))

    # --- watches -----------------------------------------------------------------------------

    @precondition(lambda self: len(self.watchings) < 3)
    @rule(keys=st.lists(ANY_KEY, min_size=1, max_size=4))
    def begin_watch(self, keys: list[Key]) -> None:
        kv = self.kv()
        watching = Watching(kv, keys, kv.watch(keys), len(self.model.states) - 1)
        self.watchings.append(watching)

        assert told(self.wait(next_of(watching.feed))) == self.seen(watching)

    @precondition(lambda self: self.watchings)
    @rule(watching=picked(lambda self: self.watchings), new=sets(HOT_KEY), deletes=st.booleans())
    def change_what_is_watched(self, watching: Watching, new: Set, *, deletes: bool) -> None:
        key = watching.keys[0]
        self.delete(key) if deletes else self.do([Short([replace(new, key=key)])])

        self.wait(self.see_last_state(watching))

    @precondition(lambda self: self.watchings)
    @rule(watching=picked(lambda self: self.watchings), seconds=SPANS_S)
    def watch_while_time_passes(self, watching: Watching, seconds: float | None) -> None:
        self.pass_time(seconds)
        self.wait(self.make_look(watching))

        self.wait(self.see_last_state(watching))

    async def make_look(self, watching: Watching) -> None:
        """Have it look at once: it cannot know that the clock of the store moved."""
        refused = watching.kv.atomic().check(NOWHERE, OTHER_STAMP).delete(NOWHERE)
        assert not (await refused.commit()).ok

    async def see_last_state(self, watching: Watching) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.seen(watching) != self.model.now.told(watching.keys):
                self.see(watching, told(await anext(watching.feed)))

    def see(self, watching: Watching, snapshot: list[str]) -> None:
        """Take in what a watch shows: another state than before, and a later one."""
        assert snapshot != self.seen(watching)
        later = range(watching.shown + 1, len(self.model.states))
        shown = [self.model.states[at].told(watching.keys) for at in later]
        assert snapshot in shown
        watching.shown = later[shown.index(snapshot)]

    def seen(self, watching: Watching) -> list[str]:
        return self.model.states[watching.shown].told(watching.keys)

    # --- time, and what is kept --------------------------------------------------------------

    def pass_time(self, seconds: float | None) -> None:
        if seconds is None:
            seconds = self.model.now.next_expiry_s
        self.clock.advance(seconds)
        self.model.pass_time(self.clock.wall_ms())

    @rule(seconds=SPANS_S, then=st.sampled_from(["nothing", "nothing", "sweep", "reopen"]))
    def rest(self, seconds: float | None, then: str) -> None:
        self.pass_time(seconds)
        if then == "sweep":
            self.wait(self.sweep())
        if then == "reopen" and self.url != MEMORY:
            openings = len(self.kvs)
            self.close()
            self.open(openings)

    async def sweep(self) -> None:
        store = self.kv()._handle.store
        await asyncio.to_thread(store.sweep)

        rows = await store._fetch("SELECT key FROM kvqueue_kv ORDER BY key", {})
        live = self.model.now.listed(ListOptions(EVERYTHING))
        assert [key for (key,) in rows] == [encode_key(row.key) for row in live]

    @invariant()
    def everything_is_as_the_rules_say(self) -> None:
        self.wait(self.look_at_everything())

    async def look_at_everything(self) -> None:
        now, kv = self.model.now, self.kv()
        everything = ListAtOnce(EVERYTHING)

        assert await everything.ask(kv) == everything.answer(now)
        messages = await KvQueueAdmin(handle=kv._handle, sender=kv._sender).messages(limit=1_000)
        assert [waiting(one) for one in messages] == list(now.messages.values())
        assert await self.last_versionstamp() == now.versionstamp

    async def last_versionstamp(self) -> str:
        return versionstamp_of(await self.kv()._handle.store.last_version())


async def next_of(items: Any) -> Any:
    return await anext(items)


async def rest_of(items: Any) -> list[Any]:
    async with asyncio.timeout(PATIENCE_S):
        return [item async for item in items]


def waiting(record: MessageRecord) -> Waiting:
    return Waiting(record.id, record.type, repr(record.data), record.due_at_ms)


def test_kv_in_memory_keeps_its_rules() -> None:
    machine = partial(KvMachine, MEMORY, openings=1)

    run_state_machine_as_test(seed(1)(machine), settings=EFFORT)


def test_kv_in_a_file_with_two_openings_keeps_its_rules(tmp_path: Path) -> None:
    numbers = count()

    @seed(2)
    def machine() -> KvMachine:
        return KvMachine(str(tmp_path / f"{next(numbers)}.db"), openings=2)

    run_state_machine_as_test(machine, settings=EFFORT)
