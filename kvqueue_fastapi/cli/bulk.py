"""One verb for many dead letters: those with these ids, those of a type, or all."""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from kvqueue_fastapi.admin import KvQueueAdmin
from kvqueue_fastapi.cli.exits import FAILED, FINE, WrongCommandError
from kvqueue_fastapi.cli.output import Output, told
from kvqueue_fastapi.cli.progress import Advance, bar
from kvqueue_fastapi.cli.questions import require_yes
from kvqueue_fastapi.cli.stores import Place
from kvqueue_fastapi.cli.texts import counted
from kvqueue_fastapi.endings import to_the_end
from kvqueue_fastapi.errors import KvQueueError
from kvqueue_fastapi.keeper import State

SLICE: Final = 500
"""Ids in one commit."""


class Chosen(NamedTuple):
    """Which dead letters are meant: exactly one of the three."""

    ids: Sequence[int]
    type: str | None
    every: bool

    def require_one(self) -> None:
        """Refuse none, and more than one.

        Raises:
            WrongCommandError: what to write.
        """
        if sum((bool(self.ids), self.type is not None, self.every)) != 1:
            msg = "Name ids of dead letters, or --type TYPE, or --all: one of the three."
            raise WrongCommandError(msg)

    async def counts(self, admin: KvQueueAdmin) -> dict[str, int]:
        """How many there are of each type that is meant."""
        return {
            one.type: one.dead
            for one in await admin.counts()
            if one.dead and (self.every or one.type == self.type)
        }


class Verb(NamedTuple):
    """What is done to dead letters.

    Attributes:
        name: in a question: "Requeue".
        done: in an answer: "requeued".
        some: does it to those with these ids. Returns the ids of those to which it was done,
            each with what became of it.
        all_of: does it to all of a type that had died by then. Returns how many those were.
        asks_of_ids: whether it asks also where ids were named.
    """

    name: str
    done: str
    some: Callable[[KvQueueAdmin, Sequence[int]], Awaitable[dict[int, int | None]]]
    all_of: Callable[[KvQueueAdmin, str, int, Advance], Awaitable[int]]
    asks_of_ids: bool


async def _requeued(admin: KvQueueAdmin, ids: Sequence[int]) -> dict[int, int | None]:
    return {**await admin.requeue(ids)}


async def _discarded(admin: KvQueueAdmin, ids: Sequence[int]) -> dict[int, int | None]:
    # Messages that wait could be discarded, too; here they are not meant.
    dead = {one for one in ids if await _is_dead(admin, one)}
    return dict.fromkeys(await admin.discard([one for one in ids if one in dead]))


async def _is_dead(admin: KvQueueAdmin, message_id: int) -> bool:
    record = await admin.message(message_id)
    return record is not None and record.state is State.DEAD


async def _requeued_all(
    admin: KvQueueAdmin, message_type: str, died_by_ms: int, advance: Advance
) -> int:
    return await admin.requeue_all(message_type, died_by_ms=died_by_ms, progress=advance)


async def _discarded_all(
    admin: KvQueueAdmin, message_type: str, died_by_ms: int, advance: Advance
) -> int:
    return await admin.discard_all(message_type, died_by_ms=died_by_ms, progress=advance)


REQUEUE: Final = Verb("Requeue", "requeued", _requeued, _requeued_all, asks_of_ids=False)
DISCARD: Final = Verb("Discard", "discarded", _discarded, _discarded_all, asks_of_ids=True)


async def do(verb: Verb, place: Place, chosen: Chosen, output: Output, *, yes: bool) -> int:
    """Do it to those that are meant, and tell of it. Returns the exit code.

    Raises:
        WrongCommandError: it was not confirmed, and nobody is there to ask.
        FailedError: the answer is no.
    """
    async with place.opened() as runtime:
        if chosen.ids:
            return await _do_ids(verb, runtime.admin, chosen.ids, output, yes=yes)
        return await _do_types(verb, runtime.admin, chosen, output, yes=yes)


async def _do_ids(
    verb: Verb, admin: KvQueueAdmin, ids: Sequence[int], output: Output, *, yes: bool
) -> int:
    ids = list(dict.fromkeys(ids))
    if verb.asks_of_ids:
        require_yes(f"{verb.name} {counted(len(ids), 'dead letter')}?", yes=yes)
    done: set[int] = set()
    with _telling_of_the_end(verb, lambda: len(done), output), bar(verb.name, len(ids)) as advance:
        for first in range(0, len(ids), SLICE):
            doing = asyncio.create_task(_do_some(verb, admin, ids[first : first + SLICE]))
            try:
                # To its end, and told at once, because else nobody knew what became of them.
                await to_the_end(doing)
            finally:
                done |= doing.result().keys()
                tell(verb, doing.result(), output)
            advance(len(done))
    left = [old for old in ids if old not in done]
    for old in left:
        output.note(f"Message {old} is no dead letter, or no longer.")
    return FAILED if left else FINE


async def _do_some(verb: Verb, admin: KvQueueAdmin, ids: Sequence[int]) -> dict[int, int | None]:
    return await verb.some(admin, ids)


async def _do_types(
    verb: Verb, admin: KvQueueAdmin, chosen: Chosen, output: Output, *, yes: bool
) -> int:
    # Before they are counted, so that none is meant that died while somebody was asked.
    died_by_ms = await admin.last_death_ms() or 0
    counts = await chosen.counts(admin)
    total = sum(counts.values())
    of_what = "" if chosen.type is None else f" of type {chosen.type}"
    if total:
        require_yes(f"{verb.name} {counted(total, 'dead letter')}{of_what}?", yes=yes)
    done = dict.fromkeys(counts, 0)
    with _telling_of_the_end(verb, lambda: sum(done.values()), output):
        for kind, count in counts.items():
            with bar(f"{verb.name} {kind}", count) as advance:
                await _do_type(verb, admin, kind, died_by_ms, done, advance)
    if output.as_json:
        output.records({"type": kind, verb.done: count} for kind, count in done.items())
    else:
        output.say(f"{counted(sum(done.values()), 'dead letter')}{of_what} {verb.done}.")
    return FINE


async def _do_type(
    verb: Verb,
    admin: KvQueueAdmin,
    kind: str,
    died_by_ms: int,
    done: dict[str, int],
    advance: Advance,
) -> None:
    broken_off = asyncio.Event()

    def told(so_far: int) -> None:
        done[kind] = so_far
        advance(so_far)
        if broken_off.is_set():
            raise InterruptedError

    async def all_of() -> int:
        return await verb.all_of(admin, kind, died_by_ms, told)

    # To the end of a slice, because else nobody knew whether that was done.
    await to_the_end(asyncio.create_task(all_of()), hasten=broken_off.set)


@contextmanager
def _telling_of_the_end(verb: Verb, done: Callable[[], int], output: Output) -> Generator[None]:
    try:
        yield
    except (asyncio.CancelledError, KvQueueError):
        if done():
            many = counted(done(), "dead letter")
            output.note(f"It was broken off. Before it, {verb.done}: {many}.")
        raise


def tell(verb: Verb, done: Mapping[int, int | None], output: Output) -> None:
    """Say what became of some of them."""
    with told(f"{counted(len(done), 'dead letter')} {verb.done}"):
        for old, new in done.items():
            _tell_one(verb, old, new, output)


def _tell_one(verb: Verb, old: int, new: int | None, output: Output) -> None:
    if output.as_json:
        output.record({"id": old, verb.done: True, **({} if new is None else {"new_id": new})})
    else:
        as_what = "" if new is None else f" as message {new}"
        output.say(f"Dead letter {old} is {verb.done}{as_what}.")
