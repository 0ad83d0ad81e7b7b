"""The servers that the tests of PostgreSQL rest on do what those tests take for granted."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from tests.servers.postgres import Mode, PostgresServer
from tests.servers.shared import POSTGRES_URL, ROOT

Start = Callable[..., PostgresServer]
PATIENCE_S = 30.0

# asks for the run's server twice, says what it was given, and lasts until it is killed
RUN = """
import os, sys, time
from pathlib import Path
from tests.servers.shared import shared_postgres
print(*[shared_postgres(Path(sys.argv[1]), os.getpid()) for _ in range(2)], flush=True)
time.sleep(60)
"""


async def query(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_each_test_has_an_empty_database_of_its_own(
    bare_postgres_url: str, shared_postgres_url: str
) -> None:
    tables = await query(bare_postgres_url, "SELECT count(*) FROM pg_stat_user_tables")
    name = await query(bare_postgres_url, "SELECT current_database()")

    assert tables == 0
    assert name != await query(shared_postgres_url, "SELECT current_database()")


async def test_each_test_has_a_database_of_its_own_with_empty_tables(postgres_url: str) -> None:
    tables = await query(
        postgres_url,
        "SELECT array_agg(relname ORDER BY relname) FROM pg_stat_user_tables"
        " WHERE schemaname = 'kvqueue'",
    )
    messages = await query(postgres_url, "SELECT count(*) FROM kvqueue.kvqueue_messages")

    assert "kvqueue_messages" in tables
    assert messages == 0


@pytest.mark.parametrize("mode", ["fast", "immediate", None])
async def test_server_started_again_has_new_postmaster_and_the_data(
    start_postgres: Start, mode: Mode | None
) -> None:
    server = start_postgres(fsync=False)
    url, pid = server.url, server.pid
    await query(url, "CREATE TABLE kept AS SELECT 7 AS number")

    if mode:
        server.restart(mode)
    else:
        server.kill()
        server.start()

    assert server.pid != pid
    assert await query(url, "SELECT number FROM kept") == 7


async def test_promoted_replica_has_the_data_and_takes_writes(start_postgres: Start) -> None:
    server = start_postgres(fsync=False)
    await query(server.url, "CREATE TABLE kept AS SELECT 7 AS number")
    replica = server.replica()
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await query(replica.url, "INSERT INTO kept VALUES (8)")

    server.kill()
    replica.promote()

    await query(replica.url, "INSERT INTO kept VALUES (8)")
    assert await query(replica.url, "SELECT sum(number) FROM kept") == 15


async def test_settings_hold_and_can_be_altered(start_postgres: Start) -> None:
    server = start_postgres(fsync=False, settings={"max_notify_queue_pages": 64})
    pages = await query(server.url, "SHOW max_notify_queue_pages")

    await query(server.url, "ALTER SYSTEM SET max_notify_queue_pages = 65")
    server.restart()

    assert pages == "64"
    assert await query(server.url, "SHOW max_notify_queue_pages") == "65"


def test_run_shares_one_server_that_ends_with_it_even_when_it_is_killed(tmp_path: Path) -> None:
    environment = {name: os.environ[name] for name in os.environ.keys() - {POSTGRES_URL}}
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", RUN, tmp_path],
        cwd=ROOT,
        env={**environment, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        first, second = run.stdout.readline().split()
        files = list(temporary.iterdir())
        run.kill()

    assert first == second
    assert len(files) == 1
    deadline = time.monotonic() + PATIENCE_S
    while list(temporary.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
