"""Damage to a database's files, as a bad disk does it."""

import sqlite3
from contextlib import closing
from pathlib import Path

PAGE_BYTES = 4_096


def root_page(database: Path, name: str) -> int:
    """Where a table or an index begins; all of it where it is small."""
    with closing(sqlite3.connect(database)) as connection:
        question = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        return int(connection.execute(question, (name,)).fetchone()[0])


def flip(file: Path, start: int, length: int) -> None:
    """Turn bits over; the same again puts them right."""
    with file.open("r+b") as stream:
        stream.seek(start)
        bad = bytes(byte ^ 0xA5 for byte in stream.read(length))
        stream.seek(start)
        stream.write(bad)


def flip_text(file: Path, text: bytes, length: int) -> None:
    """The beginning of a text that is there once."""
    flip(file, file.read_bytes().index(text), length)


def flip_page(database: Path, number: int) -> None:
    flip(database, (number - 1) * PAGE_BYTES, PAGE_BYTES)


def flip_under_a_running_app(database: Path, number: int) -> None:
    """So that its connections see it: nothing in the log, and their caches out of date."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=10)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (text)")
        while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() != (0, 0, 0):
            pass
        flip_page(database, number)
        connection.execute("INSERT INTO notes VALUES ('')")
