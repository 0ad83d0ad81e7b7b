"""Real processes and servers for each test, and what faults of storage need of the machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.small_disk import SmallDisk, can_mount, mounted, run_where_mounting_is_allowed
from tests.processes.fleet import Fleet
from tests.web.serving import House


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.end()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.end()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk | None]:
    if not can_mount():
        yield None  # the test runs elsewhere, see below
        return
    path = tmp_path / "small disk"
    path.mkdir()
    with mounted(path) as disk:
        yield disk


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that mounts something where its user may do so."""
    if "small_disk" not in pyfuncitem.fixturenames or can_mount():
        return None
    run_where_mounting_is_allowed(pyfuncitem.nodeid, pyfuncitem.config.rootpath)
    return True
