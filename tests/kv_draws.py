"""What Hypothesis may do to a `Kv` in its model test: few of each thing, so that they meet.

Only numbers are drawn where something is picked of what a store holds by then: threads make
that differ from run to run, and what Hypothesis draws must not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Any, TypeVar

from hypothesis import strategies as st

from kvqueue_fastapi import KvU64, commit_versionstamp
from kvqueue_fastapi.keys import Key, encode_key
from tests.kv_model import ListOptions, Range
from tests.kv_steps import (
    Check,
    Count,
    Delete,
    Enqueue,
    Get,
    ListAtOnce,
    Operation,
    Send,
    Set,
    Short,
    Step,
)

R = TypeVar("R")


@dataclass(frozen=True)
class Point:
    """A value that JSON has no word for."""

    x: int
    y: int


def picked(items: Callable[[Any], Sequence[R]]) -> st.SearchStrategy[R]:
    """One of what the machine has by then."""
    return st.builds(
        lambda machine, number: items(machine)[number % len(items(machine))],
        st.runner(),
        st.integers(0, 99),
    )


def brief(strategy: st.SearchStrategy[R]) -> st.SearchStrategy[R]:
    """The same one, of which Hypothesis makes no text of many pages, which it would warn of."""

    @st.composite
    def drawn(draw: st.DrawFn) -> R:
        return draw(strategy)

    return drawn()


# --- keys --------------------------------------------------------------------------------------

HOT_KEYS: list[Key] = [("a",), ("a", 1), ("a\0",)]
# Such as only their encoding tells apart, and such as begin with one another.
KEYS: list[Key] = [
    *(("",), (b"",), (b"a",), (True,), (1,), (1.0,), (0.0,), (-0.0,), (-1,), (2**64,)),
    *(("a", ""), ("a", 1, True), ("a", b"\0\xff"), ("a", "b", -0.0)),
    ("a", "b", float("nan")),
]
PREFIXES: list[Key] = [(), ("a",), ("a", "b"), ("log",), (1,), ("",), ("none",)]


def known_keys(machine: Any) -> list[Key]:
    """Those that were set, also such as end in a versionstamp."""
    return [row.key for row in machine.model.now.rows.values()] or HOT_KEYS


def expired_keys(machine: Any) -> list[Key]:
    """Those that expired last: soon they will be swept, and what is absent is easily absent."""
    now = machine.model.now
    ends = {row.key: row.expires_at_ms for row in now.rows.values() if row.expires_at_ms}
    return sorted((key for key in ends if now.row(key) is None), key=ends.get)[-2:] or HOT_KEYS


HOT_KEY = st.sampled_from(HOT_KEYS)
ANY_KEY = HOT_KEY | st.sampled_from(KEYS) | picked(known_keys) | picked(expired_keys)
BOUNDS = ANY_KEY | st.just(())
STAMPED_KEYS = st.sampled_from([(*prefix, commit_versionstamp()) for prefix in PREFIXES])

# --- what is set, counted and sent -------------------------------------------------------------

COUNTERS = st.sampled_from([KvU64(0), KvU64(1), KvU64(2**63), KvU64(2**64 - 1)])
# The last two are beyond every float.
NUMBERS = st.sampled_from([1, -3, 2.5, -0.0, 2**63, float("inf"), 2**1024, -(2**1024)])
NO_NUMBERS = st.sampled_from([True, None, "", "é\0", "5", [], [1, [2.5]], {}, Point(1, 2)])
BYTES = st.sampled_from([b"", b"\0\xff", b"8 bytes."])
VALUES = COUNTERS | NUMBERS | NO_NUMBERS | BYTES
TYPES = st.none() | st.sampled_from([int, str, float, bytes, list[int], KvU64, Point])
EXPIRIES_S = st.sampled_from([None, None, None, 0, 0.0005, 1, 1.5, timedelta(seconds=2)])
PAYLOADS = st.sampled_from([None, 1, "é", {"a": [2.0]}])
ENVELOPES = st.builds(lambda data: {"type": "mail", "data": data}, PAYLOADS)
BARE = st.sampled_from(
    ["bare", 2.0, {"type": "x"}, {"type": 1, "data": 2}, {"type": "x", "data": 1, "more": 2}]
)
DELAYS_S = st.sampled_from([0, None, 1.5, timedelta(seconds=1)])
# Most of them with the same body, because a conflict refuses the whole operation.
ONE_BODY = st.sampled_from([{"a": 1, "b": [2]}, {"a": 1, "b": [2]}, {"b": [2], "a": 1}, 2])
MESSAGES = (
    st.builds(Enqueue, BARE | ENVELOPES, DELAYS_S)
    | st.builds(Send, st.just("mail"), PAYLOADS, st.none())
    | st.builds(Send, st.just("mail"), ONE_BODY, st.sampled_from(["x", "y", "z"]))
)
SPANS_S = st.sampled_from([0.001, 0.5, 1, None])
"""None: until the next key expires."""


class Seen(Enum):
    """What somebody knows of a key that he checks."""

    AS_IT_IS = auto()
    AS_IT_WAS_WRITTEN = auto()
    """Though it may have expired."""
    ABSENT = auto()
    OF_ANOTHER_COMMIT = auto()


def check(machine: Any, key: Key, seen: Seen) -> Check:
    now = machine.model.now
    written = now.rows.get(encode_key(key))
    versionstamps = {
        Seen.AS_IT_IS: now.entry(key).versionstamp,
        Seen.AS_IT_WAS_WRITTEN: written and written.versionstamp,
        Seen.ABSENT: None,
        Seen.OF_ANOTHER_COMMIT: now.versionstamp,
    }
    return Check(key, versionstamps[seen])


SEEN = [Seen.AS_IT_IS, Seen.AS_IT_IS, *Seen]
Keys = st.SearchStrategy[Key]


def sets(keys: Keys) -> st.SearchStrategy[Set]:
    return st.builds(Set, keys | STAMPED_KEYS, VALUES, EXPIRIES_S)


def parts(keys: Keys) -> st.SearchStrategy[Any]:
    """Parts of an operation, some kinds more often than others."""
    deletes = st.builds(Delete, keys)
    counts = st.builds(Count, st.sampled_from(["sum", "sum", "min", "max"]), keys, COUNTERS)
    sums = st.builds(Count, st.just("sum"), keys, NUMBERS)
    checks = st.builds(check, st.runner(), keys | picked(expired_keys), st.sampled_from(SEEN))
    return st.one_of(*[sets(keys), counts, sums, checks] * 2, sets(keys), deletes, checks, MESSAGES)


# --- ranges ------------------------------------------------------------------------------------


def within(key: Key) -> st.SearchStrategy[Range]:
    """From this key on, or to it, within its parent, or from its parent."""
    parent = key[:-1]
    return st.sampled_from([Range(parent, key), Range(parent, None, key), Range(None, parent, key)])


def between(keys: list[Key]) -> Range:
    start, end = sorted(keys, key=encode_key)
    return Range(None, start, end)


RANGES = (
    st.sampled_from([Range(prefix) for prefix in PREFIXES])
    | ANY_KEY.flatmap(within)
    | st.builds(between, st.lists(BOUNDS, min_size=2, max_size=2))
)
LIMITS = st.sampled_from([None, None, 1, 2, 5])
BATCH_SIZES = st.sampled_from([None, 1, 2, 3])
LISTS = st.builds(ListOptions, RANGES, st.booleans(), LIMITS, BATCH_SIZES, st.none())

# --- steps -------------------------------------------------------------------------------------


def operations(keys: Keys) -> st.SearchStrategy[Operation]:
    return st.builds(Operation, st.lists(parts(keys), max_size=6), st.booleans())


def gets(keys: Keys) -> st.SearchStrategy[Get]:
    return st.builds(Get, st.lists(keys, max_size=10) | st.tuples(keys), TYPES)


def steps(keys: Keys) -> st.SearchStrategy[Step]:
    several = operations(keys)
    short = st.builds(Short, st.tuples(parts(keys)))
    lists = st.builds(ListAtOnce, RANGES, st.booleans(), TYPES)
    return several | several | short | gets(keys | BOUNDS) | lists


# Begun at once, each of some steps, one after the other.
TASKS = brief(st.lists(st.lists(steps(ANY_KEY), min_size=1, max_size=3), min_size=1, max_size=5))
# Begun at once, and all of one step, so that they are committed together.
GROUP = brief(
    st.lists(operations(HOT_KEY) | operations(HOT_KEY) | gets(HOT_KEY), min_size=2, max_size=6)
)
