import math
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient
from injector import Injector
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from kvqueue_fastapi import Delivery, Kv, KvQueueDep
from kvqueue_fastapi.errors import InvalidOptionError
from kvqueue_fastapi.telemetry.prometheus import PrometheusMiddleware, metrics_router
from tests.telemetry.shop import TRIES, module, running


@pytest.fixture
def metrics() -> PrometheusMiddleware:
    return PrometheusMiddleware(CollectorRegistry())


def value(metrics: PrometheusMiddleware, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def served(url: str, metrics: PrometheusMiddleware, **options: Any) -> FastAPI:
    app = FastAPI()
    shop = module(url, metrics)
    shop.install(app, Injector([shop]))
    app.include_router(metrics_router(metrics, **options))

    @app.post("/orders/{kind}")
    async def order(kind: str, queue: KvQueueDep) -> int:
        return await queue.send_message(kind, 1)

    return app


def scraped(client: TestClient) -> dict[tuple[str, ...], float]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_each_ending_of_a_delivery_is_counted_by_type(
    url: str, metrics: PrometheusMiddleware
) -> None:
    async with running(url, metrics) as queue:
        for kind in ("created", "failing", "flaky", "wrong", "early"):
            await queue.send_message(f"order.{kind}", 1)

        await queue.run_until_idle()

    ended = {
        (sample.labels["type"], sample.labels["outcome"]): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "kvqueue_deliveries_total"
    }
    assert ended == {
        ("order.created", "done"): 1,
        ("order.failing", "retry"): TRIES - 1,
        ("order.failing", "dead"): 1,
        ("order.flaky", "retry"): 1,
        ("order.flaky", "done"): 1,
        ("order.wrong", "dead"): 1,
        ("order.early", "later"): 1,
    }
    assert value(metrics, "kvqueue_messages_sent_total", type="order.failing") == 1
    assert value(metrics, "kvqueue_dead_letters_total", type="order.failing") == 1
    assert value(metrics, "kvqueue_dead_letters_total", type="order.created") == 0


async def test_waiting_and_handling_are_measured_where_a_handler_began(
    url: str, metrics: PrometheusMiddleware
) -> None:
    async with running(url, metrics) as queue, Kv.open(url) as stranger:
        await queue.send_message("order.created", 1)
        await stranger.enqueue({"type": "order.created", "data": "no number"})

        await queue.run_until_idle()

    for name in ("kvqueue_message_wait_seconds", "kvqueue_message_handling_seconds"):
        assert value(metrics, f"{name}_count", type="order.created") == 1
        assert 0 <= value(metrics, f"{name}_sum", type="order.created") < 60
    assert value(metrics, "kvqueue_dead_letters_total", type="order.created") == 1


async def test_what_was_not_stored_is_not_counted_as_sent(
    url: str, metrics: PrometheusMiddleware
) -> None:
    shop = module(url, metrics)
    injector = Injector([shop])
    async with shop.running(injector) as queue:
        kv = injector.get(Kv)
        await kv.set(("order", 1), "there")
        failing = kv.atomic().check(("order", 1), None)
        refused = await failing.enqueue({"type": "order.created", "data": 1}).commit()
        with pytest.raises(ValueError, match="idempotency"):
            await queue.send_message("order.created", 1, idempotency_key="")

        await queue.send_messages([("order.created", 1), ("order.created", 2)])

    assert not refused.ok
    assert value(metrics, "kvqueue_messages_sent_total", type="order.created") == 2


async def test_types_beyond_the_limit_are_taken_together_and_handled_ones_are_not(
    url: str,
) -> None:
    metrics = PrometheusMiddleware(CollectorRegistry(), max_types=2)
    async with running(url, metrics) as queue:
        for number in range(50):
            await queue.send_message(f"generated.{number}", number)
        await queue.send_message("order.created", 1)
        await queue.run_until_idle()
        await queue.send_message("order.created", 2)

    sent = {
        sample.labels["type"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "kvqueue_messages_sent_total"
    }
    assert sent == {"generated.0": 1, "generated.1": 1, "other": 49, "order.created": 1}


def test_a_scrape_shows_what_waits(url: str, metrics: PrometheusMiddleware) -> None:
    with TestClient(served(url, metrics)) as client:
        client.post("/orders/order.created")
        client.post("/orders/order.nobody")

        seen = scraped(client)

    assert seen["kvqueue_messages", "order.created", "ready"] == 1
    assert seen["kvqueue_messages", "dead", "order.nobody"] == 0
    assert seen["kvqueue_messages_sent_total", "order.nobody"] == 1
    assert seen["kvqueue_type_handled", "order.nobody"] == 0
    assert seen["kvqueue_type_paused", "order.created"] == 0
    assert 0 <= seen["kvqueue_oldest_message_age_seconds", "order.created"] < 60
    assert seen["kvqueue_listeners",] == 0
    assert seen["kvqueue_oldest_due_seconds",] == 0, "nobody listens, so none could be handled"
    assert 0 <= seen["kvqueue_snapshot_age_seconds",] < 60


def test_the_queue_is_counted_once_for_scrapes_that_follow_each_other(
    url: str, metrics: PrometheusMiddleware
) -> None:
    with TestClient(served(url, metrics)) as client:
        client.post("/orders/order.created")
        first = scraped(client)
        client.post("/orders/order.created")

        second = scraped(client)

    assert first["kvqueue_messages", "order.created", "ready"] == 1
    assert second["kvqueue_messages", "order.created", "ready"] == 1, "from 15 s ago at most"
    assert second["kvqueue_messages_sent_total", "order.created"] == 2, "of this moment"


def test_openmetrics_is_answered_to_who_asks_for_it(
    url: str, metrics: PrometheusMiddleware
) -> None:
    with TestClient(served(url, metrics)) as client:
        accept = {"accept": "application/openmetrics-text; version=1.0.0"}

        answer = client.get("/metrics", headers=accept)

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_a_dependency_keeps_strangers_from_the_metrics(
    url: str, metrics: PrometheusMiddleware
) -> None:
    def refuse() -> None:
        raise HTTPException(403)

    with TestClient(served(url, metrics, dependencies=[Depends(refuse)])) as client:
        answer = client.get("/metrics")

    assert answer.status_code == 403


def test_a_second_middleware_for_a_registry_is_refused(metrics: PrometheusMiddleware) -> None:
    with pytest.raises(InvalidOptionError, match="Make one PrometheusMiddleware"):
        PrometheusMiddleware(metrics.registry)


def test_fewer_than_no_types_are_refused() -> None:
    with pytest.raises(InvalidOptionError, match="max_types is -1, allowed is 0 or more"):
        PrometheusMiddleware(CollectorRegistry(), max_types=-1)


def test_a_lease_that_was_lost_is_counted_apart(metrics: PrometheusMiddleware) -> None:
    metrics.settled(Delivery(1, "order.created", 1, "lost", None, 0.5, 40.0))

    assert value(metrics, "kvqueue_leases_lost_total", type="order.created") == 1
    assert value(metrics, "kvqueue_deliveries_total", type="order.created", outcome="lost") == 1


def test_what_cannot_be_counted_keeps_nobody_from_the_counters(
    url: str, metrics: PrometheusMiddleware, caplog: pytest.LogCaptureFixture
) -> None:
    with TestClient(served(url, metrics)) as client:
        client.post("/orders/order.created")
        with closing(sqlite3.connect(url)) as stranger:
            stranger.execute("ALTER TABLE kvqueue_listeners RENAME TO gone")

            seen = scraped(client)

    assert seen["kvqueue_messages_sent_total", "order.created"] == 1
    assert ("kvqueue_messages", "order.created", "ready") not in seen
    assert ("kvqueue_listeners",) not in seen
    assert seen["kvqueue_snapshot_age_seconds",] == math.inf
    assert "could not be counted" in caplog.text


def test_what_has_not_happened_yet_is_counted_from_zero(metrics: PrometheusMiddleware) -> None:
    metrics.settled(Delivery(1, "order.created", 1, "done", None, 0.5, 40.0))

    for name in ("kvqueue_dead_letters_total", "kvqueue_leases_lost_total"):
        assert metrics.registry.get_sample_value(name, {"type": "order.created"}) == 0


VANISHING = """
import asyncio, shutil, sys
from injector import Injector
from kvqueue_fastapi import KvQueueModule, on_queue_message
from kvqueue_fastapi.telemetry.prometheus import PrometheusMiddleware

@on_queue_message("n")
async def handle() -> None:
    print("handled")

async def main():
    hooks = [PrometheusMiddleware()]
    module = KvQueueModule(sys.argv[1], consumers=[handle], middleware=hooks, listen=False)
    async with module.running(Injector([module])) as queue:
        shutil.rmtree(sys.argv[2])
        print(await queue.send_message("n"), await queue.send_message("n"))
        await queue.run_until_idle()

asyncio.run(main())
"""


def test_a_directory_of_counters_that_is_gone_fails_neither_send_nor_handler(
    tmp_path: Path,
) -> None:
    counters = tmp_path / "counters"
    counters.mkdir()
    command = [sys.executable, "-c", VANISHING, str(tmp_path / "q.db"), str(counters)]
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(counters)}

    ran = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split("\n") == ["1 2", "handled", "handled", ""]
    assert ran.stderr.count("PrometheusMiddleware failed") == 1


def test_a_directory_of_counters_that_is_not_there_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "gone"))

    with pytest.raises(InvalidOptionError, match=r"DIR is '.*gone', which is no directory"):
        PrometheusMiddleware(CollectorRegistry())
