"""The dashboard and the alerts of the examples ask for what there is."""

import json
import re
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import yaml
from fastapi import FastAPI
from fastapi.testclient import TestClient
from injector import Injector
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from kvqueue_fastapi import KvQueueDep
from kvqueue_fastapi.keeper import State
from kvqueue_fastapi.telemetry.prometheus import PrometheusMiddleware, metrics_router
from kvqueue_fastapi.testing import drain
from tests.telemetry.shop import module

EXAMPLES = Path(__file__).parents[2] / "examples"
DASHBOARD = json.loads((EXAMPLES / "grafana" / "dashboard.json").read_text())
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((EXAMPLES / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
ASKED = [
    *(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]),
    *(variable.get("definition", "") for variable in DASHBOARD["templating"]["list"]),
    *(rule["expr"] for rule in RULES),
]


@pytest.fixture
def exposed(url: str) -> dict[str, set[str]]:
    """The labels of each metric, once something was sent, failed and died."""
    metrics = PrometheusMiddleware(CollectorRegistry())
    app = FastAPI()
    shop = module(url, metrics)
    shop.install(app, Injector([shop]))
    app.include_router(metrics_router(metrics))

    @app.post("/orders")
    async def order(queue: KvQueueDep) -> None:
        await queue.send_messages([("order.created", 1), ("order.failing", 1)])

    with TestClient(app) as client:
        client.post("/orders")
        drain(client)
        text = client.get("/metrics").text
    # a lease that is lost is not made here: its counter is known by its name alone
    names = {name: {"type"} for name in re.findall(r"^# TYPE (\S+) counter", text, re.MULTILINE)}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
    return names


def test_every_metric_that_is_asked_for_is_exposed(exposed: dict[str, set[str]]) -> None:
    asked = {name for text in ASKED for name in re.findall(r"kvqueue_[a-z_]+", text)}

    assert asked - set(exposed) == set()
    assert len(asked) > 12


def test_every_label_that_is_asked_for_is_there(exposed: dict[str, set[str]]) -> None:
    # what Prometheus itself adds
    scraped = {"job"}

    for text in ASKED:
        for name, selectors in re.findall(r"(kvqueue_[a-z_]+)\{([^}]*)\}", text):
            labels = set(re.findall(r"(\w+)(?:=~|!=|=)", selectors))
            assert labels - scraped <= exposed[name], text


def test_states_that_are_asked_for_are_states() -> None:
    asked = {
        state
        for text in ASKED
        for states in re.findall(r'state=~?"([^"]*)"', text)
        for state in states.split("|")
    }

    assert asked <= set(State)
    assert len(asked) >= 6


def test_panels_have_a_title_a_reason_and_a_place_of_their_own() -> None:
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }

        assert panel["title"]
        assert panel["description"]
        assert place["x"] + place["w"] <= 24
        assert not cells & places
        places |= cells


def test_alerts_say_what_and_for_whom() -> None:
    names = [rule["alert"] for rule in RULES]

    assert {"KvQueueStuck", "KvQueueDeadLetters", "KvQueueNoListener"} <= set(names)
    assert len(set(names)) == len(names)
    for rule in RULES:
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    told = ", ".join(f'{label}="{value}"' for label, value in {"job": "shop", **labels}.items())
    return {"series": f"{name}{{{told}}}", "values": values}


LISTENERS = series("kvqueue_listeners", "2x40")
DEATHS = "kvqueue_dead_letters_total"


@pytest.mark.skipif(which("promtool") is None, reason="promtool judges the rules")
@pytest.mark.parametrize(
    ("alert", "given", "count"),
    [
        ("KvQueueDeadLetters", [series(DEATHS, "_x15 3x30", type="a", instance="new")], 1),
        ("KvQueueDeadLetters", [series(DEATHS, "3x40", type="a", instance="old")], 0),
        (
            "KvQueueDeadLetters",
            [series(DEATHS, "0x15 1x30", type="a", instance=one) for one in "xyz"],
            1,
        ),
        (
            "KvQueueDeadLetters",
            [
                series("kvqueue_messages", "0x15 1x30", type="a", state="dead", instance=one)
                for one in "xyz"
            ],
            1,
        ),
        ("KvQueueLeasesLost", [series("kvqueue_leases_lost_total", "_x15 1x30", type="a")], 1),
        ("KvQueueNoListener", [], 1),
        ("KvQueueNoListener", [LISTENERS], 0),
        ("KvQueueNotCounted", [series("kvqueue_snapshot_age_seconds", " ".join(["Inf"] * 25))], 1),
    ],
)
def test_alert_fires_once_for_all_processes_and_for_what_has_just_begun(
    tmp_path: Path, alert: str, given: list[dict[str, str]], count: int
) -> None:
    rules = EXAMPLES / "prometheus" / "alerts.yml"
    (expr,) = [rule["expr"] for rule in RULES if rule["alert"] == alert]
    case = {
        "interval": "1m",
        "input_series": given,
        "promql_expr_test": [
            {
                "expr": f"count({expr}) or vector(0)",
                "eval_time": "20m",
                "exp_samples": [{"labels": "{}", "value": count}],
            }
        ],
    }
    cases = tmp_path / "cases.yml"
    cases.write_text(yaml.safe_dump({"rule_files": [str(rules)], "tests": [case]}))

    judged = subprocess.run(
        ["promtool", "test", "rules", str(cases)], capture_output=True, text=True, check=False
    )

    assert judged.returncode == 0, judged.stdout + judged.stderr
