"""Use of cpu and memory in percent of a group's limit, in trees of files as kernels write them; without a limit, of the host."""

from pathlib import Path

import psutil
import pytest

from mainspring.usage import Usage

SECOND = 1_000_000


class FakeClock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.us = 1_000 * SECOND

    def now_us(self) -> int:
        return self.us


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def usage(root: Path, member: str = "0::/", clock: FakeClock | None = None) -> Usage:
    membership = root / "membership"
    membership.write_text(member + "\n")
    return Usage(root, clock, membership)


V2 = {"cgroup.controllers": "cpu memory"}


def test_memory_of_a_v2_group_leaves_out_the_cache_that_would_be_given_back(tmp_path: Path) -> None:
    stat = "anon 1\ninactive_file 200\nactive_file 100"
    write(tmp_path, V2 | {"memory.max": "1000", "memory.current": "700", "memory.stat": stat})
    assert usage(tmp_path).memory_percent() == 50.0


def test_memory_of_a_v1_group(tmp_path: Path) -> None:
    files = {"limit_in_bytes": "1000", "usage_in_bytes": "400", "stat": "inactive_file 1\ntotal_inactive_file 150"}
    write(tmp_path, {f"memory/memory.{name}": text for name, text in files.items()})
    assert usage(tmp_path).memory_percent() == 25.0


def test_cpu_of_a_v2_group_is_of_its_quota(tmp_path: Path) -> None:
    clock = FakeClock()
    write(tmp_path, V2 | {"cpu.max": "50000 100000", "cpu.stat": "usage_usec 1000000\nuser_usec 5"})
    measured = usage(tmp_path, clock=clock)
    assert measured.cpu_percent() == 0.0, "nothing has passed yet"
    write(tmp_path, {"cpu.stat": "usage_usec 1500000"})
    clock.us += 2 * SECOND
    assert measured.cpu_percent() == 50.0, "half a second in two, of half a core"
    clock.us += 2 * SECOND
    assert measured.cpu_percent() == 0.0


def test_cpu_of_a_v1_group_is_of_its_quota(tmp_path: Path) -> None:
    clock = FakeClock()
    files = {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000", "cpuacct/cpuacct.usage": "0"}
    measured = usage(write(tmp_path, files), clock=clock)
    write(tmp_path, {"cpuacct/cpuacct.usage": "1000000000"})
    clock.us += SECOND
    assert measured.cpu_percent() == 50.0


def test_two_readings_at_once_agree(tmp_path: Path) -> None:
    clock = FakeClock()
    write(tmp_path, V2 | {"cpu.max": "100000 100000", "cpu.stat": "usage_usec 0"})
    measured = usage(tmp_path, clock=clock)
    write(tmp_path, {"cpu.stat": "usage_usec 250000"})
    clock.us += SECOND
    assert [measured.cpu_percent(), measured.cpu_percent()] == [25.0, 25.0]


def test_the_limit_that_is_nearest_counts_wherever_above_the_process_it_is_set(tmp_path: Path) -> None:
    clock = FakeClock()
    write(
        tmp_path,
        V2
        | {
            "app.slice/worker/cpu.max": "max 100000",
            "app.slice/worker/cpu.stat": "usage_usec 0",
            "app.slice/worker/memory.max": "1000",
            "app.slice/worker/memory.current": "100",
            "app.slice/cpu.max": "100000 100000",
            "app.slice/cpu.stat": "usage_usec 0",
            "app.slice/memory.max": "2000",
            "app.slice/memory.current": "1500",
        },
    )
    measured = usage(tmp_path, "0::/app.slice/worker", clock)
    write(tmp_path, {"app.slice/cpu.stat": "usage_usec 750000"})
    clock.us += SECOND
    assert (measured.cpu_percent(), measured.memory_percent()) == (75.0, 75.0)


def test_a_v1_container_sees_its_own_group_at_the_root_although_it_is_told_the_hosts_path(tmp_path: Path) -> None:
    clock = FakeClock()
    files = {
        "memory/memory.limit_in_bytes": "1000",
        "memory/memory.usage_in_bytes": "300",
        "cpu/cpu.cfs_quota_us": "100000",
        "cpu/cpu.cfs_period_us": "100000",
        "cpuacct/cpuacct.usage": "0",
    }
    member = "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n0::/docker/abc"
    measured = usage(write(tmp_path, files), member, clock)
    write(tmp_path, {"cpuacct/cpuacct.usage": "400000000"})
    clock.us += SECOND
    assert (measured.cpu_percent(), measured.memory_percent()) == (40.0, 30.0)


def test_a_path_that_leads_out_of_the_mount_reads_nothing_there(tmp_path: Path) -> None:
    outside = {"memory.max": "1000", "memory.current": "900"}
    write(tmp_path, outside)
    write(tmp_path / "mount", V2 | {"memory.max": "1000", "memory.current": "100"})
    assert usage(tmp_path / "mount", "0::/../").memory_percent() == 10.0


@pytest.mark.parametrize(
    "files",
    [
        {},
        V2 | {"cpu.max": "max 100000", "cpu.stat": "usage_usec 1"},
        V2 | {"memory.max": "max", "memory.current": "700"},
        {"memory/memory.limit_in_bytes": str(2**63 - 4096), "memory/memory.usage_in_bytes": "400"},
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000", "cpuacct/cpuacct.usage": "5"},
    ],
    ids=["no files", "v2 cpu", "v2 memory", "v1 memory", "v1 cpu"],
)
def test_without_a_limit_the_host_counts(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda _: 12.5)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"percent": 37.5}))
    clock = FakeClock()
    measured = usage(write(tmp_path, files), clock=clock)
    clock.us += SECOND
    assert (measured.cpu_percent(), measured.memory_percent()) == (12.5, 37.5)


def test_nothing_is_ever_above_a_hundred_percent(tmp_path: Path) -> None:
    write(tmp_path, V2 | {"memory.max": "10", "memory.current": "700"})
    assert usage(tmp_path).memory_percent() == 100.0


def test_this_machine_can_be_measured() -> None:
    measured = Usage()
    assert 0 <= measured.cpu_percent() <= 100
    assert 0 < measured.memory_percent() <= 100
    assert measured.memory_bytes()["rss"] > 1_000_000
