"""Gunicorn is started with the example's configuration."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "examples" / "deploy" / "gunicorn.conf.py"


class Gunicorn:
    """A server of two worker processes on a socket in a folder."""

    def __init__(self, folder: Path) -> None:
        self.database, self.ledger = folder / "queue.db", folder / "ledger"
        self.ledger.touch()
        counters = folder / "counters"
        counters.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", str(CONFIGURATION), "tests.deploy.shop:app"],
            cwd=ROOT,
            env={
                **os.environ,
                "BIND": f"unix:{folder}/socket",
                "LEDGER": str(self.ledger),
                "KVQUEUE_URL": str(self.database),
                "PROMETHEUS_MULTIPROC_DIR": str(counters),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        self._socket = folder / "socket"

    def request(self, method: str, path: str) -> httpx2.Response:
        # a connection each, so that both worker processes have some of them
        transport = httpx2.HTTPTransport(uds=str(self._socket))
        with httpx2.Client(transport=transport, base_url="http://shop", timeout=30) as client:
            return client.request(method, path, headers={"connection": "close"})

    def is_up(self) -> bool:
        assert self._process.poll() is None, self._process.communicate()[1]
        # whoever connects from then on is answered when the first worker process is there
        return self._socket.exists() and self.request("GET", "/health").status_code == 200

    def lines(self, what: str) -> list[str]:
        return [line for line in self.ledger.read_text().splitlines() if line.endswith(what)]

    def terminate(self) -> tuple[int, str]:
        """Send SIGTERM and wait. Returns the exit code, and what it has logged."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        _, logged = self._process.communicate(timeout=40)
        return self._process.returncode, logged


def until(condition: Callable[[], object], timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s"
        time.sleep(0.02)


@pytest.fixture
def gunicorn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gunicorn]:
    for name in list(os.environ):
        if name.startswith("KVQUEUE_"):
            monkeypatch.delenv(name)
    started = Gunicorn(tmp_path)
    try:
        until(started.is_up)
        yield started
    finally:
        started.terminate()


def test_sigterm_lets_handlers_end_and_leaves_nothing_behind(gunicorn: Gunicorn) -> None:
    gunicorn.request("POST", "/parcels/1.5")
    until(lambda: gunicorn.lines("begun"))

    code, logged = gunicorn.terminate()

    assert code == 0, logged
    assert [line.split()[1] for line in gunicorn.ledger.read_text().splitlines()] == [
        "answered",
        "begun",
        "ended",
    ]
    assert "SIGKILL" not in logged
    with closing(sqlite3.connect(gunicorn.database)) as database, database:
        assert database.execute("SELECT count(*) FROM kvqueue_messages").fetchone() == (0,)


def test_metrics_are_those_of_all_processes_whichever_answers(gunicorn: Gunicorn) -> None:
    sent = 0
    while len({line.split()[0] for line in gunicorn.lines("answered")}) < 2:
        assert sent < 200, "one process has all connections"
        assert gunicorn.request("POST", "/parcels/0").status_code == 200
        sent += 1
    until(lambda: len(gunicorn.lines("ended")) == sent)

    answers = [gunicorn.request("GET", "/metrics").text for _ in range(4)]

    for answer in answers:
        samples = [
            sample for family in text_string_to_metric_families(answer) for sample in family.samples
        ]
        values = {sample.name: sample.value for sample in samples}
        assert values["kvqueue_messages_sent_total"] == sent
        assert values["kvqueue_listeners"] == 2
