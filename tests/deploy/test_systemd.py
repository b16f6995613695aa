"""The systemd units: systemd takes them, what they start exists, and they give each process its time and no right that it does not need."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from mainspring.errors import SettingsError
from mainspring.limits import drain_ms_default
from mainspring.settings import CoordinatorSettings, WorkerSettings
from mainspring_worker.__main__ import _parser

folder = Path(__file__).parents[2] / "deploy/systemd"
units = ("mainspring-coordinator.service", "mainspring-worker@.service")
program = "/opt/mainspring/bin/mainspring"
exposure_max = 20
"""Tenths, as systemd counts: 10 is what it calls ok, and 96 what a unit without a line of hardening has."""


def entries(unit: str) -> dict[str, list[str]]:
    """A unit's lines, by name."""
    found: dict[str, list[str]] = {}
    for line in (folder / unit).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def analyze(*words: str) -> None:
    analyzer = shutil.which("systemd-analyze")
    if analyzer is None:
        pytest.skip("no systemd-analyze here")
    done = subprocess.run([analyzer, *words], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.parametrize("unit", units)
def test_systemd_takes_the_unit_without_a_word(unit: str, tmp_path: Path) -> None:
    installed = tmp_path / "mainspring"
    installed.write_text("#!/bin/sh\n")
    installed.chmod(0o755)
    copied = tmp_path / unit
    copied.write_text((folder / unit).read_text().replace(program, str(installed)))
    analyze("verify", "--man=no", str(copied))
    analyze("security", "--no-pager", "--offline=true", f"--threshold={exposure_max}", str(copied))


@pytest.mark.parametrize(("unit", "words"), [(units[0], ["coordinator"]), (units[1], ["worker", "$WORKER_ARGS"])])
def test_it_starts_the_program_with_the_file_of_settings(unit: str, words: list[str]) -> None:
    (start,) = entries(unit)["ExecStart"]
    command, kind, flag, file, *rest = shlex.split(start)
    assert (command, flag, file) == (program, "--config", "/etc/mainspring/mainspring.toml")
    assert [kind, *rest] == words
    assert entries(unit)["Type"] == ["exec"], "the programs do not speak sd_notify"
    # 2 is what they end with when trying again would not help.
    assert entries(unit)["RestartPreventExitStatus"] == ["2"]
    assert entries(unit)["Restart"] == ["always"]


def test_a_worker_has_the_time_to_drain_and_is_told_alone() -> None:
    assert int(entries(units[1])["TimeoutStopSec"][0]) > drain_ms_default / 1_000
    assert int(entries(units[0])["TimeoutStopSec"][0]) >= 30
    assert {entries(unit)["KillMode"][0] for unit in units} == {"mixed"}


def test_the_words_that_the_example_gives_a_worker_are_taken_by_it() -> None:
    (example,) = re.findall(r"^#   WORKER_ARGS=(.*)$", (folder / units[1]).read_text(), re.MULTILINE)
    flags = [word for word in shlex.split(example) if word.startswith("--")]
    assert flags == ["--import", "--label"]
    assert [flag for flag in flags if flag not in _parser().format_help()] == []


def test_the_example_of_settings_is_taken_by_both_parts_and_opens_nothing() -> None:
    words = ["--config", str(folder / "mainspring.toml")]
    coordinator, worker = CoordinatorSettings.load(words, {}), WorkerSettings.load(words, {})
    assert coordinator.distributed_mode
    assert coordinator.grpc_host == coordinator.http_host == worker.http_host == "127.0.0.1"


@pytest.mark.parametrize("unit", units)
def test_it_is_not_run_by_root_and_writes_to_its_own_folder_alone(unit: str) -> None:
    lines = entries(unit)
    assert lines["User"] == ["mainspring"]
    assert lines["ProtectSystem"] == ["strict"]
    assert lines["CapabilityBoundingSet"] == [""]
    assert lines["NoNewPrivileges"] == ["yes"]
    assert lines["StateDirectory"][0].split("/")[0] in {"mainspring", "mainspring-worker"}


def test_the_settings_that_the_example_holds_back_let_a_coordinator_listen_for_other_hosts(tmp_path: Path) -> None:
    text = (folder / "mainspring.toml").read_text()
    given = re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE).replace('_host = "127.0.0.1"', '_host = "0.0.0.0"')
    assert given.count("0.0.0.0") == 2
    file = tmp_path / "mainspring.toml"
    file.write_text(given)
    CoordinatorSettings.load(["--config", str(file)], {}).demand_closed_doors()
    file.write_text(text.replace('_host = "127.0.0.1"', '_host = "0.0.0.0"'))
    with pytest.raises(SettingsError, match="INSECURE"):
        CoordinatorSettings.load(["--config", str(file)], {}).demand_closed_doors()
