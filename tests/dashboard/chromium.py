"""The Chromium that the tests of the dashboard drive: found, or installed as Debian has it."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

CHROMIUM: Final = "KVQUEUE_TEST_CHROMIUM"
"""Where one is that is not on the PATH."""

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
FLAGS: Final = (
    "--headless",
    "--no-sandbox",  # root has none, and in a container nobody
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
INSTALL: Final = (
    "apt-get update && apt-get install --yes --no-install-recommends chromium fonts-dejavu-core"
)


def chromium() -> str:
    """The path of a Chromium."""
    if found := _found():
        return found
    # several workers of one run may lack it at the same time
    with (Path(tempfile.gettempdir()) / "kvqueue-test-chromium.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if found := _found():
            return found
        said = _install()
        if found := _found():
            return found
    raise RuntimeError(
        "The tests of the dashboard need Chromium, and it could not be installed. Install the "
        f"package chromium, or name the program in {CHROMIUM}.\n{said}"
    )


def _found() -> str | None:
    named = os.environ.get(CHROMIUM)
    if named and not Path(named).is_file():
        raise RuntimeError(f"{CHROMIUM} is {named!r}, where no program is.")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


def _install() -> str:
    if shutil.which("apt-get") is None:
        return "There is no apt-get."
    command = ["sh", "-c", INSTALL]
    if os.geteuid():
        command = ["sudo", "-n", *command]
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            check=False,
        )
    except FileNotFoundError as error:
        return str(error)
    return ended.stdout[-2_000:] + ended.stderr[-2_000:]
