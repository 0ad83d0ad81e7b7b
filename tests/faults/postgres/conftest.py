"""A server of each test's own, machines on it, and a disk that it fits on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.postgres.stage import Stage
from tests.faults.small_disk import SmallDisk, can_mount, mounted
from tests.servers.postgres import PostgresServer

DISK_MB = 96

StartServer = Callable[..., PostgresServer]


@pytest.fixture
def start_stage(tmp_path: Path, start_postgres: StartServer) -> Iterator[Callable[..., Stage]]:
    """Starts a server, for machines that end with the test."""
    stages: list[Stage] = []

    def start(within: Path | None = None, **settings: object) -> Stage:
        stages.append(Stage(tmp_path, start_postgres(within, fsync=False, settings=settings)))
        return stages[-1]

    yield start
    for stage in stages:
        stage.end()


@pytest.fixture
def stage(start_stage: Callable[..., Stage]) -> Stage:
    return start_stage()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk | None]:
    if not can_mount():
        yield None  # the test runs elsewhere, see the conftest above
        return
    path = tmp_path / "small disk"
    path.mkdir()
    with mounted(path, DISK_MB) as disk:
        yield disk
