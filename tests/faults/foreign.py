"""What the tests of foreign rows share: another program's hand, and what it may write."""

import json
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st

from kvqueue_fastapi import Message
from tests.contract.harness import Bench, Seen, running, until

MOST: Final = (1 << 63) - 1
LEAST: Final = -(1 << 63)
NO_UTF8: Final = b"\xff\x22\xe2"
WITH_NUL: Final = b"a\0b"
DEEP: Final = "[" * 100_000
BLOBS: Final = {("kvqueue_kv", "key"), ("kvqueue_kv", "value"), ("kvqueue_idempotency", "digest")}

Row = dict[str, Any]
"""By column. Bytes are text that may be no UTF-8, except in the columns that hold bytes."""


def insert(foreign: sqlite3.Connection, table: str, *rows: Row) -> None:
    """Write rows as another program would."""
    for row in rows:
        marks = [
            "CAST(? AS TEXT)" if isinstance(value, bytes) and (table, name) not in BLOBS else "?"
            for name, value in row.items()
        ]
        statement = f"INSERT OR REPLACE INTO {table} ({', '.join(row)}) VALUES ({', '.join(marks)})"
        foreign.execute(statement, list(row.values()))


class Beside(NamedTuple):
    """A queue that listens, another program's connection to its file, and what handlers saw."""

    bench: Bench
    foreign: sqlite3.Connection
    seen: Seen

    def write(self, table: str, *rows: Row) -> None:
        """Write rows while it listens."""
        insert(self.foreign, table, *rows)

    async def handles_good_ones(self) -> None:
        """Wait until a good message is handled, whatever lies beside it."""
        wanted = self.seen.count("good") + 1
        self.write("kvqueue_messages", {"type": "good", "data": '"good"'})

        async def came() -> bool:
            return self.seen.count("good") >= wanted

        await until(came)


@asynccontextmanager
async def beside(
    where: Path, before: Callable[[sqlite3.Connection], Any] | None = None, **settings: Any
) -> AsyncGenerator[Beside]:
    """Run a queue, perhaps over what another program did before it started."""
    seen = Seen()

    async def handle(data: Any, message: Message) -> None:
        seen.add(data)
        if message.type != "good":
            raise ValueError(str(message.headers))

    settings = {"backoff_schedule_s": (), "max_crashes": 2, **settings}
    if before is not None:
        async with running(where, listen=False):
            pass
    with closing(sqlite3.connect(where / "q.db", isolation_level=None, timeout=10)) as foreign:
        if before is not None:
            before(foreign)
        async with running(where, callbacks={"good": handle, "n": handle}, **settings) as bench:
            yield Beside(bench, foreign, seen)


numbers = st.one_of(
    st.sampled_from([0, 1, -1, 2, 3, 4, MOST, LEAST, MOST - 1, 1 << 53, 1_700_000_000_000]),
    st.integers(LEAST, MOST),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=5,
)
texts: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        ["", "{", "null", "[]", "5", '"x"', '"\\ud800"', "NaN", "1e999", DEEP, "9" * 5_000,
         NO_UTF8, WITH_NUL, b"\xed\xa0\x80", '{"a":1,"a":2}', '{"type":"n","data":1}']
    ),
    st.binary(max_size=20),
    json_values.map(json.dumps),
)  # fmt: skip
stored_options = st.fixed_dictionaries(
    {},
    optional={
        "headers": st.sampled_from([{}, {"a": "b"}, {"a": 1}, [], None, {"": "\0"}]),
        "backoff_schedule_ms": st.sampled_from([[], [0], [-1], [1 << 70], None, ["1"], 5]),
        "keys_if_undelivered": st.sampled_from([[], [""], ["0"], ["zz"], ["ff"], ["026b00"], 1]),
        "newer": st.just(1),
    },
).map(json.dumps)
stored_errors = st.sampled_from(
    ['[{"attempt":"x","at_ms":[],"text":5,"trace":null}]', '[{"attempt":1}]', "[1]", "[" * 900]
)


def rows(**columns: st.SearchStrategy[Any]) -> st.SearchStrategy[Row]:
    """Draw rows in which any of these columns may be left out."""
    return st.fixed_dictionaries({}, optional=columns)


ids = st.integers(-(1 << 62), 1 << 62)
"""None so large that none is left for others."""
messages = rows(
    id=ids, data=texts, state=numbers, priority=numbers, due_at_ms=numbers, sent_at_ms=numbers,
    attempt=numbers, crashes=numbers, deferrals=numbers, token=numbers, holder=numbers,
    lease_until_ms=numbers, ordering_key=st.none() | texts, requeued_from=st.none() | numbers,
    options=st.none() | texts | stored_options, errors=st.none() | texts | stored_errors,
).map(lambda row: {"type": "n", **row})  # fmt: skip
dead_letters = st.fixed_dictionaries(
    {
        "id": st.integers(LEAST + 1, MOST), "type": st.just("n") | texts, "data": texts,
        "priority": numbers, "sent_at_ms": numbers, "died_at_ms": st.integers(1 << 50, MOST),
        "attempt": numbers, "crashes": numbers, "reason": texts,
        "ordering_key": st.none() | texts, "requeued_from": st.none() | numbers,
        "options": st.none() | texts | stored_options,
        "errors": st.none() | texts | stored_errors,
    }
)  # fmt: skip
