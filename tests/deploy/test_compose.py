"""The Compose file: the deployment guide's values one by one, each service healthy before what needs it, nothing open to the net."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from mainspring.dial import default_grpc_port, default_http_port
from mainspring.settings import CoordinatorSettings, WorkerSettings
from tests.deploy.schemas import compose_errors

root = Path(__file__).parents[2]
file = root / "deploy/docker-compose.yml"
calendar_executors = "fetchOldCalendarMappings,deleteSingleCalendar,sendEmailNotification"
coordinators = ["workflow-engine-1", "workflow-engine-2", "workflow-engine-3"]
workers = ["worker-1", "worker-2"]
one_shots = ["credentials", "migrate"]
healthy = {"condition": "service_healthy"}
done = {"condition": "service_completed_successfully"}


@cache
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(file.read_text())
    return loaded


def services() -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"]
    return found


def example_env() -> dict[str, str]:
    lines = (root / "deploy/.env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def filled(text: str) -> str:
    """The text with the variables of the example's .env, as Compose fills them in."""
    return re.sub(r"\$\{(\w+)(?::[-?][^}]*)?\}", lambda found: example_env()[found[1]], text)


GUIDE = [
    ("mysql", ["image"], "mysql:8.0"),
    ("mysql", ["environment", "MYSQL_DATABASE"], "workflow_db"),
    ("mysql", ["environment", "MYSQL_ROOT_PASSWORD"], "root_password"),
    ("mysql", ["volumes"], ["mysql_data:/var/lib/mysql"]),
    ("mysql", ["ports"], ["127.0.0.1:3306:3306"]),
    ("redis", ["image"], "redis:7-alpine"),
    ("redis", ["ports"], ["127.0.0.1:6379:6379"]),
    *(
        (f"workflow-engine-{number}", path, value)
        for number, strategy in ((1, "load-balanced"), (2, "load-balanced"), (3, "capability"))
        for path, value in [
            (["environment", "ENGINE_INSTANCE_ID"], f"engine-{number}"),
            (["environment", "HOSTNAME"], f"workflow-engine-{number}"),
            (["environment", "DATABASE_URL"], "mysql://root:root_password@mysql:3306/workflow_db"),
            (["environment", "REDIS_URL"], "redis://redis:6379"),
            (["environment", "DISTRIBUTED_MODE"], "true"),
            (["environment", "HEARTBEAT_INTERVAL"], "30000"),
            (["environment", "LOCK_TIMEOUT"], "300000"),
            (["environment", "FAILURE_DETECTION_TIMEOUT"], "90000"),
            (["environment", "ASSIGNMENT_STRATEGY"], strategy),
            (["deploy", "replicas"], 1),
            (["deploy", "resources", "limits"], {"cpus": "2.0", "memory": "4G"}),
            (["deploy", "resources", "reservations"], {"cpus": "1.0", "memory": "2G"}),
            (["depends_on", "mysql"], healthy),
            (["depends_on", "redis"], {**healthy, "required": False}),
            (["depends_on", "migrate"], done),
            (["depends_on", "credentials"], done),
        ]
    ),
    ("worker-1", ["environment", "SUPPORTED_EXECUTORS"], calendar_executors),
    ("nginx", ["image"], "nginx:alpine"),
    ("nginx", ["ports"], ["127.0.0.1:80:80", "127.0.0.1:443:443"]),
    ("nginx", ["depends_on"], dict.fromkeys(coordinators, healthy)),
    ("migrate", ["command"], ["db", "upgrade"]),
    ("migrate", ["depends_on"], {"mysql": healthy}),
]


@pytest.mark.parametrize(("service", "path", "value"), GUIDE, ids=[f"{one}.{path[-1]}" for one, path, _ in GUIDE])
def test_the_value_is_that_of_the_guide(service: str, path: list[str], value: object) -> None:
    found = services()[service]
    for name in path:
        found = found[name]
    if isinstance(found, str):
        found = filled(found)
    elif isinstance(found, list):
        found = [filled(part) for part in found]
    assert found == value


def test_the_file_keeps_to_the_schema_of_compose() -> None:
    assert compose_errors(compose()) == []
    assert compose_errors({"services": {"mysql": {"imagee": "mysql:8.0"}}})


def test_all_named_volumes_and_networks_are_declared_and_used() -> None:
    loaded = compose()
    mounted = {volume.split(":")[0] for one in services().values() for volume in one.get("volumes", [])}
    assert {name for name in mounted if not name.startswith("./")} == set(loaded["volumes"])
    assert {name for one in services().values() for name in one.get("networks", [])} == set(loaded["networks"])
    assert "mysql_data" in loaded["volumes"]


def test_what_is_mounted_from_here_is_there() -> None:
    mounted = [volume.split(":")[0] for one in services().values() for volume in one.get("volumes", [])]
    files = [name for name in mounted if name.startswith("./")]
    assert "./nginx.conf" in files
    assert [name for name in files if not (root / "deploy" / name).exists()] == []


def test_every_variable_has_an_example_and_the_file_asks_for_no_other() -> None:
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", file.read_text()))
    assert asked == set(example_env())


def test_only_nginx_can_be_opened_to_the_net_and_is_not_unless_one_says_so() -> None:
    published = {name: [filled(port) for port in one.get("ports", [])] for name, one in services().items()}
    assert published["nginx"]
    assert [port for ports in published.values() for port in ports if not port.startswith("127.0.0.1:")] == []
    assert [name for name, one in services().items() if "BIND_ADDRESS" in str(one.get("ports"))] == ["nginx"]
    host_ports = [port.rsplit(":", 1)[0] for ports in published.values() for port in ports]
    assert len(set(host_ports)) == len(host_ports)


def test_the_database_is_reached_by_the_coordinators_and_the_migration_alone() -> None:
    near = [name for name, one in services().items() if "database" in one.get("networks", [])]
    assert sorted(near) == sorted([*coordinators, "migrate", "mysql", "redis"])


def test_each_service_is_bounded_and_says_whether_it_is_well() -> None:
    for name, one in services().items():
        assert {"cpus", "memory"} <= one["deploy"]["resources"]["limits"].keys(), name
        assert one["logging"]["options"]["max-size"], name
        if name in one_shots:
            assert one["restart"] == "no", name
        else:
            assert one["restart"] == "unless-stopped", name
            assert one["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}, name


def test_ours_run_with_no_rights_that_they_do_not_need() -> None:
    ours = [one for one in services().values() if one["image"] == "workflow-engine:latest"]
    assert len(ours) == len(coordinators) + len(workers) + len(one_shots)
    for one in ours:
        assert one["read_only"] is True
        assert one["cap_drop"] == ["ALL"]
        assert one["security_opt"] == ["no-new-privileges:true"]


def test_a_worker_waits_for_the_coordinators_that_it_begins_with_and_runs_what_the_image_holds() -> None:
    names = {"worker-1": calendar_executors, "worker-2": "sleep"}
    for name in workers:
        worker = services()[name]
        addresses = worker["environment"]["MAINSPRING_ADDRESS"].split(",")
        assert addresses == [f"{host}:{default_grpc_port}" for host in coordinators]
        assert worker["depends_on"] == dict.fromkeys(coordinators, healthy)
        assert worker["environment"]["SUPPORTED_EXECUTORS"] == names[name]
        module = worker["command"][worker["command"].index("--import") + 1]
        text = (root / (module.replace(".", "/") + ".py")).read_text()
        assert [one for one in names[name].split(",") if f'@executor("{one}")' not in text] == []
    assert names["worker-1"] != names["worker-2"]


@pytest.mark.parametrize("name", [*coordinators, *workers])
def test_the_settings_are_taken_by_the_program_that_gets_them(name: str) -> None:
    environment = {key: filled(value) for key, value in services()[name]["environment"].items()}
    kind = CoordinatorSettings if name in coordinators else WorkerSettings
    settings = kind.load([], environment)
    assert settings.engine_instance_id == environment["ENGINE_INSTANCE_ID"]
    # An unknown variable would be passed over in silence.
    known = set(re.findall(r"^\| `([A-Z_]+)` \|", (root / "docs/settings.md").read_text(), re.MULTILINE))
    assert environment.keys() - known == set()


def test_prometheus_scrapes_every_coordinator_and_worker() -> None:
    config = yaml.safe_load((root / "deploy/prometheus/prometheus.yml").read_text())
    targets = {one["labels"]["part"]: one["targets"] for one in config["scrape_configs"][0]["static_configs"]}
    assert targets["coordinator"] == [f"{name}:{default_http_port}" for name in coordinators]
    assert targets["worker"] == [f"{name}:{services()[name]['environment']['HTTP_PROBE_PORT']}" for name in workers]
    assert {services()[name]["environment"]["METRICS_AUTH"] for name in (*coordinators, *workers)} == {"false"}
    assert "./prometheus:/etc/prometheus:ro" in services()["prometheus"]["volumes"]


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    folder = root / "deploy/grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards/mainspring.yml").read_text())["providers"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert (
        f"./grafana/mainspring.json:{provider['options']['path']}/mainspring.json:ro"
        in services()["grafana"]["volumes"]
    )


def test_it_starts_secure() -> None:
    for name in [*coordinators, *workers]:
        kind = CoordinatorSettings if name in coordinators else WorkerSettings
        settings = kind.load([], {**services()[name]["environment"], "GRPC_HOST": "0.0.0.0", "HTTP_HOST": "0.0.0.0"})
        settings.demand_closed_doors()
        assert settings.access.has_token
        assert settings.tls.ca == "/credentials/ca.crt"
        assert not settings.insecure
        assert settings.authenticates == (name in coordinators)


def test_security_is_attached_in_one_place_for_all_of_ours() -> None:
    text = file.read_text()
    assert len(re.findall(r"^x-security:", text, re.MULTILINE)) == 1
    for name in [*coordinators, *workers]:
        assert any(volume.endswith(":/credentials:ro") for volume in services()[name]["volumes"])
    keys = [name for name, one in services().items() for volume in one.get("volumes", []) if "authority" in volume]
    assert keys == ["credentials"], "the authority's key is nobody else's"


def test_all_of_ours_have_the_credentials_that_they_are_told_of(tmp_path: Path) -> None:
    run = [sys.executable, str(root / "deploy/credentials/make.py"), str(tmp_path)]
    subprocess.run(run, check=True, capture_output=True, timeout=60)
    for name in [*coordinators, *workers]:
        environment = services()[name]["environment"]
        (volume,) = [one for one in services()[name]["volumes"] if one.endswith(":/credentials:ro")]
        holder = volume.removesuffix("_credentials:/credentials:ro")
        told = [Path(value) for value in environment.values() if value.startswith("/credentials/")]
        assert len(told) == (5 if name in coordinators else 4)
        assert [file for file in told if not (tmp_path / holder / file.name).is_file()] == []
        assert f"{holder}_credentials:/credentials/{holder}" in services()["credentials"]["volumes"]
    for one in ("tls.crt", "tls.key", "ca.crt"):
        assert f"/credentials/{one};" in (root / "deploy/nginx.conf").read_text()
        assert (tmp_path / "nginx" / one).is_file()
