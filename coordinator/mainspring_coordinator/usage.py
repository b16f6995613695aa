"""How much of its cpu and memory this process's container uses, or its host where nothing limits it; in percent."""

from pathlib import Path
from typing import Final

import psutil

from mainspring.clock import BootClock, Clock

_CGROUP: Final = Path("/sys/fs/cgroup")


class Usage:
    """Reads the kernel's counters; cpu is the mean since the reading before."""

    def __init__(self, cgroup: Path = _CGROUP, clock: Clock | None = None) -> None:
        self._cgroup = cgroup
        self._clock = clock or BootClock()
        self._process = psutil.Process()
        self._cpu_percent = 0.0
        self._read_us = self._clock.now_us()
        self._used_us = self._cgroup_cpu_us()
        psutil.cpu_percent(None)  # the first call only sets the mark for the next

    def cpu_percent(self) -> float:
        """Return 0 to 100; of the container's limit where there is one."""
        now_us = self._clock.now_us()
        if now_us - self._read_us >= 500_000:  # two readers at once must not measure a moment of nothing
            self._cpu_percent = self._measure_cpu(now_us - self._read_us)
            self._read_us = now_us
        return self._cpu_percent

    def memory_percent(self) -> float:
        """Return 0 to 100; of the container's limit where there is one."""
        limit = self._number("memory.max")
        used = self._number("memory.current")
        if limit and used is not None:
            return min(100.0, 100.0 * max(0, used - self._statistic("memory.stat", "inactive_file")) / limit)
        return float(psutil.virtual_memory().percent)

    def memory_bytes(self) -> dict[str, int]:
        """Return what the process itself holds: rss and vms."""
        info = self._process.memory_info()
        return {"rss": info.rss, "vms": info.vms}

    def _measure_cpu(self, passed_us: int) -> float:
        limit = self._read("cpu.max").split()
        if len(limit) == 2 and limit[0].isdigit() and int(limit[1]) > 0:
            before_us, self._used_us = self._used_us, self._cgroup_cpu_us()
            allowed_us = passed_us * int(limit[0]) / int(limit[1])
            return max(0.0, min(100.0, 100.0 * (self._used_us - before_us) / allowed_us))
        return float(psutil.cpu_percent(None))

    def _cgroup_cpu_us(self) -> int:
        return self._statistic("cpu.stat", "usage_usec")

    def _statistic(self, file: str, key: str) -> int:
        for line in self._read(file).splitlines():
            name, _, value = line.partition(" ")
            if name == key and value.isdigit():
                return int(value)
        return 0

    def _number(self, file: str) -> int | None:
        text = self._read(file).strip()
        return int(text) if text.isdigit() else None

    def _read(self, file: str) -> str:
        try:
            return (self._cgroup / file).read_text()
        except OSError:  # no such controller here: the host's figures count
            return ""
