"""What the tests of the command share: a directory of its own, and the command in this process."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvqueue_fastapi.cli import main
from tests.cli.bench import Bench, Ran

SHOP = (Path(__file__).parent / "shop.py").read_text()


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the command runs: an app `shop` is there, no setting, and no store."""
    (tmp_path / "cli_shop.py").write_text(SHOP)
    for name in [name for name in os.environ if name.startswith("KVQUEUE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("cli_shop", None)


@pytest.fixture
def kvqueue(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ran]:
    """Runs the command here, as `kvqueue ARGUMENTS` would in a process of its own."""

    def run(*arguments: object, stdin: str = "") -> Ran:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = main([str(one) for one in arguments])
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def url(engine: str, request: pytest.FixtureRequest, directory: Path) -> str:
    # asked for by name, so that the other engine's tests start no server
    if engine == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return str(directory / "orders.db")


@pytest.fixture
def bench(url: str, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A store that is there, in the environment as KVQUEUE_URL."""
    monkeypatch.setenv("KVQUEUE_URL", url)
    bench = Bench(url)
    bench.send()
    return bench
