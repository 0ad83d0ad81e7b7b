"""The floor of the key-value store: raw `sqlite3`, the same rows and durability, one thread."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from sqlite3 import Connection

from kvqueue_fastapi.keys import encode_key
from tests.benchmarks.floor import PAYLOAD, SEND, connect, sent
from tests.benchmarks.rows import SYNCED, Figures, Measure, Row

KEYS = [encode_key(("users", n)) for n in range(10_000)]
VALUE = PAYLOAD.encode()
SET = """
INSERT INTO kvqueue_kv (key, value, encoding, version) VALUES (?, ?, 1, ?)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version
"""
GET = "SELECT value, encoding, version FROM kvqueue_kv WHERE key = ?"


def set_rate(path: Path, count: int, rows_a_commit: int) -> float:
    """Keys a second, set with so many a commit."""

    def work(connection: Connection) -> None:
        for start in range(0, count, rows_a_commit):
            connection.execute("BEGIN IMMEDIATE")
            rows = [(key_of(n), VALUE, n) for n in range(start, start + rows_a_commit)]
            connection.executemany(SET, rows)
            connection.execute("COMMIT")

    return _rate(path, count, work)


def get_rate(path: Path, count: int) -> float:
    """Keys a second, read one by one."""

    def work(connection: Connection) -> None:
        for n in range(count):
            connection.execute(GET, (key_of(n),)).fetchone()

    return _rate(path, count, work, filled=True)


def atomic_rate(path: Path, count: int, rows_a_commit: int) -> float:
    """Check, set and send, so many a commit."""

    def work(connection: Connection) -> None:
        for start in range(0, count, rows_a_commit):
            connection.execute("BEGIN IMMEDIATE")
            for n in range(start, start + rows_a_commit):
                connection.execute(GET, (key_of(n),)).fetchone()
                connection.execute(SET, (key_of(n), VALUE, n))
                connection.execute(SEND, sent())
            connection.execute("COMMIT")

    return _rate(path, count, work, filled=True)


def list_rate(path: Path, count: int) -> float:
    """Keys a second, walked through in order."""
    connection = connect(path)
    fill(connection, count)
    began = time.perf_counter()
    for _ in connection.execute(
        "SELECT key, value, encoding, version FROM kvqueue_kv ORDER BY key"
    ):
        pass
    took = time.perf_counter() - began
    connection.close()
    return count / took


def key_of(n: int) -> bytes:
    return KEYS[n % len(KEYS)]


def fill(connection: Connection, count: int) -> None:
    """Put so many keys there, without the package's help."""
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(SET, [(encode_key(("users", n)), VALUE, 1) for n in range(count)])
    connection.execute("COMMIT")


def _rate(
    path: Path, count: int, work: Callable[[Connection], None], *, filled: bool = False
) -> float:
    connection = connect(path)
    if filled:
        fill(connection, len(KEYS))
    began = time.perf_counter()
    work(connection)
    took = time.perf_counter() - began
    connection.close()
    return count / took


def per_s(rate: Callable[[Path, int], float], count: int) -> Measure:
    """A row's measure of a rate that takes a database and a count."""
    return partial(_measure, rate=rate, count=count)


def _measure(
    directory: Path, divisor: int, *, rate: Callable[[Path, int], float], count: int
) -> Figures:
    return {"per_s": rate(directory / "kv.db", count // divisor)}


MANY, FEW, LISTED = 40_000, 4_000, 100_000
ROWS = [
    Row("KV", name, "floor", SYNCED, per_s(rate, count))
    for name, rate, count in (
        ("set, 100 keys a commit", partial(set_rate, rows_a_commit=100), MANY),
        ("set, 1 key a commit", partial(set_rate, rows_a_commit=1), FEW),
        ("get, one by one", get_rate, MANY),
        ("check + set + send, 100 a commit", partial(atomic_rate, rows_a_commit=100), MANY),
        ("check + set + send, 1 a commit", partial(atomic_rate, rows_a_commit=1), FEW),
        ("list, 100,000 keys", list_rate, LISTED),
    )
]
