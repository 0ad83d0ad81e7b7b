"""What a statement costs does not depend on how many wait, nor on what the planner believes."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import open_store
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import SETTINGS, in_schema

FILL = """
INSERT INTO kvqueue.kvqueue_messages (id, type, data, state, token, due_at_ms, ordering_key)
SELECT nextval('kvqueue.kvqueue_id_blocks') * 1000, $1, '{}', $2, 7, 1000 + n, $3
  FROM generate_series(1, $4::int) AS n
"""
IDS = list(range(1_000, 101_000, 1_000))
DUE = "the first that is due"
ON_THE_PATH: dict[str, tuple[Any, ...]] = {
    "PROBE": (None, None),
    "PROMOTE_DUE": (None, 100),
    "CLAIM": (["mail", "other"], [100, 100], 5, 1, 30_000, None, 100),
    "CLAIM_FROM_HEADS": (
        ["mail", "other"],
        [100, 100],
        5,
        1,
        30_000,
        None,
        100,
        [0, 0],
        DUE,
    ),
    "HEADS": (["mail", "other"],),
    "CLAIM_QUARANTINED": (["mail"], [100], 5, 1, 30_000, None),
    "CLAIM_ISOLATED": (["mail"], [100], 5, 1, 30_000, None),
    "ISOLATED_OF": (["mail"], [100]),
    "READY_TYPES": ("", 16),
    "DELETE_HELD": (IDS, [7] * 100),
    "HOLD": (IDS,),
    "EXTEND": (None, 30_000, IDS, [7] * 100),
    "EXPIRED": (None, 100),
    "PROMOTE_HEADS": (None, ["k", "l"]),
    "DELETE_MESSAGES": (IDS,),
}


@pytest.fixture
async def connection(bare_postgres_url: str) -> AsyncIterator[Any]:
    """Of a schema without messages, as the engine has it, with plans for any values."""
    store = await open_store(bare_postgres_url, KvQueueSettings())
    await store.close()
    settings = {**SETTINGS, "plan_cache_mode": "force_generic_plan"}
    connection = await asyncpg.connect(bare_postgres_url, server_settings=settings)
    yield connection
    await connection.close()


async def fill(connection: Any, depth: int) -> None:
    """Some of each state, most of them ready, and an ordering key with a long tail."""
    for kind, state, key, count in [
        ("mail", 0, None, depth),
        ("other", 0, None, depth),
        ("mail", 1, None, 100),
        ("mail", 3, None, 100),
        ("mail", 2, "k", depth),
    ]:
        await connection.execute(FILL, kind, state, key, count)


def parts(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from parts(part)


async def explained(connection: Any, name: str, first_due: int = 1_100) -> dict[str, Any]:
    """Runs it, and takes back what it did."""
    statement = in_schema(getattr(sql, name), '"kvqueue"')
    given = [[first_due] * 2 if value == DUE else value for value in ON_THE_PATH[name]]
    values = ", ".join(map(_literal, given))
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"PREPARE one AS {statement}")
        found = await connection.fetchval(
            f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE one ({values})"
        )
        plan: dict[str, Any] = json.loads(found)[0]["Plan"]
        return plan
    finally:
        await transaction.rollback()
        await connection.execute("DEALLOCATE one")


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return "ARRAY[" + ", ".join(map(_literal, value)) + "]"
    return f"'{value}'" if isinstance(value, str) else str(value)


@pytest.mark.parametrize("name", ON_THE_PATH)
async def test_no_statistics_lead_away_from_the_indexes(connection: Any, name: str) -> None:
    for depth in (0, 2_000):
        await fill(connection, depth)
        for _ in range(2):  # first with the statistics of before, then with those of now
            plan = await explained(connection, name)
            walks = [
                part["Node Type"]
                for part in parts(plan)
                if part.get("Relation Name") == "kvqueue_messages"
            ]

            assert set(walks) <= {"Index Scan", "Index Only Scan", "ModifyTable"}, walks
            await connection.execute("ANALYZE kvqueue.kvqueue_messages")


@pytest.mark.parametrize("name", ON_THE_PATH)
async def test_no_statement_reads_more_pages_when_more_wait(connection: Any, name: str) -> None:
    read: list[int] = []
    for depth in (1_000, 19_000):
        await fill(connection, depth)
        await connection.execute("VACUUM (ANALYZE) kvqueue.kvqueue_messages")
        await explained(connection, name)  # what it finds first, it tidies up
        plan = await explained(connection, name)
        read.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    # A level more of an index costs a page for each row.
    assert read[1] <= 2 * read[0] + 40


async def test_claim_from_heads_reads_no_page_of_what_was_handled(
    connection: Any, bare_postgres_url: str
) -> None:
    elsewhere = await asyncpg.connect(bare_postgres_url)
    await fill(connection, 20_000)
    async with elsewhere.transaction(isolation="repeatable_read"):
        # what this may still see cannot be cleaned up
        await elsewhere.fetchval("SELECT count(*) FROM kvqueue.kvqueue_messages WHERE id = 0")
        await connection.execute(
            "DELETE FROM kvqueue.kvqueue_messages WHERE state = 0 AND due_at_ms < 1000 + 19000"
        )
        heads = await connection.fetch(in_schema(sql.HEADS, '"kvqueue"'), ["mail", "other"])
        read = {
            name: pages_of_ready(await explained(connection, name, first_due=heads[0][2]))
            for name in ("CLAIM", "CLAIM_FROM_HEADS")
        }
    await elsewhere.close()

    assert [tuple(one) for one in heads] == [("mail", 0, 20_000), ("other", 0, 20_000)]
    assert 10 * read["CLAIM_FROM_HEADS"] < read["CLAIM"], read


def pages_of_ready(plan: dict[str, Any]) -> int:
    return sum(
        part["Shared Hit Blocks"] + part["Shared Read Blocks"]
        for part in parts(plan)
        if part.get("Index Name") == "kvqueue_ready"
    )
