"""What a store is found to be from outside, before anything opens or changes it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSurvey:
    """One look at a store.

    Attributes:
        where: its path, or its URL without the password.
        engine: "SQLite" or "PostgreSQL".
        version: of the engine: SQLite's in this process, PostgreSQL's on the server.
        is_there: whether there is a store; a database may be there and hold none.
        schema: the number of the last schema file that it has seen; 0 where none is.
        known_schema: that of the last one that this code knows.
        lacking: rights that this user does not have, in words.
        clock_ahead_s: how far the engine's clock is ahead of this process's; SQLite has no other.
        is_open_to_others: whether every user of the machine may read the file or write to it.
        is_place_there: whether there is the directory that the file would lie in.
        wal_bytes: what is in the write-ahead log of the file beside it.
        most_connections: what the server takes.
    """

    where: str
    engine: str
    version: str
    is_there: bool
    schema: int
    known_schema: int
    lacking: tuple[str, ...] = ()
    clock_ahead_s: float = 0.0
    is_open_to_others: bool = False
    is_place_there: bool = True
    wal_bytes: int = 0
    most_connections: int | None = None
