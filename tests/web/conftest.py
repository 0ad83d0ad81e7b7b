"""What the tests beside the web share: a file for the store, and nothing from the environment."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.web.serving import House


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("KVQUEUE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "queue.db")


@pytest.fixture
def house(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    # asked for by name, so that the other engine's tests start no server
    url = request.getfixturevalue("postgres_url") if engine == "postgres" else None
    house = House(tmp_path, url)
    yield house
    house.end()


@pytest.fixture
def shared_database(house: House) -> str:
    return house.url
