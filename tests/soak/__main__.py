"""Let a cluster run for long under a steady load, and see that nothing grows: `python -m tests.soak --minutes 30`, also `make soak`."""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.cluster.running import RealCluster
from tests.servers.mariadb import MariadbServer
from tests.soak.load import Load
from tests.soak.report import Report
from tests.soak.samples import Sampler, Watched

_coordinators: Final = ("c1", "c2")
_workers: Final = ("w1", "w2")
_progress_s: Final = 10.0
_settings: Final = {
    "HEARTBEAT_INTERVAL": "30000",
    "FAILURE_DETECTION_TIMEOUT": "90000",
    "DISTRIBUTED_MODE": "true",
    "LOG_LEVEL": "warning",
}


async def soak(folder: Path, seconds: float, warm_up_s: float, peak_s: float, share: float) -> Report:
    """Start a cluster, measure its peak, and hold it at a share of that."""
    with MariadbServer() as server:
        async with RealCluster(server.url(server.new_database("soak")), folder, **_settings) as cluster:
            watched: list[Watched] = []
            for name in _coordinators:
                process = await cluster.coordinator(name)
                watched.append(Watched(name, process.pid, cluster.http(name)))
            for name in _workers:
                process = await cluster.worker(name, slots=64, MAX_CONCURRENT_WORKFLOWS="10000")
                watched.append(Watched(name, process.pid))
            client = cluster.client()
            await cluster.owned(client, c1=8, c2=8)
            load, sampler, over = Load(client), Sampler(server, watched), asyncio.Event()
            peak = await load.peak(peak_s)
            rate = share * peak
            _tell(f"the peak is {peak:.0f} workflows a second; {rate:.0f} a second for {seconds:.0f} s from now on")
            before = load.done
            background = [
                asyncio.create_task(sampler.run(over)),
                asyncio.create_task(_progress(load, sampler, seconds)),
            ]
            try:
                await load.steady(rate, seconds)
            finally:
                over.set()
                background[1].cancel()
                await asyncio.gather(*background, return_exceptions=True)
            if (error := background[0].exception()) is not None:
                raise error
            return Report(
                peak, rate, load.done - before, load.held_back, warm_up_s, sampler.times, watched, load.faults
            )


async def _progress(load: Load, sampler: Sampler, seconds: float) -> None:
    began = time.monotonic()
    while True:
        await asyncio.sleep(_progress_s)
        memory = ", ".join(f"{one.name} {one.values['memory'][-1]:.0f}" for one in sampler.watched if one.values)
        left_s = seconds - (time.monotonic() - began)
        _tell(
            f"{left_s:.0f} s left; {load.done} done, {load.under_way} under way, {len(load.faults)} faults; MiB: {memory}"
        )


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Run; 0 if nothing grows and nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="how long the load goes on (30)")
    parser.add_argument(
        "--warm-up", type=float, help="seconds that are left out of the judgement (a third, at most 600)"
    )
    parser.add_argument("--peak-seconds", type=float, default=20, help="how long the peak is measured (20)")
    parser.add_argument("--share", type=float, default=0.5, help="of the peak, how much the load is (0.5)")
    parser.add_argument(
        "--report", type=Path, help="a folder for soak.md, soak.json and soak.png (a new one, which is named)"
    )
    options = parser.parse_args()
    if reason := MariadbServer.missing():
        parser.error(reason)
    seconds = options.minutes * 60
    warm_up_s = options.warm_up if options.warm_up is not None else min(seconds / 3, 600.0)
    logs = Path(tempfile.mkdtemp(prefix="mainspring-soak-"))
    report_folder: Path = options.report if options.report is not None else logs
    report_folder.mkdir(parents=True, exist_ok=True)
    _tell(f"MINUTES={options.minutes:g}; logs: {logs}")
    report = asyncio.run(soak(logs, seconds, warm_up_s, options.peak_seconds, options.share))
    (report_folder / "soak.json").write_text(report.to_json())
    (report_folder / "soak.md").write_text(report.to_text() + "\n")
    report.picture(report_folder / "soak.png")
    print(report.to_text(), flush=True)
    print(f"the report is in {report_folder}")
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(main())
