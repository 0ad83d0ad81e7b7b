import os
from collections.abc import Iterator

import pytest

from tests.dashboard.shop import Keeper, keeping


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("KVQUEUE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    with keeping() as keeper:
        yield keeper
