"""How busy this worker is: cpu and memory in percent of its cgroup's limit where there is one, else of the host."""

import time
from pathlib import Path
from typing import Final

import psutil

_root: Final = Path("/sys/fs/cgroup")
_unlimited: Final = 2**60
"""cgroup v1 writes "no limit" as a number close to 2**63."""


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        # Not every kernel and container has every file; what is missing sets no limit.
        return ""


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text.lstrip("-").isdigit() else None


class Vitals:
    """Reads the load; cpu is the mean since the last reading."""

    def __init__(self, root: Path = _root) -> None:
        self._root = root
        self._v2 = (root / "cgroup.controllers").exists()
        self._last: tuple[float, float] | None = None
        psutil.cpu_percent(None)

    def cpu_percent(self) -> float:
        """Return the use of cpu since the last call, 0 to 100."""
        cores, used_s = self._cpu_limit(), self._cpu_used_s()
        if cores is None or used_s is None:
            return min(100.0, psutil.cpu_percent(None))
        now = time.monotonic()
        last, self._last = self._last, (now, used_s)
        if last is None or now <= last[0]:
            return 0.0
        return max(0.0, min(100.0, 100.0 * (used_s - last[1]) / ((now - last[0]) * cores)))

    def memory_percent(self) -> float:
        """Return the use of memory, 0 to 100."""
        limit, used = self._memory()
        if limit is None or used is None or limit >= _unlimited:
            return float(psutil.virtual_memory().percent)
        return max(0.0, min(100.0, 100.0 * used / limit))

    def _cpu_limit(self) -> float | None:
        if self._v2:
            quota, _, period = _read(self._root / "cpu.max").partition(" ")
            return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None
        quota_us = _number(self._root / "cpu" / "cpu.cfs_quota_us")
        period_us = _number(self._root / "cpu" / "cpu.cfs_period_us")
        return quota_us / period_us if quota_us is not None and quota_us > 0 and period_us else None

    def _cpu_used_s(self) -> float | None:
        if self._v2:
            for line in _read(self._root / "cpu.stat").splitlines():
                name, _, value = line.partition(" ")
                if name == "usage_usec":
                    return int(value) / 1e6
            return None
        used_ns = _number(self._root / "cpuacct" / "cpuacct.usage")
        return used_ns / 1e9 if used_ns is not None else None

    def _memory(self) -> tuple[int | None, int | None]:
        if self._v2:
            return _number(self._root / "memory.max"), self._working_set(
                _number(self._root / "memory.current"), self._root / "memory.stat", "inactive_file"
            )
        memory = self._root / "memory"
        return _number(memory / "memory.limit_in_bytes"), self._working_set(
            _number(memory / "memory.usage_in_bytes"), memory / "memory.stat", "total_inactive_file"
        )

    @staticmethod
    def _working_set(used: int | None, stat: Path, name: str) -> int | None:
        """Leave out the file cache that the kernel would give back first; it is no sign of need."""
        if used is None:
            return None
        for line in _read(stat).splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return max(0, used - int(value))
        return used
