import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient

from kvqueue_fastapi import (
    InvalidOptionError,
    KvQueueClosedError,
    KvQueueModule,
    health_router,
    on_queue_message,
)
from kvqueue_fastapi.health import HealthCheck
from tests.contract.harness import Seen, running, until


@on_queue_message("n")
async def handle() -> None: ...


async def test_listening_queue_is_well(tmp_path: Path) -> None:
    async with running(tmp_path, handle) as bench:
        health = await bench.queue.health(max_age_s=0)

    assert (health.ok, health.store, health.listening) == (True, True, True)
    assert (health.oldest_age_s, health.problems) == (None, ())


async def test_process_that_only_sends_has_no_listener_to_be_well(tmp_path: Path) -> None:
    async with running(tmp_path, handle, listen=False) as bench:
        assert (await bench.queue.health()).listening is None


async def test_oldest_age_counts_what_somebody_listens_to_and_may_claim(tmp_path: Path) -> None:
    go_on, seen = asyncio.Event(), Seen()

    @on_queue_message("slow", concurrency=1)
    async def slow() -> None:
        seen.add("slow")
        await go_on.wait()

    async with running(tmp_path, slow) as bench:
        await bench.queue.send_message("nobody's")
        await bench.queue.send_message("slow", delay=60)
        idle = await bench.queue.health(max_age_s=0)
        await bench.queue.send_messages([("slow", n) for n in range(3)])
        await seen.reach(1)
        await bench.queue.send_message("slow", priority=-1)
        await asyncio.sleep(0.01)
        busy = await bench.queue.health(max_age_s=0)
        await bench.admin.pause("slow")
        paused = await bench.queue.health(max_age_s=0)
        go_on.set()

    assert (idle.oldest_age_s, idle.ok) == (None, True)
    assert busy.oldest_age_s is not None
    assert busy.oldest_age_s >= 0.01
    assert (busy.ok, busy.store) == (False, True)
    assert "has been due for" in busy.problems[0]
    assert paused.ok


async def test_listener_that_has_ended_is_a_problem(tmp_path: Path) -> None:
    async with running(tmp_path, handle, listen=False) as bench:
        handle_ = bench.queue._handle
        check = HealthCheck(handle_.store, handle_.admin, lambda: False)
        health = await check.run(None)

    assert (health.ok, health.listening) == (False, False)
    assert health.problems == ("the listener of this process has ended",)


async def test_store_that_refuses_writes_or_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    async with running(tmp_path, handle, listen=False) as bench:
        bench.queue._handle.store._patience.outages.has_failed()
        refusing = await bench.queue.health()
        bench.queue._handle.store._patience.outages.has_written()
        with closing(sqlite3.connect(tmp_path / "q.db")) as foreign, foreign:
            foreign.execute("ALTER TABLE kvqueue_listeners RENAME TO gone")
        unreadable = await bench.queue.health()
        with closing(sqlite3.connect(tmp_path / "q.db")) as foreign, foreign:
            foreign.execute("ALTER TABLE gone RENAME TO kvqueue_listeners")
        well = await bench.queue.health()

    assert (refusing.ok, refusing.store) == (False, False)
    assert refusing.problems == ("the store refuses what is written",)
    assert (unreadable.store, unreadable.oldest_age_s) == (False, None)
    assert unreadable.problems == ("the store cannot be reached (StoreError)",)
    assert well.ok


@pytest.mark.parametrize("limit", [-1, "soon", float("nan"), True])
async def test_limit_that_is_no_time_is_refused(tmp_path: Path, limit: Any) -> None:
    async with running(tmp_path, listen=False) as bench:
        with pytest.raises(InvalidOptionError, match="max_age_s is"):
            await bench.queue.health(max_age_s=limit)
    with pytest.raises(InvalidOptionError, match="max_age_s is"):
        health_router(max_age_s=limit)


async def test_listener_is_alive_from_its_start_on(tmp_path: Path) -> None:
    async with running(tmp_path, handle) as bench:

        async def is_well() -> bool:
            return (await bench.queue.health()).ok

        await until(is_well)
        queue = bench.queue

    with pytest.raises(KvQueueClosedError):
        await queue.health()


def app_with(tmp_path: Path, **options: Any) -> FastAPI:
    app = FastAPI()
    KvQueueModule(str(tmp_path / "q.db"), consumers=[handle]).install(app)
    app.include_router(health_router(**options), prefix="/internal")
    return app


def test_route_answers_200_while_all_is_well(tmp_path: Path) -> None:
    with TestClient(app_with(tmp_path, path="/ready")) as client:
        answer = client.get("/internal/ready")
        head = client.head("/internal/ready")
        schema = client.get("/openapi.json").json()

    assert (answer.status_code, head.status_code) == (200, 200)
    assert answer.json() == {
        "ok": True,
        "store": True,
        "listening": True,
        "oldest_age_s": None,
        "problems": [],
    }
    assert answer.headers["cache-control"] == "no-store"
    assert schema["paths"] == {}


def test_route_answers_503_before_the_start_and_behind_the_end(tmp_path: Path) -> None:
    app = app_with(tmp_path)
    early = TestClient(app).get("/internal/health")
    with TestClient(app):
        pass
    late = TestClient(app).get("/internal/health")

    assert (early.status_code, early.json()["problems"]) == (503, ["the queue has not started"])
    assert (late.status_code, late.json()["problems"]) == (503, ["the queue has stopped"])


def test_route_answers_503_with_what_is_wrong(tmp_path: Path) -> None:
    with TestClient(app_with(tmp_path)) as client:
        client.app.state.kvqueue.queue._handle._store._patience.outages.has_failed()  # type: ignore[attr-defined]
        answer = client.get("/internal/health")

    assert answer.status_code == 503
    assert answer.json()["problems"] == ["the store refuses what is written"]


def test_route_can_be_guarded(tmp_path: Path) -> None:
    def nobody() -> None:
        raise HTTPException(403)

    for guard in (nobody, Depends(nobody)):
        with TestClient(app_with(tmp_path, dependencies=[guard])) as client:
            assert client.get("/internal/health").status_code == 403


async def test_file_that_nobody_would_find_again_is_a_problem(tmp_path: Path) -> None:
    async with running(tmp_path, handle, listen=False) as bench:
        assert (await bench.queue.health()).ok
        (tmp_path / "q.db").rename(tmp_path / "old.db")
        away = await bench.queue.health()
        (tmp_path / "q.db").symlink_to("q.db")
        nowhere = await bench.queue.health()
        (tmp_path / "old.db").replace(tmp_path / "q.db")
        back = await bench.queue.health()

    assert (away.ok, away.store) == (False, False)
    assert away.problems == nowhere.problems == ("the store refuses what is written",)
    assert back.ok


async def test_lock_of_another_program_is_no_illness(tmp_path: Path) -> None:
    async with running(tmp_path, handle) as bench:
        await bench.queue.send_message("nobody's")
        with sqlite3.connect(tmp_path / "q.db", isolation_level=None) as foreign:
            foreign.execute("BEGIN EXCLUSIVE")
            locked = await bench.queue.health()
            foreign.execute("ROLLBACK")

    assert (locked.ok, locked.problems) == (True, ())


async def test_refusal_of_a_minute_ago_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, handle, listen=False) as bench:
        bench.queue._handle.store._patience.outages.has_failed()
        before = await bench.queue.health()
        monkeypatch.setattr("kvqueue_fastapi.store.outages.LATE_S", 0)

        assert (await bench.queue.health()).ok
    assert not before.ok
