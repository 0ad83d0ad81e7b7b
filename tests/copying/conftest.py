"""Pairs of stores to copy from and to, of every two engines."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kvqueue_fastapi.store import comparison
from tests.copying.filled import fill
from tests.copying.pairs import DIRECTIONS, SETTINGS, Pair, Side
from tests.store.given import (
    ManualClock,
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def make_side(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str, str], Side]:
    """Names a store of an engine, which need not be there."""

    def make(engine: str, name: str) -> Side:
        if engine == "sqlite":
            return Side(str(tmp_path / f"{name}.db"), SETTINGS)
        url = request.getfixturevalue("postgres_url")
        return Side(url, SETTINGS.model_copy(update={"postgres_schema": name}))

    return make


@pytest.fixture(params=DIRECTIONS)
def pair(request: pytest.FixtureRequest, make_side: Callable[[str, str], Side]) -> Pair:
    """Of each two engines, the source empty, the target not made yet."""
    source, target = request.param.split("-")
    return Pair(make_side(source, "source"), make_side(target, "target"))


@pytest.fixture
def files(make_side: Callable[[str, str], Side]) -> Pair:
    return Pair(make_side("sqlite", "source"), make_side("sqlite", "target"))


@pytest.fixture
def to_postgres(make_side: Callable[[str, str], Side]) -> Pair:
    return Pair(make_side("sqlite", "source"), make_side("postgres", "target"))


@pytest.fixture
async def filled(pair: Pair, clock: ManualClock) -> Pair:
    async with pair.source.opened(clock) as store:
        await fill(store, clock)
    return pair


@pytest.fixture
async def filled_files(files: Pair, clock: ManualClock) -> Pair:
    async with files.source.opened(clock) as store:
        await fill(store, clock)
    return files


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvqueue_fastapi.copying.SLICE_ROWS", 3)
    monkeypatch.setattr(comparison, "SLICE_ROWS", 4)
    monkeypatch.setattr(comparison, "_CHECKPOINT_ROWS", 2)
