"""Prometheus and its promtool, from the system or from the folder of the user's cache that `.ci/prometheus` has made."""

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlencode

import pytest
import yaml

from tests.servers.ports import free_port

shipped: Final = Path(__file__).parents[2] / "deploy/prometheus"


def program(name: str) -> str | None:
    """Return the path of `prometheus` or `promtool`, None where it is not."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "mainspring/prometheus/usr/bin"
    return shutil.which(name) or shutil.which(name, path=str(folder))


def required(name: str) -> str:
    """Return the path; skip the test where there is none, or fail it where there must be one, as in CI."""
    found = program(name)
    if found is not None:
        return found
    reason = f"no {name} here; put it on PATH, or run .ci/prometheus on Debian or Ubuntu"
    if os.environ.get("MAINSPRING_TEST_PROMETHEUS") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


class Prometheus:
    """A private server with the shipped configuration, whose targets are others."""

    def __init__(self, folder: Path, targets: Mapping[str, Sequence[str]]) -> None:
        """`targets`: by part, what takes the place of the targets that the configuration names for it."""
        self._folder = folder / "prometheus"
        self._folder.mkdir()
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        config = yaml.safe_load((shipped / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(shipped / name) for name in config["rule_files"]]
        for entry in config["scrape_configs"][0]["static_configs"]:
            entry["targets"] = list(targets[entry["labels"]["part"]])
        self._config = self._folder / "prometheus.yml"
        self._config.write_text(yaml.safe_dump(config))

    def __enter__(self) -> Self:
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    required("prometheus"),
                    f"--config.file={self._config}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)

    def query(self, expression: str) -> dict[str, float]:
        """Return the values of an expression, by the label that tells its series apart."""
        found = self._get("query", query=expression)["result"]
        return {
            series["metric"].get("instance", series["metric"].get("executor", "")): float(series["value"][1])
            for series in found
        }

    def rules(self) -> dict[str, dict[str, Any]]:
        """Return all alert rules by name, with their health and state."""
        return {rule["name"]: rule for group in self._get("rules")["groups"] for rule in group["rules"]}

    def _get(self, what: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{what}?{urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.loads(answer.read())["data"]
