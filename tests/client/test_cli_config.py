"""`mainspring config`: what is in force, where it comes from, and nothing that is secret."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mainspring.settings import ClientSettings, CoordinatorSettings, WorkerSettings
from mainspring.settings_model import Settings
from tests.client.commands import run


def shown(*arguments: str) -> dict[str, tuple[str, str]]:
    """By name: value and origin."""
    done = run("config", *arguments, "--json")
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return {one["name"]: (one["value"], one["origin"]) for one in found}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in (CoordinatorSettings, WorkerSettings, ClientSettings):
        for name in part.reference():
            monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("part", "settings"),
    [("coordinator", CoordinatorSettings), ("worker", WorkerSettings), ("client", ClientSettings)],
)
def test_every_setting_of_a_part_is_shown_once(part: str, settings: type[Settings]) -> None:
    found = shown(part)
    assert list(found) == list(settings.reference())
    assert {origin for _, origin in found.values()} == {"default"}


def test_each_value_says_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mainspring.toml"
    file.write_text("http_port = 3001\ngrpc_port = 7321\nlock_timeout = 400_000\n")
    monkeypatch.setenv("GRPC_PORT", "7322")
    monkeypatch.setenv("HOSTNAME", "db-1")
    found = shown("coordinator", "--config", str(file), "--lock-timeout=500000")
    assert found["HTTP_PORT"] == ("3001", "file")
    assert found["GRPC_PORT"] == ("7322", "environment")
    assert found["HOSTNAME"] == ("db-1", "environment")
    assert found["LOCK_TIMEOUT"] == ("500000", "flag")
    assert found["MAX_RETRIES"] == ("3", "default")
    assert found["MAINSPRING_CONFIG"] == (str(file), "flag")
    assert found["ENGINE_INSTANCE_ID"] == ("engine_<pid>_<epoch ms>", "default")


def test_secrets_are_masked_for_people_and_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://root:hush@db:3306/workflow_db")
    monkeypatch.setenv("FAILOVER_WEBHOOK_SECRET", "hush")
    monkeypatch.setenv("REDIS_URL", "redis://:hush@cache:6379")
    assert shown()["DATABASE_URL"] == ("mysql://root:****@db:3306/workflow_db", "environment")
    for arguments in (("config",), ("config", "--json")):
        done = run(*arguments)
        assert "hush" not in done.output
        assert "cache:6379" in done.output


def test_people_get_a_table() -> None:
    done = run("config", "client")
    assert done.exit_code == 0
    first, *lines = done.stdout.splitlines()
    assert first.split() == ["SETTING", "VALUE", "FROM"]
    (line,) = [line for line in lines if line.startswith("MAINSPRING_ADDRESS ")]
    assert line.split() == ["MAINSPRING_ADDRESS", "127.0.0.1:7320", "default"]


def test_the_address_before_the_command_counts_where_it_is_read() -> None:
    done = run("--address", "c1:7320", "config", "worker", "--json")
    assert {"name": "MAINSPRING_ADDRESS", "value": "c1:7320", "origin": "flag"} in json.loads(done.stdout)
    assert run("--address", "c1:7320", "config").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--heartbeat-interval", "60000"), "FAILURE_DETECTION_TIMEOUT"),
        (("--http-port", "abc"), "HTTP_PORT = 'abc' \\(flag\\)"),
        (("--http-prot", "1"), "did you mean HTTP_PORT"),
        (("nobody",), "nobody"),
    ],
)
def test_what_would_not_start_is_refused(arguments: tuple[str, ...], told: str) -> None:
    done = run("config", *([] if arguments == ("nobody",) else ["coordinator"]), *arguments)
    assert done.exit_code == 2
    assert re.search(told, done.output)
