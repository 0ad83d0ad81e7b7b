"""Numbered schema files, in order.

Migrations are additive, so that old and new processes run side by side during a deploy. Each
file states in its first line the oldest code that may use the database after it, as the
number of the last schema file which that code knew.
"""

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from kvqueue_fastapi.errors import SchemaTooNewError, StoreError

OLDEST_COPYABLE: Final = 1
"""The oldest schema that has all columns that a copy reads."""
_NAME: Final = re.compile(r"(\d{3})_(\w+)\.sql")
_OLDEST_CODE: Final = re.compile(r"-- oldest code: (\d+)")


@dataclass(frozen=True, slots=True)
class Migration:
    """One schema file.

    Attributes:
        oldest_code: code that knows fewer files than this is refused afterwards.
    """

    number: int
    name: str
    oldest_code: int
    sql: str


def load_migrations(package: str) -> tuple[Migration, ...]:
    """Read the schema files of an engine's package, in order."""
    found: list[Migration] = []
    for entry in files(package).joinpath("schema").iterdir():
        named = _NAME.fullmatch(entry.name)
        if named is not None:
            found.append(_parse(int(named[1]), named[2], entry.read_text("utf-8")))
    return tuple(sorted(found, key=lambda migration: migration.number))


def pending(migrations: tuple[Migration, ...], applied: int, oldest_code: int) -> list[Migration]:
    """Those that the database has not seen.

    Args:
        migrations: what this code knows.
        applied: the number of the last file that the database has seen; 0 for none.
        oldest_code: what the database asks of code.

    Raises:
        SchemaTooNewError: the database asks for newer code.
    """
    this_code = migrations[-1].number
    if oldest_code > this_code:
        raise SchemaTooNewError(oldest_code, this_code)
    return [migration for migration in migrations if migration.number > applied]


def require_copyable(
    migrations: tuple[Migration, ...], applied: int, oldest_code: int, url: str
) -> None:
    """Refuse to copy a database of which this code does not know all, or that lacks something.

    Raises:
        SchemaTooNewError: the database asks for newer code.
        StoreError: newer or older code has made it.
    """
    if not pending(migrations, applied, oldest_code) and applied > migrations[-1].number:
        msg = (
            f"{url} has schema {applied}, this code knows {migrations[-1].number}, and would leave "
            "behind what came with the newer one. Upgrade kvqueue_fastapi in this process."
        )
        raise StoreError(msg)
    if applied < OLDEST_COPYABLE:
        msg = (
            f"{url} has schema {applied}, copied can be one from {OLDEST_COPYABLE} on. Start an "
            "app on it with this version once, which brings it up to date; then copy."
        )
        raise StoreError(msg)


def _parse(number: int, name: str, sql: str) -> Migration:
    stated = _OLDEST_CODE.match(sql)
    if stated is None:
        msg = f"{number:03}_{name}.sql does not begin with '-- oldest code: N'."
        raise ValueError(msg)
    return Migration(number, name, int(stated[1]), sql)
