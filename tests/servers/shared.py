"""One PostgreSQL for a whole run of the tests, started by the first that asks.

As a program, `python -m tests.servers.shared PID`, it starts the server in a process of its own,
prints its URL, and ends it when the process with that number has ended.
"""

import fcntl
import os
import select
import subprocess
import sys
import time
from pathlib import Path

from tests.servers.postgres import postgres_server

POSTGRES_URL = "KVQUEUE_TEST_POSTGRES_URL"
"""A superuser's URL; each test makes a database of its own there, and drops it."""

ROOT = Path(__file__).parents[2]
LOOK_S = 0.2

SETTINGS = {
    # what is lost with the machine is lost with the run
    "synchronous_commit": "off",
    # of several pytest workers, with several processes for each test, with a pool for each
    "max_connections": 300,
}


def shared_postgres(directory: Path, run: int) -> str:
    """The URL of a superuser on the run's server.

    Args:
        directory: that all workers of the run share.
        run: the process that ends last: that of pytest, not of one of its workers.
    """
    if url := os.environ.get(POSTGRES_URL):
        return url
    with (directory / "postgres.url").open("a+") as answer:
        fcntl.flock(answer, fcntl.LOCK_EX)
        answer.seek(0)
        if url := answer.read():
            return url
        url = _start(run)
        answer.write(url)
        return url


def _start(run: int) -> str:
    started = subprocess.run(
        [sys.executable, "-m", "tests.servers.shared", str(run)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if started.returncode:
        raise RuntimeError(f"The tests have no PostgreSQL: {started.stderr}")
    return started.stdout


def main(run: int) -> None:
    heard, said = os.pipe()
    if os.fork():
        os.close(said)
        with os.fdopen(heard) as answer:
            url = answer.read()
        print(url, end="")
        sys.exit(not url)
    os.setsid()
    with postgres_server(fsync=False, settings=SETTINGS) as server:
        _let_go_of_output()
        os.write(said, server.url.encode())
        os.close(said)
        _wait_for_end(run)
        server.stop("immediate")


def _let_go_of_output() -> None:
    """Or who started this would wait for its end."""
    with open(os.devnull, "w") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)


def _wait_for_end(process: int) -> None:
    try:
        watched = os.pidfd_open(process)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):
        _look_until_ended(process)  # not on Linux, or in a sandbox without it
        return
    select.select([watched], [], [])


def _look_until_ended(process: int) -> None:
    while True:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(LOOK_S)


if __name__ == "__main__":
    main(int(sys.argv[1]))
