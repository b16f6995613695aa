"""The deployment files name what exists, with the values that the deployment guide fixes."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mainspring.dial import default_grpc_port, default_http_port

root = Path(__file__).parents[2]
shipped_executors = "fetchOldCalendarMappings,deleteSingleCalendar,sendEmailNotification"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((root / "deploy/compose.yaml").read_text())
    return loaded


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile: name and arguments."""
    text = re.sub(r"\\\n", " ", (root / "deploy/Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_database_is_the_one_of_the_guide(compose: dict[str, Any]) -> None:
    mysql = compose["services"]["mysql"]
    assert mysql["image"] == "mysql:8.0"
    assert mysql["environment"]["MYSQL_DATABASE"] == "workflow_db"
    assert mysql["volumes"] == ["mysql_data:/var/lib/mysql"]
    assert "mysql_data" in compose["volumes"]
    assert "MYSQL_ROOT_PASSWORD=root_password" in (root / "deploy/.env.example").read_text().splitlines()


def test_no_port_is_open_to_the_net(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_coordinators_start_after_the_migration_and_it_after_the_database(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["migrate"]["command"] == ["db", "upgrade"]
    assert services["migrate"]["depends_on"] == {"mysql": {"condition": "service_healthy"}}
    engine = services["workflow-engine-1"]
    assert engine["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert engine["environment"]["ENGINE_INSTANCE_ID"] == "engine-1"
    assert engine["environment"]["HOSTNAME"] == "workflow-engine-1"
    assert engine["environment"]["DATABASE_URL"].endswith("@mysql:3306/workflow_db")
    assert engine["ports"] == [f"127.0.0.1:{p}:{p}" for p in (default_grpc_port, default_http_port)]


def test_the_worker_dials_the_coordinator_and_offers_what_the_image_holds(compose: dict[str, Any]) -> None:
    worker = compose["services"]["worker-1"]
    assert worker["environment"]["MAINSPRING_ADDRESS"] == f"workflow-engine-1:{default_grpc_port}"
    assert worker["environment"]["SUPPORTED_EXECUTORS"] == shipped_executors
    module = worker["command"][worker["command"].index("--import") + 1]
    assert (root / (module.replace(".", "/") + ".py")).is_file()
    text = (root / "examples/calendar_cleanup/tasks.py").read_text()
    assert [name for name in shipped_executors.split(",") if f'@executor("{name}")' not in text] == []


def test_each_variable_of_ours_is_a_setting(compose: dict[str, Any]) -> None:
    settings = set(re.findall(r"^\| `([A-Z_]+)` \|", (root / "docs/settings.md").read_text(), re.MULTILINE))
    ours = [name for name in compose["services"] if name != "mysql"]
    named = {variable for name in ours for variable in compose["services"][name]["environment"]}
    image = {pair.split("=")[0] for word, rest in dockerfile() if word == "ENV" for pair in rest.split()}
    assert {"DATABASE_URL", "MAINSPRING_ADDRESS"} <= named
    assert named | (image - {"PATH", "PYTHONUNBUFFERED"}) <= settings


def test_the_image_is_made_of_files_that_exist_and_is_not_run_by_root() -> None:
    steps = dockerfile()
    copied = [
        source
        for word, rest in steps
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert copied
    assert [source for source in copied if not (root / source).exists()] == []
    sent = [line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert [source for source in copied if source.split("/")[0] not in sent] == []
    users = [rest for word, rest in steps if word == "USER"]
    assert users
    assert users[-1] != "root"
    assert ("EXPOSE", f"{default_grpc_port} {default_http_port}") in steps
    assert ("ENTRYPOINT", '["mainspring"]') in steps
