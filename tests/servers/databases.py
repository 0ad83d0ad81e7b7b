"""Empty databases on a PostgreSQL that is there."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

from kvqueue_fastapi import Kv

R = TypeVar("R")

GROWN_BYTES: Final = 2 * 1024 * 1024
"""What has become larger is dropped, because emptied tables keep their pages."""

_STRUCTURE: Final = """
SELECT md5(string_agg(line, ';' ORDER BY line)), coalesce(sum(bytes), 0)::bigint FROM (
    SELECT (nspname, relname, relkind, relacl, relowner, reloptions)::text AS line,
           CASE WHEN relkind IN ('r', 'i') THEN pg_relation_size(c.oid) ELSE 0 END AS bytes
      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
     WHERE nspname !~ '^(pg_|information_schema)'
     UNION ALL
    SELECT (attrelid::regclass, attname, atttypid, attnotnull, attacl)::text, 0
      FROM pg_attribute JOIN pg_class AS c ON c.oid = attrelid
     WHERE relnamespace = 'kvqueue'::regnamespace
     UNION ALL
    SELECT (conrelid::regclass, conname, pg_get_constraintdef(oid))::text, 0 FROM pg_constraint
     WHERE connamespace = 'kvqueue'::regnamespace
     UNION ALL
    SELECT (tgrelid::regclass, tgname, tgenabled)::text, 0 FROM pg_trigger
     UNION ALL
    SELECT (pronamespace, proname)::text, 0 FROM pg_proc
     WHERE pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
     UNION ALL
    SELECT (nspname, nspacl, nspowner)::text, 0 FROM pg_namespace WHERE nspname !~ '^pg_'
     UNION ALL
    SELECT (setrole, setconfig)::text, 0 FROM pg_db_role_setting AS s
      JOIN pg_database AS d ON d.oid = setdatabase AND datname = current_database()
     UNION ALL
    SELECT s::text, 0 FROM kvqueue.kvqueue_schema AS s) AS all_of_it
"""
_EMPTY: Final = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend';
DO $$ DECLARE one text; BEGIN
    FOR one IN SELECT format('kvqueue.%I', tablename) FROM pg_tables
                WHERE schemaname = 'kvqueue' AND tablename <> 'kvqueue_schema' LOOP
        EXECUTE 'DELETE FROM ' || one;
    END LOOP;
    FOR one IN SELECT format('TABLE public.%I', tablename) FROM pg_tables
                WHERE schemaname = 'public'
               UNION ALL
               SELECT format('SCHEMA %I', nspname) FROM pg_namespace
                WHERE nspname !~ '^pg_'
                  AND nspname NOT IN ('public', 'information_schema', 'kvqueue') LOOP
        EXECUTE 'DROP ' || one || ' CASCADE';
    END LOOP;
    PERFORM setval(seqrelid::regclass, seqstart, false) FROM pg_sequence;
END $$
"""


@contextmanager
def fresh_database(url: str) -> Iterator[str]:
    """The URL of a new database, dropped afterwards whoever is still connected to it.

    Args:
        url: of any database of the server, as a user who may create some.
    """
    name = f"kvqueue_{secrets.token_hex(6)}"
    execute(url, f'CREATE DATABASE "{name}"')
    try:
        yield at_database(url, name)
    finally:
        execute(url, f'DROP DATABASE "{name}" WITH (FORCE)')


class Databases:
    """Databases with the queue's tables, used again where these are as they were but for rows.

    To make and to drop one costs the server fifty milliseconds and more, most of them in the
    kernel, for its three hundred files; to drop what a test has put beside the tables, ten.

    Args:
        url: as `fresh_database` takes it.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[tuple[ExitStack, str, str]] = []

    @contextmanager
    def lent(self) -> Iterator[str]:
        """The URL of one with empty tables, for one hand."""
        drop, url, structure = self._idle.pop() if self._idle else self._make()
        try:
            yield url
            if _on_thread(_is_as_before(url, structure)):
                self._idle.append((drop.pop_all(), url, structure))
        finally:
            drop.close()

    def close(self) -> None:
        """Drop all that nobody uses."""
        while self._idle:
            self._idle.pop()[0].close()

    def _make(self) -> tuple[ExitStack, str, str]:
        with ExitStack() as drop:
            url = drop.enter_context(fresh_database(self._url))
            return drop.pop_all(), url, _on_thread(_opened(url))


def execute(url: str, *statements: str) -> None:
    """Run statements, one after another."""
    _on_thread(_execute(url, statements))


def at_database(url: str, name: str) -> str:
    """The same server's URL with another database."""
    address, _, query = url.partition("?")
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/{name}" + (f"?{query}" if query else "")


def _on_thread(work: Coroutine[Any, Any, R]) -> R:
    # because the caller may be inside an event loop
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Any]:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def _execute(url: str, statements: Sequence[str]) -> None:
    async with _connected(url) as connection:
        for statement in statements:
            await connection.execute(statement)


async def _opened(url: str) -> str:
    """Have the queue make its tables. Returns what they look like."""
    async with Kv.open(url):
        pass
    async with _connected(url) as connection:
        return str(await connection.fetchval(_STRUCTURE))


async def _is_as_before(url: str, structure: str) -> bool:
    """Empty it. Returns whether it is as it was when it was made."""
    import asyncpg

    async with _connected(url) as connection:
        try:
            await connection.execute(_EMPTY)
            found, size_bytes = await connection.fetchrow(_STRUCTURE)
        except asyncpg.PostgresError:  # such as that a table is no more
            return False
    return bool(found == structure and size_bytes < GROWN_BYTES)
