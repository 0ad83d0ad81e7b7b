"""What the faults of storage need of the machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.small_disk import SmallDisk, can_mount, mounted, run_where_mounting_is_allowed


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
