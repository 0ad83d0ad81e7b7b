"""What a backup is, whatever its engine."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StoreBackup:
    """What a backup holds, as it was read there.

    Attributes:
        path: of its file, absolute.
        size_bytes: of that.
        messages: that wait; those that were in hand wait again.
        dead_letters: what was given up.
        keys: of the key-value store, expired ones among them.
    """

    path: Path
    size_bytes: int
    messages: int
    dead_letters: int
    keys: int


@dataclass(frozen=True, slots=True)
class BackupProgress:
    """How far a backup is.

    Attributes:
        pages: of the database that are copied.
        total: that it has.
    """

    pages: int
    total: int


Progress = Callable[[BackupProgress], None]
