"""What is asked of a `Kv` in its model test: how it is said to `Kv`, and what it is to do."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

from kvqueue_fastapi import Kv, KvCommit, KvU64, commit_versionstamp
from kvqueue_fastapi.atomic import AtomicOperation
from kvqueue_fastapi.errors import IdempotencyConflictError, InvalidOptionError, PayloadError
from kvqueue_fastapi.keys import Key, SetKey, encode_key
from tests.kv_model import (
    LARGEST_BATCH,
    Duration,
    ListOptions,
    Range,
    Remembered,
    State,
    kept,
    list_entry,
    read_as,
    told,
)

U64_VALUES = 1 << 64
SOME_STAMP = "f" * 20
"""Of a commit that is only thought of: no real one has it, nor is it the part of any key."""
NOT_OK = KvCommit(ok=False, versionstamp=None)

Answer = KvCommit | list[str] | type[Exception] | None


class CheckFailedError(Exception):
    """A key is not as it was read."""


# --- the parts of an operation -----------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """Commit only if the key has this versionstamp; None: only if it is absent."""

    key: Key
    versionstamp: str | None

    def add_to(self, atomic: AtomicOperation) -> None:
        atomic.check(self.key, self.versionstamp)

    def apply(self, state: State) -> None:
        if state.entry(self.key).versionstamp != self.versionstamp:
            raise CheckFailedError


@dataclass(frozen=True)
class Set:
    """Store a value, whatever was there."""

    key: SetKey
    value: Any
    expire_in: Duration | None = None

    def add_to(self, atomic: AtomicOperation) -> None:
        atomic.set(self.key, self.value, expire_in=self.expire_in)

    def mapping(self) -> dict[str, Any]:
        return {"type": "set", **vars(self)}

    def apply(self, state: State) -> None:
        stamp = commit_versionstamp()
        key = [state.versionstamp if part is stamp else part for part in self.key]
        state.put(key, kept(self.value), self.expire_in)


@dataclass(frozen=True)
class Delete:
    """Remove a key, be it there or not."""

    key: Key

    def add_to(self, atomic: AtomicOperation) -> None:
        atomic.delete(self.key)

    def mapping(self) -> dict[str, Any]:
        return {"type": "delete", **vars(self)}

    def apply(self, state: State) -> None:
        state.rows.pop(encode_key(self.key), None)


@dataclass(frozen=True)
class Count:
    """Combine the stored number with another one, which an absent key becomes."""

    type: Literal["sum", "min", "max"]
    key: Key
    number: KvU64 | int | float

    def add_to(self, atomic: AtomicOperation) -> None:
        if isinstance(self.number, KvU64):
            getattr(atomic, self.type)(self.key, self.number.value)
        else:
            atomic.mutate(self.mapping())

    def mapping(self) -> dict[str, Any]:
        return {"type": self.type, "key": self.key, "value": self.number}

    def apply(self, state: State) -> None:
        before = state.row(self.key)
        state.put(self.key, self.number if before is None else self.combined(before.value))

    def combined(self, stored: Any) -> Any:
        """Counters wrap, and take counters and what could be one; numbers take numbers."""
        if not isinstance(stored, KvU64):
            return added(plain_number(stored), plain_number(self.number))
        match self.type:
            case "sum":
                return KvU64((stored.value + u64(self.number)) % U64_VALUES)
            case "min":
                return KvU64(min(stored.value, u64(self.number)))
            case "max":
                return KvU64(max(stored.value, u64(self.number)))


@dataclass(frozen=True)
class Enqueue:
    """Send a value: an envelope as the message that it names, anything else as "kv.enqueue"."""

    value: Any
    delay: Duration | None

    def add_to(self, atomic: AtomicOperation) -> None:
        atomic.enqueue(self.value, delay=self.delay)

    def apply(self, state: State, new_ids: Iterator[int]) -> None:
        match self.value:
            case {"type": str(kind), "data": data, **more} if not more:
                state.send(next(new_ids), kind, data, self.delay)
            case _:
                state.send(next(new_ids), "kv.enqueue", self.value, self.delay)


@dataclass(frozen=True)
class Send:
    """Send a message; with an idempotency key only once within its window."""

    type: str
    data: Any
    once: str | None

    def add_to(self, atomic: AtomicOperation) -> None:
        atomic.send_message(self.type, self.data, idempotency_key=self.once)

    def apply(self, state: State, new_ids: Iterator[int]) -> None:
        if self.once is None:
            state.send(next(new_ids), self.type, self.data, 0)
            return
        name, body = (self.type, self.once), json.dumps(self.data, sort_keys=True)
        known = state.once.get(name)
        if known is None or known.until_ms <= state.now_ms:
            known = Remembered(next(new_ids), body, state.now_ms + state.window_ms)
            state.once[name] = known
            state.send(known.message_id, self.type, self.data, 0)
        elif known.body == body:
            state.sent.append(known.message_id)
        else:
            raise IdempotencyConflictError(self.type, self.once, known.message_id)


def plain_number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidOptionError
    return value


def u64(number: KvU64 | float) -> int:
    if isinstance(number, float):
        raise InvalidOptionError
    return KvU64(int(number)).value


def added(one: float, other: float) -> float:
    """The sum; a whole number that is beyond every float is infinite beside one."""
    try:
        return one + other
    except OverflowError:
        whole, real = (one, other) if isinstance(one, int) else (other, one)
        if not math.isfinite(real):
            return real
        return math.inf if whole > 0 else -math.inf


# --- the steps ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """An atomic operation: all of its parts, or nothing.

    Attributes:
        parts: in the order in which they are added.
        as_mappings: its changes are given to `mutate`.
    """

    parts: Sequence[Any]
    as_mappings: bool = False

    async def ask(self, kv: Kv) -> KvCommit:
        atomic = kv.atomic()
        for part in self.parts:
            if self.as_mappings and isinstance(part, Set | Delete | Count):
                atomic.mutate(part.mapping())
            else:
                part.add_to(atomic)
        return await atomic.commit()

    def after(self, state: State, versionstamp: str, new_ids: Iterator[int]) -> State:
        """The state that it makes of one: checks first, then changes, then messages.

        Each of these in the order in which they were added. What raises has made nothing.
        """
        made = state.begun(versionstamp)
        for check in self._those(Check):
            check.apply(made)
        for change in self._those(Set | Delete | Count):
            change.apply(made)
        for message in self._those(Enqueue | Send):
            message.apply(made, new_ids)
        return made

    def answer(self, state: State) -> Answer:
        """What it is refused with; None: it succeeds."""
        try:
            self.after(state, SOME_STAMP, count())
        except CheckFailedError:
            return NOT_OK
        except (InvalidOptionError, IdempotencyConflictError) as error:
            return type(error)
        return None

    def _those(self, kinds: Any) -> list[Any]:
        return [part for part in self.parts if isinstance(part, kinds)]


class Short(Operation):
    """An operation of one part, as `Kv` has it."""

    async def ask(self, kv: Kv) -> KvCommit:
        match self.parts:
            case [Set() as one]:
                return await kv.set(one.key, one.value, expire_in=one.expire_in)
            case [Enqueue() as one]:
                return await kv.enqueue(one.value, delay=one.delay)
        return await super().ask(kv)


@dataclass(frozen=True)
class Get:
    """Read keys at one moment, perhaps as a type."""

    keys: Sequence[Key]
    kind: Any

    async def ask(self, kv: Kv) -> list[str]:
        if len(self.keys) == 1:
            return told([await kv.get(self.keys[0], self.kind)])
        return told(await kv.get_many(self.keys, self.kind))

    def answer(self, state: State) -> Answer:
        try:
            return state.told(self.keys, self.kind)
        except PayloadError as error:
            return type(error)


@dataclass(frozen=True)
class ListAtOnce:
    """List a range in one batch, which is of one moment, perhaps as a type."""

    range: Range
    reverse: bool = False
    kind: Any = None

    async def ask(self, kv: Kv) -> list[str]:
        listed = kv.list(
            **self.range._asdict(), reverse=self.reverse, batch_size=LARGEST_BATCH, type=self.kind
        )
        return told([entry async for entry in listed])

    def answer(self, state: State) -> Answer:
        rows = state.listed(ListOptions(self.range, reverse=self.reverse))
        try:
            return told(
                list_entry(row._replace(value=read_as(row.value, self.kind))) for row in rows
            )
        except PayloadError as error:
            return type(error)


Step = Operation | Get | ListAtOnce


async def answer_of(step: Step, kv: Kv) -> Answer:
    """What a step comes to, also where that is a refusal."""
    try:
        return await step.ask(kv)
    except (InvalidOptionError, IdempotencyConflictError, PayloadError) as error:
        return type(error)
