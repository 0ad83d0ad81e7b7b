"""The schema: made once whoever starts first, brought up to date beside code that is older."""

import asyncio
import multiprocessing
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from kvqueue_fastapi.errors import SchemaTooNewError
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import AnyStore, open_store
from kvqueue_fastapi.store.migrations import Migration, load_migrations
from kvqueue_fastapi.store.sqlite.connection import Patience
from kvqueue_fastapi.store.sqlite.schema import PACKAGE, migrate
from tests.store.given import claim, claimed_ids, ending, mail, send
from tests.store.sqlite.opener import visit, visit_all

KNOWN = load_migrations(PACKAGE)
PATIENCE = Patience(lease_s=3)
NEXT = Migration(
    number=len(KNOWN) + 1,
    name="note",
    oldest_code=1,
    sql="""-- oldest code: 1
ALTER TABLE kvqueue_messages ADD COLUMN note TEXT NOT NULL DEFAULT 'none; really';
CREATE TABLE kvqueue_notes (id INTEGER PRIMARY KEY) STRICT;
CREATE TRIGGER kvqueue_note AFTER INSERT ON kvqueue_messages BEGIN
    INSERT INTO kvqueue_notes (id) VALUES (new.id); -- one; for each
END;
CREATE INDEX kvqueue_noted ON kvqueue_messages (note) -- the last one ends without a semicolon
""",
)

PROCESSES = 6
ROUNDS = 5


def test_many_processes_make_one_schema(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["store.sqlite.opener", "store.sqlite.holder"])
    paths = [tmp_path / f"{turn}.db" for turn in range(20)]
    arguments = (list(map(str, paths)), context.Barrier(PROCESSES))
    openers = [context.Process(target=visit_all, args=arguments) for _ in range(PROCESSES)]

    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join(60)

    assert [opener.exitcode for opener in openers] == [0] * PROCESSES
    for path in paths:
        assert _read(path, "SELECT count(*), max(id) FROM kvqueue_messages") == (6, 6)
        assert _read(path, "SELECT applied, oldest_code FROM kvqueue_schema") == (len(KNOWN), 1)


def test_many_threads_make_one_schema(tmp_path: Path) -> None:
    with ThreadPoolExecutor(PROCESSES) as threads:
        for turn in range(ROUNDS):
            path = tmp_path / f"{turn}.db"

            list(threads.map(lambda p: asyncio.run(visit(p)), [str(path)] * PROCESSES))

            assert _read(path, "SELECT count(*), max(id) FROM kvqueue_messages") == (6, 6)


async def test_opening_again_changes_nothing(path: Path, settings: KvQueueSettings) -> None:
    await _open_and_close(path, settings)
    before = _read(path, "SELECT applied, oldest_code, database_id FROM kvqueue_schema")

    await _open_and_close(path, settings)

    assert _read(path, "SELECT applied, oldest_code, database_id FROM kvqueue_schema") == before


async def test_other_tables_of_the_file_are_left_alone(
    path: Path, settings: KvQueueSettings
) -> None:
    with closing(sqlite3.connect(path)) as own:
        own.execute("CREATE TABLE orders AS SELECT 7 AS id")
        own.commit()

    await _open_and_close(path, settings)

    assert _read(path, "SELECT id FROM orders") == (7,)


async def test_older_code_goes_on_beside_an_additive_migration(
    store: AnyStore, foreign: sqlite3.Connection
) -> None:
    before = await send(store, mail("old"))

    migrate(foreign, PATIENCE, (*KNOWN, NEXT))
    after = await send(store, mail("old"))
    held = await claim(store)

    assert [one.id for one in held] == before + after
    assert await store.settle([ending(one) for one in held]) == [True, True]


async def test_older_code_can_start_after_an_additive_migration(
    store: AnyStore, foreign: sqlite3.Connection, path: Path, settings: KvQueueSettings
) -> None:
    migrate(foreign, PATIENCE, (*KNOWN, NEXT))

    second = await open_store(str(path), settings)
    sent = await send(second, mail())
    found = await claimed_ids(second)
    await second.close()

    assert found == sent
    assert foreign.execute("SELECT id FROM kvqueue_notes").fetchall() == [(sent[0],)]
    assert foreign.execute("SELECT note FROM kvqueue_messages").fetchone() == ("none; really",)


async def test_migration_is_applied_once(store: AnyStore, foreign: sqlite3.Connection) -> None:
    migrate(foreign, PATIENCE, (*KNOWN, NEXT))
    migrate(foreign, PATIENCE, (*KNOWN, NEXT))

    assert foreign.execute("SELECT applied FROM kvqueue_schema").fetchone() == (NEXT.number,)
    assert foreign.execute("PRAGMA index_info(kvqueue_noted)").fetchone()[2] == "note"


async def test_migration_that_fails_leaves_nothing(
    store: AnyStore, foreign: sqlite3.Connection
) -> None:
    bad = Migration(NEXT.number, "bad", 1, "CREATE TABLE kvqueue_half (id);\nNONSENSE;\n")

    with pytest.raises(sqlite3.OperationalError):
        migrate(foreign, PATIENCE, (*KNOWN, bad))

    assert foreign.execute("SELECT applied FROM kvqueue_schema").fetchone() == (len(KNOWN),)
    assert (
        foreign.execute("SELECT 1 FROM sqlite_master WHERE name = 'kvqueue_half'").fetchall() == []
    )
    assert await send(store, mail()) == [1]


async def test_code_that_is_too_old_is_refused(
    store: AnyStore, foreign: sqlite3.Connection, path: Path, settings: KvQueueSettings
) -> None:
    foreign.execute("UPDATE kvqueue_schema SET applied = 12, oldest_code = 9")

    with pytest.raises(SchemaTooNewError) as caught:
        await open_store(str(path), settings)

    assert str(caught.value) == (
        f"The database takes code from schema 9 on, this code knows schema {len(KNOWN)}. "
        "Upgrade kvqueue_fastapi in this process."
    )
    assert (caught.value.oldest_code, caught.value.this_code) == (9, len(KNOWN))


async def _open_and_close(path: Path, settings: KvQueueSettings) -> None:
    store = await open_store(str(path), settings)
    await store.close()


def _read(path: Path, query: str) -> tuple[object, ...]:
    with closing(sqlite3.connect(path)) as connection:
        return tuple(connection.execute(query).fetchone())
