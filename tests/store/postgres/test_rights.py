"""One role makes the tables, and another runs the app with the rights that the README lists."""

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest
from injector import Injector

from kvqueue_fastapi import (
    Kv,
    KvQueue,
    KvQueueAdmin,
    KvQueueModule,
    KvQueueSettings,
    KvU64,
    Message,
    StoreError,
    on_queue_message,
)
from kvqueue_fastapi.store import open_store
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import Patience, in_schema
from kvqueue_fastapi.store.postgres.schema import PACKAGE, load_migrations, migrate
from kvqueue_fastapi.store.postgres.sessions import Sessions
from tests.store.postgres.test_schema import NEXT

README = (Path(__file__).parents[3] / "README.md").read_text("utf-8")
REMEDY = "Give this role the rights that the README lists under PostgreSQL."
PATIENCE_S = 10


class Roles(NamedTuple):
    """Two of them, at one database.

    Attributes:
        superuser: a connection.
        owner: the URL of the one that makes the tables.
        runner: the URL of the one that runs the app.
    """

    superuser: Any
    owner: str
    runner: str

    async def as_owner(self, script: str) -> None:
        connection = await asyncpg.connect(self.owner)
        await connection.execute(script.replace("shop", _user_of(self.runner)))
        await connection.close()


@pytest.fixture
async def newcomers(bare_postgres_url: str) -> AsyncIterator[Roles]:
    """Who have no rights yet."""
    superuser = await asyncpg.connect(bare_postgres_url)
    names = [f"{part}_{secrets.token_hex(6)}" for part in ("owner", "runner")]
    for name in names:
        await superuser.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    address = bare_postgres_url.partition("@")[2]
    yield Roles(superuser, *(f"postgresql://{name}:secret@{address}" for name in names))
    for name in names:
        await superuser.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")
    await superuser.close()


@pytest.fixture
async def roles(newcomers: Roles) -> Roles:
    """Who have been given what the README says."""
    once, afterwards = re.findall(r"^```sql\n(.*?)^```$", _section(), re.DOTALL | re.MULTILINE)
    database = await newcomers.superuser.fetchval("SELECT current_database()")
    owner = _user_of(newcomers.owner)
    await newcomers.superuser.execute(
        once.replace("shop_owner", owner).replace("DATABASE shop", f"DATABASE {database}")
    )
    async with Kv.open(newcomers.owner):
        pass
    await newcomers.as_owner(afterwards)
    return newcomers


def _section() -> str:
    return README.partition("### Roles and rights\n")[2].partition("\n### ")[0]


def _user_of(url: str) -> str:
    return url.removeprefix("postgresql://").partition(":")[0]


class Shop:
    """Consumers that succeed, fail for good, and succeed in the end."""

    def __init__(self) -> None:
        self.ended: list[Any] = []

    @on_queue_message("sold")
    async def sell(self, thing: str, message: Message[str]) -> None:
        await message.atomic().sum(("sold",), 1).send_message("told", thing).commit()

    @on_queue_message("told")
    async def tell(self, thing: str, message: Message[str]) -> None:
        if message.attempt == 1:
            raise ConnectionError
        self.ended.append(thing)

    @on_queue_message("lost")
    async def lose(self, _: str) -> None:
        raise KeyError


async def test_an_app_runs_with_these_rights_whatever_it_does(
    roles: Roles, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "kvqueue_fastapi")
    shop = Shop()
    settings = KvQueueSettings(url=roles.runner, backoff_schedule_s=(0,), lease_s=10)
    module = KvQueueModule(settings=settings, consumers=[Shop])
    injector = Injector([module, lambda binder: binder.bind(Shop, to=shop)])
    async with module.running(injector) as queue, asyncio.timeout(PATIENCE_S):
        kv, admin = injector.get(Kv), injector.get(KvQueueAdmin)
        await queue.send_message("sold", "cup", ordering_key="one", priority=1)
        await queue.send_message("sold", "pot", ordering_key="one", idempotency_key="pot")
        await queue.send_message("lost", "lid", keys_if_undelivered=[("lost",)])
        await until_count(kv, 2)
        await end_every_session(roles)
        await queue.send_message("sold", "can", delay=0.1)
        await until_count(kv, 3)
        await use_keys(kv)
        await use_admin(queue, admin)
        await bury_a_dead_one(roles, admin)
        while len(shop.ended) < 3:
            await asyncio.sleep(0.01)

    assert sorted(shop.ended) == ["can", "cup", "pot"]
    assert "permission" not in caplog.text


async def until_count(kv: Kv, count: int) -> None:
    async with aclosing(kv.watch([("sold",)], KvU64)) as states:
        async for (entry,) in states:
            if entry.value == KvU64(count):
                return


async def end_every_session(roles: Roles) -> None:
    """So that the app makes sure, with its own rights, that they have ended."""
    await roles.superuser.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE usename = '{_user_of(roles.runner)}'"
    )


async def use_keys(kv: Kv) -> None:
    await kv.set(("session",), 1, expire_in=0.01)
    while (await kv.get(("session",))).versionstamp:
        await asyncio.sleep(0.01)
    entry = await kv.get(("lost",))
    assert await kv.atomic().check(entry).set(("found",), 1).delete(entry.key).commit()
    assert [one.key async for one in kv.list(prefix=(), limit=9)] == [("found",), ("sold",)]


async def use_admin(queue: KvQueue, admin: KvQueueAdmin) -> None:
    while not (letters := await admin.dead_letters()):
        await asyncio.sleep(0.01)
    await admin.requeue([letters[0].id])
    while not (letters := await admin.dead_letters()):
        await asyncio.sleep(0.01)
    await admin.discard([letters[0].id])
    await admin.pause("sold")
    cancelled = await queue.send_message("sold", "jug", ordering_key="one")
    await admin.cancel(cancelled)
    await admin.resume("sold")
    assert {one.type for one in await admin.counts()} >= {"sold", "lost"}
    assert len(await admin.listeners()) == 1


async def bury_a_dead_one(roles: Roles, admin: KvQueueAdmin) -> None:
    await roles.as_owner(
        "INSERT INTO kvqueue.kvqueue_listeners (id, host, pid, since_ms, types)"
        " VALUES (7, 'gone', 1, 0, '{}')"
    )
    while len(await admin.listeners()) > 1:
        await asyncio.sleep(0.01)


async def test_what_is_past_its_time_is_swept_with_these_rights(roles: Roles) -> None:
    store = await open_store(roles.runner, KvQueueSettings(dead_letter_retention_s=0.001))
    await roles.as_owner(
        "INSERT INTO kvqueue.kvqueue_kv VALUES ('a', 'b', 3, 1, 1);"
        "INSERT INTO kvqueue.kvqueue_idempotency VALUES ('sold', 'a', 1, 'b', 1)"
    )

    assert await asyncio.to_thread(store.sweep) == 2

    await store.close()


async def test_the_table_is_vacuumed_with_these_rights(roles: Roles) -> None:
    if roles.superuser.get_server_version() < (17,):
        pytest.skip("there is no MAINTAIN before PostgreSQL 17")
    said: list[Any] = []
    connection = await asyncpg.connect(roles.runner)
    connection.add_log_listener(lambda _, message: said.append(message))

    await connection.execute(in_schema(sql.VACUUM, "kvqueue"))

    await connection.close()
    assert said == []


async def test_tables_of_a_later_version_need_no_new_rights(roles: Roles) -> None:
    await roles.as_owner("CREATE TABLE kvqueue.kvqueue_later (id int)")

    connection = await asyncpg.connect(roles.runner)

    assert await connection.fetch("DELETE FROM kvqueue.kvqueue_later RETURNING id") == []
    await connection.close()


# --- without one of them ---


async def test_who_may_not_make_the_schema_is_told_so(newcomers: Roles) -> None:
    with pytest.raises(StoreError, match=f"permission denied for database .*{REMEDY}"):
        await open_store(newcomers.runner, KvQueueSettings())


async def test_who_runs_may_not_migrate_and_is_told_so(roles: Roles) -> None:
    sessions = Sessions(roles.runner, KvQueueSettings(), Patience(lease_s=3))

    with pytest.raises(StoreError, match=f"must be owner of table .*{REMEDY}"):
        await migrate(sessions, (*load_migrations(PACKAGE), NEXT))

    await sessions.close()


@pytest.mark.parametrize(
    ("right", "error"),
    [
        ("USAGE ON SCHEMA kvqueue", "permission denied for schema kvqueue"),
        ("SELECT ON kvqueue.kvqueue_schema", "permission denied for table kvqueue_schema"),
        ("INSERT ON kvqueue.kvqueue_listeners", "permission denied for table kvqueue_listeners"),
        ("INSERT ON kvqueue.kvqueue_messages", "permission denied for table kvqueue_messages"),
        ("UPDATE ON kvqueue.kvqueue_id_blocks", "permission denied for sequence kvqueue_id_blocks"),
        ("SELECT ON kvqueue.kvqueue_versions", "permission denied for sequence kvqueue_versions"),
        ("UPDATE ON kvqueue.kvqueue_versions", "permission denied for sequence kvqueue_versions"),
    ],
)
async def test_a_role_that_lacks_a_right_is_told_which(
    roles: Roles, right: str, error: str
) -> None:
    await roles.as_owner(f"REVOKE {right} FROM shop")

    with pytest.raises(StoreError, match=f"{error}. {REMEDY}"):
        await start_send_and_set(roles.runner)


async def start_send_and_set(url: str) -> None:
    module = KvQueueModule(url, consumers=[Shop])
    injector = Injector([module])
    async with module.running(injector) as queue:
        await queue.send_message("sold", "cup")
        await injector.get(Kv).set(("sold",), KvU64(1))
