"""Examples are programs: they run in a process and a directory of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

ROOT = Path(__file__).parents[2]

T = TypeVar("T")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("KVQUEUE_", "SHOP_")):
            monkeypatch.delenv(name)


@pytest.fixture
def run_example(tmp_path: Path) -> Callable[[str], list[str]]:
    def run(name: str) -> list[str]:
        """Run an example to its end. Returns the lines that it printed."""
        ended = subprocess.run(
            [sys.executable, str(ROOT / "examples" / f"{name}.py")],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert ended.stderr == ""
        assert list(tmp_path.iterdir()) == [], "an example leaves nothing behind"
        return ended.stdout.splitlines()

    return run


@pytest.fixture
def eventually() -> Callable[[Callable[[], T]], T]:
    def wait(condition: Callable[[], T], timeout_s: float = 20) -> T:
        end = time.monotonic() + timeout_s
        while not (answer := condition()):
            assert time.monotonic() < end, f"not within {timeout_s} s"
            time.sleep(0.02)
        return answer

    return wait
