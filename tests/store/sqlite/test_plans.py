"""No statement on the way of a message costs more when the table is deep."""

import re
import sqlite3
from collections import defaultdict
from collections.abc import Callable

import pytest

from kvqueue_fastapi.model import Failure, Outcome, Send
from kvqueue_fastapi.store import AnyStore
from kvqueue_fastapi.store.sqlite import statements as sql
from tests.store.given import LEASE_MS, ManualClock, claim, ending, mail, send

PATH = [
    "INSERT_PLAIN", "PROMOTE_HEADS", "FIND_IDEMPOTENT", "REMEMBER_IDEMPOTENT", "PROBE",
    "PROMOTE_DUE", "NEXT_DUE",
    "PICK", "PICK_QUARANTINED", "PICK_LARGE", "PICK_LARGE_QUARANTINED", "PICK_ISOLATED",
    "PICK_LARGE_ISOLATED", "ISOLATED_OF", "ISOLATED_TYPES", "TAKE", "READY_TYPES",
    "QUARANTINED_TYPES", "DELETE_HELD", "RETRY_HELD", "DEFER_HELD", "RELEASE_HELD", "HELD", "BURY",
    "DELETE_MESSAGE", "EXTEND", "STILL_HELD", "EXPIRED", "TOUCH_EXPIRED", "HELD_BY",
    "RELEASE_ALL_OF", "TAKE_AWAY", "LIST_KEYS", "LIST_KEYS_BACKWARDS", "DEAD_IDS_OF_TYPE",
    "LAST_DEATH",
    "READ_DEAD_LETTER", "DELETE_DEAD_LETTER", "READ_STATE", "FORGET_IDEMPOTENT", "MOVE_IDEMPOTENT",
    "SWEEP_DEAD_LETTERS", "SWEEP_IDEMPOTENCY", "SWEEP_KEYS",
    "SWEEP_MINUTES", "ADD_TO_MINUTE", "REPORT_LISTENER",
]  # fmt: skip

BY_SIZE = ("READ_KEYS", "SET_KEYS", "DELETE_KEYS")
"""Statements that are prepared for several sizes."""

FEW = re.compile(
    r"SCAN kvqueue_messages USING (COVERING )?INDEX kvqueue_(claimed|quarantined|isolated)"
)
"""What one listener holds, and whether there is any: walks of a few rows or of one."""

ROWS = 50_000
_MANY = f"WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})"
_INTO = f"{_MANY} INSERT INTO kvqueue_messages"
KINDS = {
    "ready": f"{_INTO} (type) SELECT 'mail' FROM n",
    "blocked": f"{_INTO} (type, state, ordering_key) SELECT 'mail', 2 * (i > 1), 'k' FROM n",
    "delayed": f"{_INTO} (type, state, priority, due_at_ms)"
    f" SELECT 'mail', 1, 9, {1 << 62} + i FROM n",
    "types": f"{_INTO} (type) SELECT 'type' || (i % 10000) FROM n",
    "running": f"{_INTO} (type, state, token, holder, lease_until_ms)"
    f" SELECT 'mail', 3, i, 5, {1 << 62} FROM n",
    "quarantined": f"{_INTO} (type, state, crashes) SELECT 'mail', 4, 2 FROM n",
    "isolated": f"{_INTO} (type, state, crashes) SELECT 'mail', 5, 4 FROM n",
    "keys": f"{_INTO} (type, ordering_key) SELECT 'other', 'key' || i FROM n",
    "dead": f"{_MANY} INSERT INTO kvqueue_dead_letters"
    " (id, type, data, priority, sent_at_ms, died_at_ms, attempt, crashes, reason)"
    f" SELECT i + 10000000, 'mail', '', 0, 0, {1 << 62}, 1, 0, '' FROM n",
}


@pytest.fixture
def deep(store: AnyStore, request: pytest.FixtureRequest) -> AnyStore:
    """A store that is deep in one kind of row, or in all of them, with statistics."""
    wanted = getattr(request, "param", "all")

    def fill(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous = OFF")
        for kind, statement in KINDS.items():
            if wanted in (kind, "all"):
                connection.execute(statement)
        connection.execute("ANALYZE")

    store._thread.call(fill)
    return store


def test_every_statement_that_names_messages_is_known() -> None:
    named = {
        name
        for name, text in vars(sql).items()
        if name.isupper() and isinstance(text, str) and "kvqueue_messages" in text
    }
    keeping = {"COUNT_PENDING", "COUNT_MESSAGES", "LIST_MESSAGES", "SHOW_MESSAGE", "LISTENERS"}
    keeping |= {"LIST_MESSAGES_BACKWARDS", "READ_MESSAGE", "READ_PAYLOADS"}
    keeping |= {"COUNT_BACKUP", "RELEASE_ALL", "SEED_IDS", "SKIP_IDS"}
    keeping.add("OLDEST_READY")  # walks the few listeners; what it costs is tested below
    keeping.add("LAST_ID")  # of the table of sequences, which has one row

    assert {name for name in named if not name.startswith("_")} <= {*PATH, *keeping}


async def test_plans_stay_on_indexes(store: AnyStore) -> None:
    assert _walks(store) == {}


async def test_plans_stay_on_indexes_in_a_deep_table_with_statistics(deep: AnyStore) -> None:
    assert _walks(deep) == {}


@pytest.mark.parametrize("deep", KINDS, indirect=True)
async def test_way_of_a_message_costs_the_same_in_a_deep_table(
    deep: AnyStore, clock: ManualClock
) -> None:
    steps = _counter(deep)

    plain = await _cost(steps, lambda: send(deep, *(mail() for _ in range(100))))
    sent = await _cost(steps, lambda: send(deep, *(mail(priority=10) for _ in range(100))))
    keyed = await _cost(steps, lambda: send(deep, mail(priority=10, ordering_key="k")))
    claimed = await _cost(steps, lambda: claim(deep, limit=99, quarantined=False))
    types = await _cost(steps, lambda: deep.ready_types(after="", limit=100))

    assert plain < 12_000
    assert sent < 12_000
    assert keyed < 500
    assert claimed < 25_000
    assert types < 8_000


@pytest.mark.parametrize("deep", KINDS, indirect=True)
async def test_end_of_a_message_costs_the_same_in_a_deep_table(
    deep: AnyStore, clock: ManualClock
) -> None:
    steps = _counter(deep)
    await send(deep, *(Send("x", "1", ordering_key=f"x{n % 20}", priority=10) for n in range(120)))
    held = await claim(deep, "x", limit=20, quarantined=False, lease_ms=LEASE_MS)

    leases = [(one.id, one.token) for one in held]
    extended = await _cost(steps, lambda: _awaitable(deep.extend(leases, LEASE_MS)))
    for outcome in (Outcome.RELEASE, Outcome.RETRY, Outcome.DEAD, Outcome.DONE):
        ends = [ending(one, outcome, failure=Failure("oops")) for one in held]
        settled = await _cost(steps, lambda ends=ends: deep.settle(ends))
        assert settled < 10_000
        held = await claim(deep, "x", limit=20, quarantined=False)

    assert extended < 3_000


@pytest.mark.parametrize("deep", KINDS, indirect=True)
async def test_age_of_the_oldest_costs_the_same_in_a_deep_table(deep: AnyStore) -> None:
    steps = _counter(deep)
    names = {"most": 1_000}
    await deep.enter_listener(["mail", "other"])
    steps[0] = 0

    asked = lambda connection: connection.execute(sql.OLDEST_READY, names).fetchone()  # noqa: E731
    cost = await _cost(steps, lambda: deep._thread.run(asked))

    assert cost < 2_000


def _walks(store: AnyStore) -> dict[str, list[str]]:
    """By statement, the steps of its plan that walk through messages or sort them."""

    def explain(connection: sqlite3.Connection) -> dict[str, list[str]]:
        names: defaultdict[str, str] = defaultdict(lambda: "[]")
        plans = {
            name: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", names)]
            for name, text in ((name, getattr(sql, name)) for name in PATH)
        }
        for name in BY_SIZE:
            text = getattr(sql, name)[4]
            rows = connection.execute(f"EXPLAIN QUERY PLAN {text}", [b"k"] * text.count("?"))
            plans[name] = [row[3] for row in rows]
        return {name: bad for name, plan in plans.items() if (bad := _bad(name, plan))}

    return store._thread.call(explain)


def _bad(name: str, plan: list[str]) -> list[str]:
    # A claim sorts what it picked of each type: at most its limit, of at most 16 types.
    sorts = name.startswith("PICK")
    return [
        step
        for step in plan
        if (re.match(r"SCAN (kvqueue_\w+|message)\b", step) and not FEW.match(step))
        or ("TEMP B-TREE" in step and not sorts)
    ]


def _counter(store: AnyStore) -> list[int]:
    """Counts the instructions that SQLite's machine executes, in tens."""
    steps = [0]

    def count() -> int:
        steps[0] += 10
        return 0

    store._thread.call(lambda connection: connection.set_progress_handler(count, 10))
    return steps


async def _cost(steps: list[int], work: Callable[[], object]) -> int:
    steps[0] = 0
    await work()  # type: ignore[misc]
    return steps[0]


async def _awaitable(value: object) -> object:
    return value
