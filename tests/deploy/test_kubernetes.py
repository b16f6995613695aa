"""The manifests for Kubernetes: the deployment guide's values one by one, and what makes pods come and go without harm."""

import re
import shutil
import subprocess
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from mainspring.dial import default_grpc_port, default_http_port, parse_addresses
from mainspring.limits import drain_ms_default
from mainspring.settings import CoordinatorSettings, WorkerSettings
from tests.deploy.schemas import kubernetes_errors, kubernetes_newest, kubernetes_oldest
from tests.deploy.test_alerts import metrics_in, promtool
from tests.project.test_metrics_page import exported

root = Path(__file__).parents[2]
folder = root / "deploy/kubernetes"
user = 10_001


def kustomization() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return loaded


@cache
def objects() -> dict[tuple[str, str], dict[str, Any]]:
    """All that is applied, by kind and name."""
    loaded = [each for name in kustomization()["resources"] for each in yaml.safe_load_all((folder / name).read_text())]
    found = {(each["kind"], each["metadata"]["name"]): each for each in loaded}
    assert len(found) == len(loaded)
    return found


def deployment(name: str) -> dict[str, Any]:
    return objects()["Deployment", name]


def pod(name: str) -> dict[str, Any]:
    found: dict[str, Any] = deployment(name)["spec"]["template"]["spec"]
    return found


def container(name: str) -> dict[str, Any]:
    (found,) = pod(name)["containers"]
    assert isinstance(found, dict)
    return found


def variables(name: str) -> dict[str, Any]:
    """A container's own variables: a value, or where it is taken from."""
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container(name)["env"]}


def shared() -> dict[str, str]:
    (settings,) = kustomization()["configMapGenerator"]
    return dict(literal.split("=", 1) for literal in settings["literals"])


def field(path: str) -> dict[str, Any]:
    return {"fieldRef": {"fieldPath": path}}


def test_the_coordinators_are_those_of_the_guide() -> None:
    coordinators = deployment("workflow-engine")
    assert coordinators["metadata"]["labels"]["app"] == "workflow-engine"
    assert coordinators["spec"]["replicas"] == 3
    assert coordinators["spec"]["selector"] == {"matchLabels": {"app": "workflow-engine"}}
    assert coordinators["spec"]["template"]["metadata"]["labels"]["app"] == "workflow-engine"
    one = container("workflow-engine")
    assert one["image"] == "workflow-engine:latest"
    environment = variables("workflow-engine")
    assert environment["DATABASE_URL"] == {"secretKeyRef": {"name": "workflow-secrets", "key": "database-url"}}
    assert environment["DISTRIBUTED_MODE"] == "true"
    assert environment["ASSIGNMENT_STRATEGY"] == "load-balanced"
    assert environment["HOSTNAME"] == environment["ENGINE_INSTANCE_ID"] == field("metadata.name")
    assert one["resources"] == {
        "requests": {"cpu": "1000m", "memory": "2Gi"},
        "limits": {"cpu": "2000m", "memory": "4Gi"},
    }
    assert [port["containerPort"] for port in one["ports"]] == [3000, default_grpc_port]
    live, ready = one["livenessProbe"], one["readinessProbe"]
    assert live["httpGet"] == {"path": "/health", "port": 3000}
    assert (live["initialDelaySeconds"], live["periodSeconds"]) == (30, 10)
    assert ready["httpGet"] == {"path": "/ready", "port": 3000}
    assert (ready["initialDelaySeconds"], ready["periodSeconds"]) == (5, 5)


def test_the_services_are_those_of_the_guide() -> None:
    public = objects()["Service", "workflow-engine-service"]["spec"]
    assert public["type"] == "LoadBalancer"
    assert public["selector"] == {"app": "workflow-engine"}
    ports = {port["name"]: (port["protocol"], port["port"], port["targetPort"]) for port in public["ports"]}
    assert ports == {"http": ("TCP", 80, 3000), "grpc": ("TCP", default_grpc_port, default_grpc_port)}
    headless = objects()["Service", "workflow-engine-headless"]["spec"]
    assert (headless["clusterIP"], headless["selector"]) == ("None", {"app": "workflow-engine"})
    (address,) = parse_addresses(variables("workflow-worker")["MAINSPRING_ADDRESS"])
    assert address == f"workflow-engine-headless:{default_grpc_port}"
    assert default_grpc_port in [port["port"] for port in headless["ports"]]


def test_a_coordinator_is_reached_by_the_address_of_its_pod_and_a_worker_tells_its_node() -> None:
    assert variables("workflow-engine")["ADVERTISE_HOST"] == field("status.podIP")
    assert variables("workflow-worker")["HOSTNAME"] == field("spec.nodeName")
    assert variables("workflow-worker")["ENGINE_INSTANCE_ID"] == field("metadata.name")


@pytest.mark.parametrize("name", ["workflow-engine", "workflow-worker"])
def test_the_settings_are_taken_by_the_program_that_gets_them(name: str) -> None:
    samples = {"metadata.name": "pod-7f9", "status.podIP": "10.1.2.3", "spec.nodeName": "node-1"}
    environment = shared() | {
        key: value
        if isinstance(value, str)
        else samples[value["fieldRef"]["fieldPath"]]
        if "fieldRef" in value
        else "mysql://user:password@db:3306/workflow_db"
        for key, value in variables(name).items()
    }
    kind = CoordinatorSettings if name == "workflow-engine" else WorkerSettings
    assert kind.load([], environment).engine_instance_id == "pod-7f9"
    known = set(re.findall(r"^\| `([A-Z_]+)` \|", (root / "docs/settings.md").read_text(), re.MULTILINE))
    assert environment.keys() - known == set()
    assert container(name)["envFrom"] == [{"configMapRef": {"name": kustomization()["configMapGenerator"][0]["name"]}}]


def test_the_schema_is_upgraded_before_a_coordinator_starts() -> None:
    (migrate,) = pod("workflow-engine")["initContainers"]
    assert migrate["args"] == ["db", "upgrade"]
    assert migrate["image"] == container("workflow-engine")["image"]
    assert migrate["env"] == [one for one in container("workflow-engine")["env"] if one["name"] == "DATABASE_URL"]


@pytest.mark.parametrize("name", ["workflow-engine", "workflow-worker"])
def test_pods_have_no_rights_that_they_do_not_need(name: str) -> None:
    spec = pod(name)
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == user
    assert f"--uid {user} " in (root / "deploy/Dockerfile").read_text()
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for each in [*spec.get("initContainers", []), *spec["containers"]]:
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} == each["resources"]["limits"].keys() == each["resources"]["requests"].keys()
    assert {"name": "tmp", "mountPath": "/tmp"} in container(name)["volumeMounts"]


def test_a_worker_has_the_time_to_drain_and_a_coordinator_to_give_its_shards_up() -> None:
    assert pod("workflow-worker")["terminationGracePeriodSeconds"] > drain_ms_default / 1_000
    assert pod("workflow-engine")["terminationGracePeriodSeconds"] >= 30


@pytest.mark.parametrize("name", ["workflow-engine", "workflow-worker"])
def test_pods_are_spread_and_few_go_at_once(name: str) -> None:
    labels = deployment(name)["spec"]["selector"]["matchLabels"]
    spread = pod(name)["topologySpreadConstraints"]
    assert "kubernetes.io/hostname" in [one["topologyKey"] for one in spread]
    assert [one["labelSelector"]["matchLabels"] for one in spread] == [labels] * len(spread)
    budget = objects()["PodDisruptionBudget", name]["spec"]
    assert budget["selector"]["matchLabels"] == labels
    assert budget["maxUnavailable"]
    assert deployment(name)["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert objects()["NetworkPolicy", name]["spec"]["podSelector"]["matchLabels"] == labels


def test_the_workers_are_as_many_as_the_backlog_asks_for() -> None:
    spec = objects()["HorizontalPodAutoscaler", "workflow-worker"]["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "workflow-worker"}
    assert "replicas" not in deployment("workflow-worker")["spec"], "an apply would take the autoscaler's decision back"
    external, cpu = spec["metrics"]
    assert cpu["resource"]["name"] == "cpu"
    (rule,) = yaml.safe_load((folder / "prometheus-adapter/values.yaml").read_text())["rules"]["external"]
    assert external["external"]["metric"]["name"] == rule["name"]["as"]
    # Below the slots, or a full fleet would not grow.
    target = int(external["external"]["target"]["averageValue"])
    assert 0 < target < int(variables("workflow-worker")["MAX_CONCURRENT_NODES"])


def test_the_metric_of_the_backlog_is_made_of_what_coordinators_export(tmp_path: Path) -> None:
    (rule,) = yaml.safe_load((folder / "prometheus-adapter/values.yaml").read_text())["rules"]["external"]
    expression = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="default"')
    names = re.findall(r"mainspring_[a-z_]+", expression)
    assert names == ["mainspring_ready_nodes", "mainspring_assignments"]
    assert set(names) | metrics_in(rule["seriesQuery"]) <= set(exported())
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": [{"record": "x", "expr": expression}]}]}))
    promtool("check", "rules", str(file))


def test_prometheus_asks_each_pod_once_under_the_job_that_the_alerts_rest_on() -> None:
    spec = objects()["ServiceMonitor", "workflow-engine"]["spec"]
    pairs = kustomization()["labels"][0]["pairs"]
    assert pairs[spec["jobLabel"]] == "workflow-engine"
    wanted = spec["selector"]["matchLabels"]
    chosen = [
        each
        for (kind, _), each in objects().items()
        if kind == "Service" and wanted.items() <= (each["metadata"]["labels"] | pairs).items()
    ]
    assert [each["spec"]["selector"]["app"] for each in chosen] == ["workflow-engine", "workflow-worker"]
    for each in chosen:
        ports = {port["name"]: port["targetPort"] for port in each["spec"]["ports"]}
        assert ports[spec["endpoints"][0]["port"]] == default_http_port
    assert variables("workflow-worker")["HTTP_PORT"] == str(default_http_port)


def test_the_files_of_the_folder_are_applied_but_the_example_and_hold_no_secret() -> None:
    files = {path.name for path in folder.glob("*.yaml")}
    assert files == {*kustomization()["resources"], "kustomization.yaml", "secret.example.yaml"}
    secret = yaml.safe_load((folder / "secret.example.yaml").read_text())
    assert secret["metadata"]["name"] == "workflow-secrets"
    assert secret["stringData"] == {"database-url": "mysql://USER:PASSWORD@HOST:3306/workflow_db"}
    assert "Secret" not in {kind for kind, _ in objects()}


@pytest.mark.parametrize("version", [kubernetes_oldest, kubernetes_newest])
def test_each_object_keeps_to_its_schema(version: str) -> None:
    secret = yaml.safe_load((folder / "secret.example.yaml").read_text())
    found = {
        f"{each['kind']} {each['metadata']['name']}": errors
        for each in [*objects().values(), secret]
        if (errors := kubernetes_errors(each, version))
    }
    assert found == {}
    broken = deepcopy(deployment("workflow-engine"))
    broken["spec"]["replica"] = 3
    assert kubernetes_errors(broken, version)
    monitor = deepcopy(objects()["ServiceMonitor", "workflow-engine"])
    monitor["spec"]["endpoints"][0]["every"] = "15s"
    assert kubernetes_errors(monitor, version)


def kustomized(where: Path) -> list[dict[str, Any]]:
    """What kustomize makes of a folder."""
    kubectl, kustomize = shutil.which("kubectl"), shutil.which("kustomize")
    if kubectl is None and kustomize is None:
        pytest.skip("neither kubectl nor kustomize here")
    command = [kustomize, "build", str(where)] if kubectl is None else [kubectl, "kustomize", str(where)]
    done = subprocess.run([str(word) for word in command], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_kustomize_builds_it() -> None:
    built = kustomized(folder)
    (settings,) = [each for each in built if each["kind"] == "ConfigMap"]
    assert settings["data"] == shared()
    for each in built:
        assert each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "workflow-engine"
        if each["kind"] == "Deployment":
            (one,) = each["spec"]["template"]["spec"]["containers"]
            assert one["envFrom"] == [{"configMapRef": {"name": settings["metadata"]["name"]}}]
            assert each["spec"]["selector"] == deployment(each["metadata"]["name"])["spec"]["selector"]
        assert kubernetes_errors(each, kubernetes_newest) == []


def test_the_overlay_of_the_page_is_one(tmp_path: Path) -> None:
    page = (root / "docs/deploying.md").read_text()
    (overlay,) = re.findall(r"^```yaml\n(# kustomization\.yaml\n.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "overlay").mkdir()
    shutil.copytree(folder, tmp_path / "deploy/kubernetes")
    (tmp_path / "overlay/kustomization.yaml").write_text(overlay)
    built = kustomized(tmp_path / "overlay")
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in built if each["kind"] == "Deployment"
    }
    images = {one["image"] for each in pods.values() for one in [*each["containers"], *each.get("initContainers", [])]}
    assert images == {"registry.example.org/workflow-engine:0.1.0"}
    assert pods["workflow-worker"]["containers"][0]["args"] == ["worker", "--import", "shop.tasks"]
    (settings,) = [each["data"] for each in built if each["kind"] == "ConfigMap"]
    assert settings == {**shared(), "LOG_LEVEL": "info"}
