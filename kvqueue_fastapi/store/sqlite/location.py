"""Where the database lies: a path from a URL, and whether locks work there."""

import errno
import os
import re
import socket
import stat
from pathlib import Path
from typing import Any, Final

from kvqueue_fastapi.errors import InvalidOptionError, StoreError, shown
from kvqueue_fastapi.urls import has_password, shown_url

MEMORY: Final = ":memory:"
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]+:/|postgres(ql)?(\+\w+)?:", re.IGNORECASE)
_POSTGRES: Final = re.compile(r"postgres(ql)?(\+\w+)?:", re.IGNORECASE)
_MOUNTS: Final = Path("/proc/self/mountinfo")
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_NETWORK: Final = re.compile(
    r"nfs4?|cifs|smb3?|smbfs|9p|afs|ceph|glusterfs|lustre|gpfs|beegfs|ocfs2|"
    r"fuse\.(sshfs|glusterfs|ceph.*|s3fs|rclone|gcsfuse|davfs.*)|davfs"
)


def path_of(url: str) -> str:
    """The path that a URL means.

    Args:
        url: a path, `sqlite:///relative`, `sqlite:////absolute` or `:memory:`.

    Raises:
        InvalidOptionError: it is empty, begins with ":" without being `:memory:`, or is a URL of
            something else, of which no password is shown.
    """
    given: Any = url
    if not isinstance(given, str):
        msg = f"The URL is {shown(given)}, allowed is a str. Write str(path)."
        raise InvalidOptionError(msg)
    path = url.removeprefix("sqlite:///")
    if path == MEMORY:
        return path
    if not path:
        msg = "Filename cannot be empty. Give a path, or ':memory:' for a queue without a file."
        raise InvalidOptionError(msg)
    if path.startswith(":"):
        msg = (
            f"Filename cannot start with ':' unless prefixed with './': {shown_url(path)!r}. "
            f"Write './{shown_url(path)}', or ':memory:' for a queue without a file."
        )
        raise InvalidOptionError(msg)
    is_foreign = path == url and _is_no_file(path)
    if "\0" in path or "://" in path or _SCHEME.match(path) or is_foreign:
        remedy = (
            "Write postgresql://user@host/database: in small letters, with two slashes, without "
            "a driver such as +asyncpg."
            if _POSTGRES.match(path)
            else "Give one of them; a path of any kind is taken behind ./ or sqlite:///."
            if is_foreign
            else "Give one of them."
        )
        msg = (
            f"{shown_url(url)!r} is neither a path nor sqlite:///relative nor "
            "sqlite:////absolute nor postgresql://user@host/database, which are what can be "
            f"opened. {remedy}"
        )
        raise InvalidOptionError(msg)
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        msg = f"{shown(shown_url(url))} is no file name: {error}. Leave out lone surrogates."
        raise InvalidOptionError(msg) from error
    return str(Path(path).absolute())


def refuse_network(path: str) -> None:
    """Refuse a file system on which SQLite's locks do not hold.

    Raises:
        StoreError: naming the file system.
    """
    # The database may be a link: SQLite's locks are where it leads.
    kind = _file_system(Path(path).resolve().parent)
    if kind is not None and _NETWORK.fullmatch(kind):
        msg = (
            f"{path} lies on a network file system ({kind}), where SQLite's locks do not hold. "
            "Put it on a local disk."
        )
        raise StoreError(msg)


def refuse_no_file(path: str) -> None:
    """Refuse what is there already and can hold no database.

    Raises:
        StoreError: it is a directory, or no file of any kind.
    """
    try:
        mode = Path(path).stat().st_mode
    except OSError:  # it is not there, or SQLite says what is wrong
        return
    if stat.S_ISDIR(mode):
        msg = f"{path} is a directory. Give the path of a file in it, such as {path}/kvqueue.db."
        raise StoreError(msg)
    if not stat.S_ISREG(mode):
        msg = f"{path} is no file, but a pipe, a socket or a device. Give the path of a file."
        raise StoreError(msg)


def _is_no_file(path: str) -> bool:
    """Whether it looks like a URL that somebody has written wrongly."""
    # One that is there was made before, under whatever name.
    return has_password(path) and not path.startswith("./") and not os.path.lexists(path)


class SameFile:
    """Notices that a path leads no longer to the file that was opened.

    SQLite goes on with the open file, which nobody else can find any more: what is written
    there is lost when the process ends.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._is_file = path != MEMORY
        self._opened: tuple[int, int] | None = None

    @property
    def is_there(self) -> bool:
        """Whether `require` would find it."""
        try:
            self.require()
        except StoreError:
            return False
        return True

    def require(self) -> None:
        """Remember the file when first called, and compare it from then on.

        Raises:
            StoreError: another file has its place, or none.
        """
        if not self._is_file:
            return
        try:
            status = os.stat(self._path)  # noqa: PTH116 because it precedes every batch
        except (FileNotFoundError, NotADirectoryError):
            found = None
        except OSError as error:
            if error.errno != errno.ELOOP:  # no right to look any more says nothing of the file
                return
            found = None
        else:
            found = status.st_dev, status.st_ino
            self._opened = self._opened or found
        if found != self._opened:
            how = "replaced" if found else "removed"
            msg = (
                f"{self._path} was {how} while it was open: nobody would find what is written "
                f"to the old file. Put that back; or stop all that use it, remove "
                f"{self._path}-wal and {self._path}-shm, which belong to the old one, and start "
                "again."
            )
            raise StoreError(msg)


def boot_id() -> str:
    """What names this run of this machine: a listener of another one is dead."""
    try:
        return _BOOT.read_text("ascii").strip()
    except OSError:  # not Linux: the lock file alone tells
        return socket.gethostname()


def _file_system(resolved: Path) -> str | None:
    try:
        mounts = _MOUNTS.read_text("utf-8", "replace").splitlines()
    except OSError:  # not Linux
        return None
    best, kind = -1, None
    for line in mounts:
        before, _, after = line.partition(" - ")
        mount = Path(_OCTAL.sub(lambda code: chr(int(code[1], 8)), before.split()[4]))
        if resolved.is_relative_to(mount) and len(mount.parts) >= best:
            best, kind = len(mount.parts), after.split()[0]
    return kind
