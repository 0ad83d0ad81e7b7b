"""Empty databases on a PostgreSQL that is there."""

import asyncio
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def fresh_database(url: str) -> Iterator[str]:
    """The URL of a new database, dropped afterwards whoever is still connected to it.

    Args:
        url: of any database of the server, as a user who may create some.
    """
    name = f"kvqueue_{secrets.token_hex(6)}"
    _execute(url, f'CREATE DATABASE "{name}"')
    try:
        yield at_database(url, name)
    finally:
        _execute(url, f'DROP DATABASE "{name}" WITH (FORCE)')


def at_database(url: str, name: str) -> str:
    """The same server's URL with another database."""
    address, _, query = url.partition("?")
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/{name}" + (f"?{query}" if query else "")


def _execute(url: str, statement: str) -> None:
    # on a thread, because the caller may be inside an event loop
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, _executed(url, statement)).result()


async def _executed(url: str, statement: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
