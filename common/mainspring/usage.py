"""How much cpu and memory is used: in percent of what the kernel allows this process's group, or of the host where nothing limits it.

Both generations of cgroups are read. A limit may be set on the group that the process is in or on any one above it, so all of them are
looked at, and the one that is nearest to its limit counts. In a container the groups above are out of sight, and its own group is
what is mounted at the root.

Needs psutil, which coordinators and workers install and clients do not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from mainspring.clock import BootClock, Clock

_mount: Final = Path("/sys/fs/cgroup")
_membership: Final = Path("/proc/self/cgroup")
_unlimited: Final = 2**60
"""The first generation writes "no limit" as a number close to 2**63."""
_interval_us_min: Final = 500_000
"""Two readers at once must not measure a moment of nothing."""


@dataclass(frozen=True, slots=True)
class _Cpu:
    """The cpu files of one group."""

    limit: Path
    use: Path
    unified: bool
    """Whether it is of the second generation."""

    def cores(self) -> float | None:
        """Return how many cores it may use; None: no limit."""
        if self.unified:
            quota, _, period = _read(self.limit / "cpu.max").strip().partition(" ")
        else:
            quota, period = (_read(self.limit / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        allowed = int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else 0.0
        return allowed or None

    def used_us(self) -> int | None:
        """Return the cpu time that it has used."""
        if self.unified:
            return _statistic(self.use / "cpu.stat", "usage_usec")
        used_ns = _number(self.use / "cpuacct.usage")
        return used_ns // 1_000 if used_ns is not None else None


@dataclass(frozen=True, slots=True)
class _Memory:
    """The memory files of one group."""

    folder: Path
    unified: bool

    def percent(self) -> float | None:
        """Return its use in percent of the limit; None: no limit."""
        limit_file, used_file, cache = (
            ("memory.max", "memory.current", "inactive_file")
            if self.unified
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        )
        limit, used = _number(self.folder / limit_file), _number(self.folder / used_file)
        if not limit or limit >= _unlimited or used is None:
            return None
        # The file cache that the kernel would give back first is no sign of need.
        return _percent(used - (_statistic(self.folder / "memory.stat", cache) or 0), limit)


class Usage:
    """Reads the kernel's counters; cpu is the mean since the reading before."""

    def __init__(self, mount: Path = _mount, clock: Clock | None = None, membership: Path = _membership) -> None:
        """`mount` is where cgroups are mounted, `membership` the file that says in which of them this process is."""
        self._clock = clock or BootClock()
        self._process = psutil.Process()
        self._cpus, self._memories = _find_groups(mount, _read(membership))
        self._cpu_percent = 0.0
        self._read_us = self._clock.now_us()
        self._used_us = [group.used_us() for group in self._cpus]
        psutil.cpu_percent(None)  # the first call only sets the mark for the next

    def cpu_percent(self) -> float:
        """Return 0 to 100; of the group's limit where there is one."""
        now_us = self._clock.now_us()
        if now_us - self._read_us >= _interval_us_min:
            self._cpu_percent = self._measure_cpu(now_us - self._read_us)
            self._read_us = now_us
        return self._cpu_percent

    def memory_percent(self) -> float:
        """Return 0 to 100; of the group's limit where there is one."""
        limited = [percent for group in self._memories if (percent := group.percent()) is not None]
        return max(limited) if limited else float(psutil.virtual_memory().percent)

    def memory_bytes(self) -> dict[str, int]:
        """Return what the process itself holds: rss and vms."""
        info = self._process.memory_info()
        return {"rss": info.rss, "vms": info.vms}

    def _measure_cpu(self, passed_us: int) -> float:
        host = float(psutil.cpu_percent(None))
        before, self._used_us = self._used_us, [group.used_us() for group in self._cpus]
        limited = [
            _percent(after_us - before_us, passed_us * cores)
            for group, before_us, after_us in zip(self._cpus, before, self._used_us, strict=True)
            if (cores := group.cores()) is not None and before_us is not None and after_us is not None
        ]
        return max(limited) if limited else min(100.0, host)


def _find_groups(mount: Path, membership: str) -> tuple[list[_Cpu], list[_Memory]]:
    """Return the groups of this process, and all above them that can be seen."""
    paths: dict[str, str] = {}
    for line in membership.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths |= dict.fromkeys(controllers.split(","), path)
    if (mount / "cgroup.controllers").exists():
        folders = list(_upward(mount, paths.get("", "")))
        return [_Cpu(folder, folder, True) for folder in folders], [_Memory(folder, True) for folder in folders]
    cpu, use = mount / "cpu", mount / "cpuacct"
    return (
        [_Cpu(folder, use / folder.relative_to(cpu), False) for folder in _upward(cpu, paths.get("cpu", ""))],
        [_Memory(folder, False) for folder in _upward(mount / "memory", paths.get("memory", ""))],
    )


def _upward(root: Path, path: str) -> Iterator[Path]:
    """Yield the folders from a group's up to the root; in a container the path is often the host's and leads nowhere."""
    folder = root / path.strip("/")
    while ".." not in folder.parts and root in folder.parents:
        if folder.is_dir():
            yield folder
        folder = folder.parent
    yield root


def _percent(part: float, whole: float) -> float:
    return max(0.0, min(100.0, 100.0 * part / whole))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # not every kernel and container has every file; what is missing sets no limit
        return ""


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _statistic(path: Path, key: str) -> int | None:
    for line in _read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.strip().isdigit():
            return int(value)
    return None
