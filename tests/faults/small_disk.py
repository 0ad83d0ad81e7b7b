"""A disk of a few megabytes, mounted for one test, which can be filled to the last page."""

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PAGE_BYTES = 4_096
_INSIDE = "SMALL_DISK_INSIDE"
_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
_REMEDY = """This test mounts a small tmpfs, which this user may not do here. Run the tests as root,
or allow namespaces of users: sysctl kernel.unprivileged_userns_clone=1, and where AppArmor is in
use kernel.apparmor_restrict_unprivileged_userns=0."""


class SmallDisk:
    """A file system of its own.

    Attributes:
        path: where it is mounted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self, leave_bytes: int = 0) -> None:
        """Take all room but so much, in whole pages."""
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * PAGE_BYTES)
        os.truncate(self._filler, self._filler.stat().st_size - leave_bytes)

    def free(self) -> None:
        """Give all room back."""
        self._filler.unlink()


@contextlib.contextmanager
def mounted(path: Path, megabytes: int = 2) -> Iterator[SmallDisk]:
    """Mount one at a directory; a PostgreSQL takes at least 48 megabytes."""
    _mount(path, megabytes)
    try:
        yield SmallDisk(path)
    finally:
        # Lazily, because a test that failed may have left something open.
        subprocess.run(["umount", "--lazy", path], check=True)


@functools.cache
def can_mount() -> bool:
    """Whether this process may mount."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            _mount(Path(directory))
        except (OSError, subprocess.CalledProcessError):
            return False
        subprocess.run(["umount", directory], check=True)
    return True


def run_where_mounting_is_allowed(nodeid: str, root: Path) -> None:
    """Run one test in a namespace in which its user may mount."""
    assert _INSIDE not in os.environ, _REMEDY
    command = [*_NAMESPACE, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", nodeid]
    environment = {**os.environ, _INSIDE: "1"}
    ended = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, f"{_REMEDY}\n{ended.stdout}\n{ended.stderr}"


def _mount(path: Path, megabytes: int = 2) -> None:
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", path]
    subprocess.run(command, check=True, capture_output=True)
