"""Load as percent of a cgroup's limit, in trees of files as kernels write them; without a limit, of the host."""

from pathlib import Path

import psutil
import pytest

from mainspring_worker.vitals import Vitals


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def v2(root: Path, **files: str) -> Path:
    return write(root, cgroup_dot_controllers="cpu memory", **files)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("mainspring_worker.vitals.time.monotonic", lambda: now[0])
    return now


def test_memory_of_a_v2_group_leaves_out_the_cache_that_would_be_given_back(tmp_path: Path) -> None:
    root = v2(tmp_path, memory_dot_max="1000", memory_dot_current="700", memory_dot_stat="anon 1\ninactive_file 200")
    assert Vitals(root).memory_percent() == 50.0


def test_memory_of_a_v1_group(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        memory__memory_dot_limit_in_bytes="1000",
        memory__memory_dot_usage_in_bytes="400",
        memory__memory_dot_stat="total_inactive_file 150",
    )
    assert Vitals(root).memory_percent() == 25.0


def test_cpu_of_a_v2_group_is_of_its_quota(tmp_path: Path, clock: list[float]) -> None:
    root = v2(tmp_path, cpu_dot_max="50000 100000", cpu_dot_stat="usage_usec 1000000\nuser_usec 5")
    vitals = Vitals(root)
    assert vitals.cpu_percent() == 0.0
    v2(tmp_path, cpu_dot_stat="usage_usec 1500000")
    clock[0] += 2
    assert vitals.cpu_percent() == 50.0, "half a second in two, of half a core"
    clock[0] += 2
    assert vitals.cpu_percent() == 0.0


def test_cpu_of_a_v1_group_is_of_its_quota(tmp_path: Path, clock: list[float]) -> None:
    files = {"cpu__cpu_dot_cfs_quota_us": "200000", "cpu__cpu_dot_cfs_period_us": "100000"}
    vitals = Vitals(write(tmp_path, cpuacct__cpuacct_dot_usage="0", **files))
    vitals.cpu_percent()
    write(tmp_path, cpuacct__cpuacct_dot_usage="1000000000")
    clock[0] += 1
    assert vitals.cpu_percent() == 50.0


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"cgroup_dot_controllers": "cpu", "cpu_dot_max": "max 100000", "cpu_dot_stat": "usage_usec 1"},
        {"cgroup_dot_controllers": "memory", "memory_dot_max": "max", "memory_dot_current": "700"},
        {"memory__memory_dot_limit_in_bytes": str(2**63 - 4096), "memory__memory_dot_usage_in_bytes": "400"},
        {"cpu__cpu_dot_cfs_quota_us": "-1", "cpu__cpu_dot_cfs_period_us": "100000"},
    ],
    ids=["no files", "v2 cpu", "v2 memory", "v1 memory", "v1 cpu"],
)
def test_without_a_limit_the_host_counts(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda _: 12.5)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"percent": 37.5}))
    vitals = Vitals(write(tmp_path, **files))
    assert (vitals.cpu_percent(), vitals.memory_percent()) == (12.5, 37.5)


def test_nothing_is_ever_above_a_hundred_percent(tmp_path: Path) -> None:
    assert Vitals(v2(tmp_path, memory_dot_max="10", memory_dot_current="700")).memory_percent() == 100.0
