"""What can be seen of a store before it is opened."""

import shlex
from collections.abc import Iterator
from typing import Final

from kvqueue_fastapi.cli.symptoms.findings import Finding, Severity, problem, warning
from kvqueue_fastapi.store.surveys import StoreSurvey

LONG_WAL_BYTES: Final = 64 * 1024 * 1024
"""Beyond it, SQLite itself cuts the log when it can."""
WRONG_CLOCK_S: Final = 5.0
OLDEST_POSTGRES: Final = 13
_MIB: Final = 1024 * 1024


def of_survey(survey: StoreSurvey) -> Iterator[Finding]:
    """What is wrong with its place, its rights, its schema, its clock."""
    yield Finding(Severity.NOTE, f"{survey.where} is on {survey.engine} {survey.version}.")
    yield from _of_schema(survey)
    for right in survey.lacking:
        yield problem(
            f"This user lacks the right {right}.",
            "Give it, as the README says; or run this as the user of the app.",
        )
    if survey.is_there and survey.is_open_to_others:
        yield warning(
            f"Every user of this machine may read {survey.where} or write to it.",
            f"Run chmod o= {shlex.join(_files(survey.where))}.",
        )
    if survey.wal_bytes > LONG_WAL_BYTES:
        yield warning(
            f"The write-ahead log {survey.where}-wal has {survey.wal_bytes // _MIB} MiB.",
            "Look for a program that keeps a transaction on the file open, such as a backup or "
            "a sqlite3 shell: the log is cut when that ends.",
        )
    if abs(survey.clock_ahead_s) > WRONG_CLOCK_S:
        ahead = "ahead of" if survey.clock_ahead_s > 0 else "behind"
        yield warning(
            f"The clock of the server is {abs(survey.clock_ahead_s):.0f} s {ahead} that of this "
            "machine.",
            "Have both set their clocks by NTP: the server's says when messages are due.",
        )


def _files(where: str) -> list[str]:
    return [where, f"{where}-wal", f"{where}-shm"]


def _of_schema(survey: StoreSurvey) -> Iterator[Finding]:
    if not survey.is_place_there:
        yield problem(
            f"There is no store at {survey.where}, and no directory to hold one.",
            "Name another by --url or KVQUEUE_URL, or make the directory.",
        )
    elif not survey.is_there:
        yield problem(
            f"There is no store at {survey.where}.",
            "Name another by --url or KVQUEUE_URL; an app makes one when it starts.",
        )
    elif survey.schema < survey.known_schema:
        yield problem(
            f"The store has schema {survey.schema}, this version needs {survey.known_schema}.",
            "Run kvqueue migrate.",
        )
    elif survey.schema > survey.known_schema:
        yield warning(
            f"The store has schema {survey.schema}, this version knows {survey.known_schema}.",
            "Upgrade kvqueue_fastapi here to that of the newest app.",
        )
    if survey.engine == "PostgreSQL" and _major(survey.version) < OLDEST_POSTGRES:
        yield problem(
            f"PostgreSQL is {survey.version}, {OLDEST_POSTGRES} or newer is needed.",
            "Upgrade the server.",
        )


def _major(version: str) -> int:
    digits = version.partition(".")[0].split()[0]
    return int(digits) if digits.isdigit() else OLDEST_POSTGRES
