"""Marks of life: a lock that the system frees when its process dies.

Each listener holds a lock on a file of its own beside the database. POSIX locks go with the
process, not with a descriptor that a forked child may have inherited, so a free lock means
death. They also go when the process closes any descriptor of the file, so a process never
opens the files of its own listeners again.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import Final

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_FLAGS: Final = os.O_RDWR | getattr(os, "O_CLOEXEC", 0)  # which Windows has not
_STOPPED: Final = b"stopped"
_own: Final[set[tuple[int, str]]] = set()
"""The lock files that this process holds, with its number: a forked child holds none of them."""


class Presence:
    """The lock of one listener, from its start to its end."""

    def __init__(self, database: str, listener_id: int) -> None:
        self._path = lock_path(database, listener_id)
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
        try:
            _open_to_those_of(database, self._descriptor)
            _lock(self._descriptor)
        except OSError:
            os.close(self._descriptor)
            _remove(self._path)
            raise
        self._has_stopped = False
        _own.add((os.getpid(), self._path))

    def stop(self) -> None:
        """Leave word that the listener's end is no crash, where the database cannot be told."""
        with contextlib.suppress(OSError):  # the disk may be full, too
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.write(self._descriptor, _STOPPED)
            self._has_stopped = True

    def end(self) -> None:
        """Let the lock go, and remove its file unless it has something to say."""
        if not self._has_stopped:
            _remove(self._path)
        os.close(self._descriptor)
        _own.discard((os.getpid(), self._path))


def is_dead(database: str, listener_id: int, pid: int) -> bool:
    """Whether the process of a listener has ended.

    Args:
        database: the path of its file.
        listener_id: whose lock to try.
        pid: the number of its process, for where somebody has removed the lock file.
    """
    path = lock_path(database, listener_id)
    if (os.getpid(), path) in _own:
        return False
    try:
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError:
        return not _runs(pid)
    except OSError:  # no right to look: its lease must tell
        return False
    try:
        _lock(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def has_stopped(database: str, listener_id: int) -> bool:
    """Whether a listener whose process has ended left word that this is no crash."""
    try:
        return Path(lock_path(database, listener_id)).read_bytes() == _STOPPED
    except OSError:  # it is gone, or not ours to read
        return False


def forget(database: str, listener_id: int) -> None:
    """Remove what a dead listener left."""
    _remove(lock_path(database, listener_id))


def lock_path(database: str, listener_id: int) -> str:
    """The lock file of a listener: beside the database, so that it is on the same machine."""
    return f"{database}-listener-{listener_id:016x}"


def _runs(pid: int) -> bool:
    if sys.platform == "win32":  # there, signal 0 is not a question
        return False
    if pid <= 0:  # to a signal, these are groups of processes
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # no process has a number so large
        return False
    except OSError:  # it runs, under another user
        return True
    return True


def _open_to_those_of(database: str, descriptor: int) -> None:
    """Let whoever may write to the database try the lock, as SQLite does with its -wal.

    Nobody else may: who could lock or write it could hide a death.
    """
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):  # then its owner alone may
        status = Path(database).stat()
        os.fchown(descriptor, status.st_uid if os.geteuid() == 0 else -1, status.st_gid)
        os.fchmod(descriptor, status.st_mode & 0o666)


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove(path: str) -> None:
    try:
        Path(path).unlink(missing_ok=True)
    except OSError:  # Windows keeps open files; an empty file harms nobody
        return
