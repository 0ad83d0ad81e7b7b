"""Presence: a process that dies is noticed at once, one that lives is never taken for dead."""

import multiprocessing
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from kvqueue_fastapi.keeper import State
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import AnyStore, open_store
from kvqueue_fastapi.store.sqlite import presence
from kvqueue_fastapi.store.sqlite.engine import SystemClock
from kvqueue_fastapi.store.sqlite.presence import lock_path
from tests.store.given import claim, mail, send, settle, shown
from tests.store.sqlite.holder import hold

TAKEOVER_S = 2


@pytest.fixture
def clock() -> SystemClock:
    """The one that the other processes read."""
    return SystemClock()


class Held:
    """Another process that listens, and what it holds."""

    def __init__(self, process: multiprocessing.process.BaseProcess, pipe: Connection) -> None:
        self._process, self._pipe = process, pipe
        assert pipe.poll(30)
        self.child, self.ids = pipe.recv()

    def send(self) -> list[int]:
        self._pipe.send(True)
        assert self._pipe.poll(5)
        sent: list[int] = self._pipe.recv()
        return sent

    def kill(self) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        if self.child:
            try:
                os.kill(self.child, signal.SIGKILL)
            except ProcessLookupError:
                return


@pytest.fixture
def listening(path: Path) -> Iterator[Callable[..., Held]]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.store.sqlite.opener", "tests.store.sqlite.holder"])
    started: list[Held] = []

    def start(fork: str = "") -> Held:
        ours, theirs = context.Pipe()
        process = context.Process(target=hold, args=(str(path), theirs, fork))
        process.start()
        started.append(Held(process, ours))
        return started[-1]

    yield start
    for one in started:
        one.end()


async def test_death_is_noticed_at_once(store: AnyStore, listening: Callable[..., Held]) -> None:
    ids = await send(store, mail(), mail())
    other = listening()
    before = store.end_leases_of_the_dead()

    other.kill()
    freed = _freed(store)

    assert (other.ids, before, freed) == (ids, 0, 2)
    assert [(await shown(store, number)).state for number in ids] == [State.READY] * 2
    assert [one.crashes for one in await claim(store)] == [1, 1]
    assert await store.admin.listeners() == []


async def test_death_is_noticed_while_a_forked_child_lives(
    store: AnyStore, listening: Callable[..., Held]
) -> None:
    await send(store, mail())
    other = listening(fork="lives")

    other.kill()

    assert _freed(store) == 1
    os.kill(other.child, 0)  # it does live


async def test_forked_child_that_ends_does_its_parent_no_harm(
    store: AnyStore, listening: Callable[..., Held]
) -> None:
    held = await send(store, mail())
    other = listening(fork="exits")

    later = other.send()

    assert store.end_leases_of_the_dead() == 0
    assert (await shown(store, held[0])).state is State.RUNNING
    assert [one.id for one in await claim(store)] == later


async def test_death_is_noticed_by_the_next_start(
    store: AnyStore, listening: Callable[..., Held], path: Path, settings: KvQueueSettings
) -> None:
    await send(store, mail())
    other = listening()
    await store.close()
    other.kill()

    again = await open_store(str(path), settings)

    assert _freed(again) == 1
    await again.close()


async def test_listener_whose_lock_file_somebody_removed_is_dead_only_with_its_process(
    store: AnyStore, path: Path, listening: Callable[..., Held]
) -> None:
    await send(store, mail())
    other = listening()
    (lock_file,) = path.parent.glob(f"{path.name}-listener-*")

    lock_file.unlink()
    while_it_lives = store.end_leases_of_the_dead()
    other.end()

    assert (while_it_lives, _freed(store)) == (0, 1)


async def test_dead_listener_leaves_no_file(
    store: AnyStore, listening: Callable[..., Held], tmp_path: Path
) -> None:
    other = listening()
    before = _lock_files(tmp_path)
    other.kill()

    deadline = time.monotonic() + TAKEOVER_S
    while await store.admin.listeners() and time.monotonic() < deadline:
        store.end_leases_of_the_dead()

    assert len(before) == 1
    assert _lock_files(tmp_path) == []


async def test_only_what_the_dead_held_is_freed(
    store: AnyStore, listening: Callable[..., Held]
) -> None:
    await send(store, mail())
    other = listening()
    await send(store, mail())
    listener = await store.enter_listener(["mail"])
    (ours,) = await claim(store, listener_id=listener)

    other.kill()

    assert _freed(store) == 1
    assert await settle(store, ours)


@pytest.mark.parametrize(
    "spelling", ["{path}", "{link}/queue.db", "{path.parent}/./../{path.parent.name}/queue.db"]
)
async def test_two_stores_of_one_process_do_not_think_each_other_dead(
    store: AnyStore, path: Path, settings: KvQueueSettings, spelling: str
) -> None:
    link = path.parent / "link"
    link.symlink_to(path.parent)
    second = await open_store(spelling.format(path=path, link=link), settings)
    await send(store, mail(), mail())
    for one in (store, second):
        await claim(one, limit=1, listener_id=await one.enter_listener(["mail"]))

    freed = [one.end_leases_of_the_dead() for one in (store, second) for _ in range(3)]

    assert freed == [0] * 6
    assert len(await store.admin.listeners()) == 2
    await second.close()


async def test_listener_of_another_boot_is_dead(
    store: AnyStore, path: Path, settings: KvQueueSettings
) -> None:
    await send(store, mail())
    await claim(store, listener_id=await store.enter_listener(["mail"]))
    after = await open_store(str(path), settings)
    after._listeners._boot = "another boot"

    assert after.end_leases_of_the_dead() == 1
    await after.close()


async def test_end_of_a_listener_that_had_stopped_in_good_order_is_no_crash(
    store: AnyStore, path: Path, settings: KvQueueSettings
) -> None:
    await send(store, mail())
    listener = await store.enter_listener(["mail"])
    await claim(store, listener_id=listener)
    store.retire_listener(listener)
    after = await open_store(str(path), settings)
    after._listeners._boot = "another boot"

    freed = after.end_leases_of_the_dead()
    (again,) = await claim(after)
    await after.close()

    assert (freed, again.attempt, again.crashes) == (1, 1, 0)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has none."""

    def refuse(_: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(presence, "_lock", refuse)


@pytest.mark.usefixtures("no_locks")
async def test_where_locks_do_not_work_only_leases_tell(
    store: AnyStore, path: Path, settings: KvQueueSettings
) -> None:
    await send(store, mail())
    (held,) = await claim(store, listener_id=await store.enter_listener(["mail"]))
    second = await open_store(str(path), settings)

    assert second.end_leases_of_the_dead() == 0
    assert _lock_files(path.parent) == []
    assert await settle(second, held)
    await second.close()


@pytest.mark.usefixtures("no_locks")
async def test_listener_without_locks_of_another_boot_is_dead(
    store: AnyStore, path: Path, settings: KvQueueSettings
) -> None:
    await send(store, mail())
    await claim(store, listener_id=await store.enter_listener(["mail"]))
    after = await open_store(str(path), settings)
    after._listeners._boot = "another boot"

    assert after.end_leases_of_the_dead() == 1
    await after.close()


async def test_listener_that_could_not_enter_leaves_no_lock(
    store: AnyStore, tmp_path: Path
) -> None:
    store._thread.call(lambda connection: connection.execute("DROP TABLE kvqueue_listeners"))

    with pytest.raises(Exception, match="no such table"):
        await store.enter_listener(["mail"])

    assert _lock_files(tmp_path) == []


async def test_lock_file_lies_beside_the_database(store: AnyStore, path: Path) -> None:
    listener = await store.enter_listener(["mail"])

    there = _lock_files(path.parent)
    store.leave_listener(listener)

    assert there == [lock_path(str(path), listener)]
    assert _lock_files(path.parent) == []


def _lock_files(directory: Path) -> list[str]:
    return list(map(str, directory.glob("*-listener-*")))


def _freed(store: AnyStore) -> int:
    """How many messages are freed within the time of a takeover."""
    deadline = time.monotonic() + TAKEOVER_S
    while time.monotonic() < deadline:
        if freed := store.end_leases_of_the_dead():
            return freed
    return 0


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o644])
async def test_whoever_may_write_to_the_database_may_try_the_lock(
    store: AnyStore, path: Path, mode: int
) -> None:
    os.chmod(path, mode)  # noqa: PTH101 because a Path would block an event loop, too
    if os.geteuid() == 0:
        os.chown(path, 65_534, 65_533)

    listener = await store.enter_listener(["mail"])

    assert rights_of(lock_path(str(path), listener)) == rights_of(path)
    assert rights_of(path)[0] == mode


async def test_lock_is_its_owners_alone_where_it_cannot_be_the_groups(
    store: AnyStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    os.chmod(path, 0o660)  # noqa: PTH101 because a Path would block an event loop, too
    monkeypatch.setattr(os, "fchown", refuse)

    listener = await store.enter_listener(["mail"])

    assert rights_of(lock_path(str(path), listener))[0] == 0o600


def rights_of(path: str | Path) -> tuple[int, int, int]:
    status = Path(path).stat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
