"""The manifests and the image fit the program: its signals, its times, its store."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kvqueue_fastapi import KvQueueSettings

FOLDER = Path(__file__).parents[2] / "examples" / "deploy"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()


def read(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / "kubernetes" / name).read_text()))


def of_kind(kind: str, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in documents if one["kind"] == kind]


SQLITE, POSTGRES = read("sqlite.yml"), read("postgres.yml")
DEPLOYMENTS = of_kind("Deployment", SQLITE) + of_kind("Deployment", POSTGRES)


def pod(deployment: dict[str, Any]) -> dict[str, Any]:
    return dict(deployment["spec"]["template"]["spec"])


def settings(deployment: dict[str, Any]) -> dict[str, str]:
    (container,) = pod(deployment)["containers"]
    return {
        one["name"].removeprefix("KVQUEUE_").lower(): one.get("value", "postgresql://shop@db/shop")
        for one in container["env"]
        if one["name"].startswith("KVQUEUE_")
    }


def has_http(container: dict[str, Any]) -> bool:
    return any(port["name"] == "http" for port in container.get("ports", ()))


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["metadata"]["name"])
def test_a_pod_has_longer_to_end_than_its_handlers_and_requests(deployment: dict[str, Any]) -> None:
    (container,) = pod(deployment)["containers"]
    chosen = KvQueueSettings.model_validate(settings(deployment))
    before_s = 5 if "lifecycle" in container else 0
    requests_s = 10 if has_http(container) else 0

    handlers_s = chosen.shutdown_timeout_s if chosen.listen else 0

    grace_s = pod(deployment)["terminationGracePeriodSeconds"]
    assert grace_s >= before_s + requests_s + handlers_s + 5


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["metadata"]["name"])
def test_a_deployment_selects_its_own_pods(deployment: dict[str, Any]) -> None:
    labels = deployment["spec"]["template"]["metadata"]["labels"]

    assert deployment["spec"]["selector"]["matchLabels"] == labels


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["metadata"]["name"])
def test_probes_ask_the_route_that_answers_them(deployment: dict[str, Any]) -> None:
    (container,) = pod(deployment)["containers"]
    probes = [container[name] for name in container if name.endswith("Probe")]

    assert len(probes) == (3 if has_http(container) else 0)
    for probe in probes:
        assert probe["httpGet"] == {"path": "/health", "port": "http"}


def test_on_sqlite_there_is_one_pod_at_a_time_with_a_volume_of_its_own() -> None:
    (deployment,) = of_kind("Deployment", SQLITE)
    (claim,) = of_kind("PersistentVolumeClaim", SQLITE)
    (container,) = pod(deployment)["containers"]

    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    volume = next(one for one in pod(deployment)["volumes"] if "persistentVolumeClaim" in one)
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    mount = next(one for one in container["volumeMounts"] if one["name"] == volume["name"])
    assert Path(settings(deployment)["url"]).parent == Path(mount["mountPath"])


def test_on_postgres_the_web_sends_and_workers_handle() -> None:
    web, worker = of_kind("Deployment", POSTGRES)

    assert settings(web)["listen"] == "false"
    assert "listen" not in settings(worker)
    assert pod(worker)["containers"][0]["command"][1:4] == ["-m", "kvqueue_fastapi", "worker"]
    assert min(one["spec"]["replicas"] for one in (web, worker)) > 1


def test_what_is_counted_can_be_asked_for_where_messages_are_handled() -> None:
    for deployment in of_kind("Deployment", POSTGRES):
        (container,) = pod(deployment)["containers"]
        (port,) = container["ports"]
        notes = deployment["spec"]["template"]["metadata"]["annotations"]

        assert notes["prometheus.io/scrape"] == "true"
        assert notes["prometheus.io/port"] == str(port["containerPort"])
    variables = {one["name"]: one.get("value") for one in container["env"]}
    assert variables["METRICS_PORT"] == notes["prometheus.io/port"]


def test_the_worker_of_the_image_is_not_asked_for_its_health() -> None:
    (worker,) = re.findall(r"^# docker run (.* worker shop:app)$", DOCKERFILE, re.MULTILINE)

    assert "--no-healthcheck" in worker


def test_a_drained_node_takes_one_pod_at_a_time() -> None:
    selected = [one["spec"]["selector"] for one in of_kind("PodDisruptionBudget", POSTGRES)]

    assert selected == [one["spec"]["selector"] for one in of_kind("Deployment", POSTGRES)]


def test_services_lead_to_the_pods_with_http() -> None:
    for documents in (SQLITE, POSTGRES):
        (service,) = of_kind("Service", documents)
        web = of_kind("Deployment", documents)[0]

        assert service["spec"]["selector"] == web["spec"]["selector"]["matchLabels"]


def test_the_image_hands_signals_to_the_app_itself_and_is_no_root() -> None:
    (command,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    (user,) = re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)
    (folder,) = re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.MULTILINE)
    (url,) = re.findall(r"KVQUEUE_URL=(\S+)", DOCKERFILE)

    assert json.loads(command)[:2] == ["uvicorn", "shop:app"]
    assert int(user) == pod(of_kind("Deployment", SQLITE)[0])["securityContext"]["runAsUser"]
    assert Path(url).parent == Path(folder)
    assert "/health" in DOCKERFILE
