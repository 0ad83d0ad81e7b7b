"""The schema: made once whoever starts first, brought up to date beside code that is older."""

import asyncio
import multiprocessing
import secrets
from collections.abc import AsyncIterator, Sequence
from multiprocessing.synchronize import Barrier
from typing import Any

import asyncpg
import pytest

from kvqueue_fastapi.errors import SchemaTooNewError, StoreError
from kvqueue_fastapi.model import AtomicWrite, Send
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import AnyStore, open_store
from kvqueue_fastapi.store.migrations import Migration, load_migrations
from kvqueue_fastapi.store.postgres.connection import Patience
from kvqueue_fastapi.store.postgres.schema import PACKAGE, migrate
from kvqueue_fastapi.store.postgres.sessions import Sessions
from tests.servers.databases import at_database
from tests.store.given import claim, claimed_ids, ending, mail, send

KNOWN = load_migrations(PACKAGE)
NEXT = Migration(
    number=len(KNOWN) + 1,
    name="note",
    oldest_code=1,
    sql="""-- oldest code: 1
ALTER TABLE {schema}.kvqueue_messages ADD COLUMN note text NOT NULL DEFAULT 'none; really';
CREATE INDEX kvqueue_noted ON {schema}.kvqueue_messages (note);
""",
)
PROCESSES = 8
SCHEMAS = [f"at_once_{turn}" for turn in range(5)]


@pytest.fixture
def settings() -> KvQueueSettings:
    return KvQueueSettings()


@pytest.fixture
async def store(bare_postgres_url: str, settings: KvQueueSettings) -> AsyncIterator[AnyStore]:
    store = await open_store(bare_postgres_url, settings)
    yield store
    await store.close()


@pytest.fixture
async def foreign(bare_postgres_url: str) -> AsyncIterator[Any]:
    """Another program at the tables."""
    connection = await asyncpg.connect(
        bare_postgres_url, server_settings={"search_path": "kvqueue"}
    )
    yield connection
    await connection.close()


@pytest.fixture
async def sessions(bare_postgres_url: str, settings: KvQueueSettings) -> AsyncIterator[Sessions]:
    """Those of newer code that starts."""
    sessions = Sessions(bare_postgres_url, settings, Patience(lease_s=3))
    yield sessions
    await sessions.close()


async def visit(url: str, schema: str) -> None:
    store = await open_store(url, KvQueueSettings(postgres_schema=schema))
    await store.commit(AtomicWrite(sends=[Send("mail", "1")]))
    await store.close()


def visit_all(url: str, schemas: Sequence[str], barrier: Barrier) -> None:
    for schema in schemas:
        barrier.wait(30)
        asyncio.run(visit(url, schema))


async def test_processes_that_start_at_once_make_one_schema(
    bare_postgres_url: str, foreign: Any
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    arguments = (bare_postgres_url, SCHEMAS, context.Barrier(PROCESSES))
    starting = [context.Process(target=visit_all, args=arguments) for _ in range(PROCESSES)]

    for process in starting:
        process.start()
    for process in starting:
        await asyncio.to_thread(process.join, 60)

    assert [process.exitcode for process in starting] == [0] * PROCESSES
    for schema in SCHEMAS:
        query = f"SELECT count(*), count(DISTINCT id) FROM {schema}.kvqueue_messages"
        assert tuple(await foreign.fetchrow(query)) == (PROCESSES, PROCESSES)
        query = f"SELECT id, applied, oldest_code FROM {schema}.kvqueue_schema"
        assert list(map(tuple, await foreign.fetch(query))) == [(1, len(KNOWN), 1)]


async def test_other_tables_of_the_database_are_left_alone(
    bare_postgres_url: str, foreign: Any, settings: KvQueueSettings
) -> None:
    await foreign.execute("CREATE TABLE public.kvqueue_schema AS SELECT 7 AS id")

    await (await open_store(bare_postgres_url, settings)).close()

    assert await foreign.fetchval("SELECT id FROM public.kvqueue_schema") == 7
    assert await foreign.fetchval("SELECT id FROM kvqueue.kvqueue_schema") == 1


async def test_older_code_goes_on_beside_an_additive_migration(
    store: AnyStore, sessions: Sessions
) -> None:
    before = await send(store, mail("old"))

    await migrate(sessions, (*KNOWN, NEXT))
    after = await send(store, mail("old"))
    held = await claim(store)

    assert [one.id for one in held] == before + after
    assert await store.settle([ending(one) for one in held]) == [True, True]


async def test_older_code_can_start_after_an_additive_migration(
    store: AnyStore,
    sessions: Sessions,
    foreign: Any,
    bare_postgres_url: str,
    settings: KvQueueSettings,
) -> None:
    await migrate(sessions, (*KNOWN, NEXT))

    second = await open_store(bare_postgres_url, settings)
    sent = await send(second, mail())
    found = await claimed_ids(second)
    await second.close()

    assert found == sent
    assert await foreign.fetchval("SELECT note FROM kvqueue_messages") == "none; really"


async def test_migration_is_applied_once(store: AnyStore, sessions: Sessions, foreign: Any) -> None:
    await migrate(sessions, (*KNOWN, NEXT))
    await migrate(sessions, (*KNOWN, NEXT))

    assert await foreign.fetchval("SELECT applied FROM kvqueue_schema") == NEXT.number


async def test_migration_that_fails_leaves_nothing(
    store: AnyStore, sessions: Sessions, foreign: Any
) -> None:
    nonsense = "CREATE TABLE {schema}.kvqueue_half (id int); NONSENSE;"
    bad = Migration(NEXT.number, "bad", 1, nonsense)

    with pytest.raises(StoreError, match="NONSENSE"):
        await migrate(sessions, (*KNOWN, bad))

    assert await foreign.fetchval("SELECT applied FROM kvqueue_schema") == len(KNOWN)
    assert await foreign.fetchval("SELECT to_regclass('kvqueue.kvqueue_half')") is None
    assert await send(store, mail())


async def test_code_that_is_too_old_is_refused(
    store: AnyStore, foreign: Any, bare_postgres_url: str, settings: KvQueueSettings
) -> None:
    await foreign.execute("UPDATE kvqueue_schema SET applied = 12, oldest_code = 9")

    with pytest.raises(SchemaTooNewError) as caught:
        await open_store(bare_postgres_url, settings)

    assert str(caught.value) == (
        f"The database takes code from schema 9 on, this code knows schema {len(KNOWN)}. "
        "Upgrade kvqueue_fastapi in this process."
    )
    assert (caught.value.oldest_code, caught.value.this_code) == (9, len(KNOWN))


async def test_database_that_cannot_hold_every_text_is_refused(
    shared_postgres_url: str,
) -> None:
    name = f"latin_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(shared_postgres_url)
    try:
        await connection.execute(
            f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
        )
        url = at_database(shared_postgres_url, name)

        with pytest.raises(StoreError, match=r"encoding is LATIN1.*ENCODING 'UTF8'"):
            await open_store(url, KvQueueSettings())
    finally:
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await connection.close()
