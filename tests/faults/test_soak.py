"""A process that lives for long takes no more at its end than at its beginning."""

from pathlib import Path

import pytest

from tests.faults.gauges import growth, needs_proc
from tests.faults.measured import measured

MILLION = 1_000_000
WARM_UP = 5
"""Samples, of some fifty."""

pytestmark = needs_proc


@pytest.mark.long
def test_a_million_messages_leave_a_process_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "q.db"

    soaked = measured("messages", path, MILLION)

    columns = zip(*soaked["samples"][WARM_UP:], strict=True)
    memory_kib, files, threads, tasks, _, database_bytes, wal_bytes = columns
    assert (soaked["once"], soaked["more"]) == (MILLION, 1)
    assert growth(memory_kib) < 3_000
    assert [{*files}, {*threads}] == [{files[0]}, {threads[0]}]
    assert max(tasks) < 110  # those of a hundred handlers among them
    assert max(wal_bytes) < 32 * 2**20
    assert max(database_bytes) < 8 * 2**20


def test_200_starts_that_use_everything_leave_a_process_as_it_was(tmp_path: Path) -> None:
    soaked = measured("features", tmp_path / "q.db", 200)

    columns = zip(*soaked["samples"][WARM_UP:], strict=True)
    memory_kib, files, threads, tasks, objects = columns
    assert growth(memory_kib) < 3_000
    assert max(objects) - min(objects) < 200
    assert [{*files}, {*threads}, {*tasks}] == [{files[0]}, {threads[0]}, {1}]
    used = {"plain", "fail_once", "reject", "put_off", "commit", "block", "bare"}
    assert used == {kind for kind, times in soaked["done"].items() if times >= 150}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.db"]
