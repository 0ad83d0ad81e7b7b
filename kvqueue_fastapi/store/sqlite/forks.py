"""Which files are open: a child that is forked meanwhile must not open them again.

SQLite notes in memory which locks its process has. A forked child inherits the note, but not
the locks: it would write without them, and its parent would delete the log under it, with all
that the child has committed.
"""

import os
from pathlib import Path
from typing import Final

from kvqueue_fastapi.errors import StoreError

_open: Final[list["OpenFile"]] = []


class OpenFile:
    """A file that this process has open, or is about to open.

    Attributes:
        pid: the process that opened it; a child inherits the record.
        file: by one name, because others may have opened it through a link.

    Raises:
        StoreError: this process was forked from one that had it open.
    """

    def __init__(self, path: str) -> None:
        self.pid = os.getpid()
        self.file = Path(path).resolve()
        if any(one.file == self.file and one.pid != self.pid for one in tuple(_open)):
            msg = (
                f"{path} was open when this process was forked, and SQLite's locks do not cross "
                "a fork: what is written here could be lost. Open it after the fork only, or "
                'make the process by multiprocessing\'s "spawn" or "forkserver".'
            )
            raise StoreError(msg)
        _open.append(self)

    def close(self) -> None:
        """Note that it is closed; fine to call twice."""
        if self in _open:
            _open.remove(self)
