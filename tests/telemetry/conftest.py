"""What the tests of telemetry share: a shop whose messages end in every way."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("KVQUEUE_", "PROMETHEUS_", "OTEL_")):
            monkeypatch.delenv(name)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "queue.db")
