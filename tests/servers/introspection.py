"""What asyncpg asks of each new connection, asked once for a whole run.

Before its first array it looks up the types of arrays, also of those that are the same on every
server: six milliseconds of the server's for each kind, and tests make thousands of connections.
"""

from collections.abc import Iterable
from typing import Any, Final

from asyncpg.connection import Connection

FIRST_OF_USERS: Final = 16_384
"""Types with a lower number come with PostgreSQL."""


def remember_built_in_types() -> None:
    """Have asyncpg remember, for the rest of this process, what it looked up once."""
    look_up, known = Connection._introspect_types, {}

    async def introspect(self: Any, typeoids: Iterable[int], *patience: Any) -> Any:
        wanted = frozenset(typeoids)
        if wanted in known:
            return known[wanted]
        found, statement = await look_up(self, typeoids, *patience)
        # A nameless statement has overwritten another one, which asyncpg must see each time.
        if statement.name and max(wanted) < FIRST_OF_USERS:
            known[wanted] = found, statement
        return found, statement

    Connection._introspect_types = introspect
