"""Compares the strategies on recorded workflows by simulation; writes the tables of docs/placement.md.

    make bench-strategies [TRACES=FOLDER] [ARGS=--json]

The fleets are uneven, so that a strategy that counts workers and not slots shows. First each trace has a fleet to itself; then small ones
arrive as a stream. All times are virtual, and the same on every machine.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

from mainspring.workflow import strategies
from mainspring_coordinator.engine.config import EngineConfig
from mainspring_coordinator.simulate.cluster import Arrival, SimulatedCluster
from mainspring_coordinator.simulate.figures import Figures, figures_of
from mainspring_coordinator.simulate.fleet import SimulatedWorker
from mainspring_coordinator.simulate.recording import Recording
from mainspring_coordinator.simulate.wfformat import read_trace

_ROOT: Final = Path(__file__).parents[1]
_FLEETS: Final = {4: (2, 1, 1), 16: (8, 4, 2, 2), 64: (32, 16, 8, 4, 4)}
_HOP_US: Final = 2_000
_STREAM: Final = 60
"""So many workflows make a stream."""
_STREAM_FILL: Final = 0.5
"""How much of all slots a stream keeps busy."""
_SMALL: Final = 20
"""Nodes; larger workflows do not come in streams."""
_SHIPPED: Final = _ROOT / "examples/wfformat/traces/small.json"
"""Comes in streams only."""


@dataclass(frozen=True, slots=True)
class Row:
    """One strategy on one fleet, over all traces."""

    slots: int
    strategy: str
    median_over_bound: float
    worst_over_bound: float
    median_wait_s: float
    moved_gb: float
    spread: int
    stream_mean_s: float
    stream_moved_gb: float
    stream_spread: int


def fleet_of(slots: int) -> list[SimulatedWorker]:
    """Return uneven workers, each on a host of its own, in two zones."""
    sizes = enumerate(_FLEETS[slots], 1)
    return [SimulatedWorker(f"w{n}", size, host=f"host-{n}", zone="ab"[n % 2]) for n, size in sizes]


def simulated(strategy: str, fleet: Sequence[SimulatedWorker], arrivals: Sequence[Arrival]) -> Figures:
    """Run a workload."""
    cluster = SimulatedCluster(fleet, arrivals, EngineConfig(strategy=strategy), hop_us=_HOP_US)
    cluster.run()
    assert len(cluster.ended_us) == len(arrivals), "a workflow has not ended"
    return figures_of(strategy, fleet, arrivals, cluster.ran, cluster.moved_bytes)


def stream_of(recordings: Sequence[Recording], slots: int) -> list[Arrival]:
    """Return small workflows in turn, as often as keeps the slots busy for the most part."""
    small = [recording for recording in recordings if len(recording.run_us) <= _SMALL]
    small.append(read_trace(_SHIPPED.read_bytes()).recording())
    work_us = sum(recording.work_us for recording in small) / len(small)
    every_us = work_us / slots / _STREAM_FILL
    return [Arrival(round(n * every_us), small[n % len(small)]) for n in range(_STREAM)]


def rows_of(recordings: Sequence[Recording]) -> Iterator[Row]:
    """Yield a row for each fleet and strategy."""
    for slots in _FLEETS:
        fleet, stream = fleet_of(slots), stream_of(recordings, slots)
        for strategy in strategies:
            alone = [simulated(strategy, fleet, [Arrival(0, recording)]) for recording in recordings]
            together = simulated(strategy, fleet, stream)
            yield Row(
                slots,
                strategy,
                median(one.over_bound for one in alone),
                max(one.over_bound for one in alone),
                median(one.wait_p50_s for one in alone),
                sum(one.moved_bytes for one in alone) / 1e9,
                sum(one.spread for one in alone),
                together.workflow_mean_s,
                together.moved_bytes / 1e9,
                together.spread,
            )
            print(f"{slots} slots, {strategy}", file=sys.stderr, flush=True)


def markdown(rows: Sequence[Row], traces: int) -> str:
    """Return the table as docs/placement.md has it."""
    heads = [
        *(
            "slots",
            "strategy",
            f"makespan / bound, median of {traces}",
            "worst",
            "median wait, s",
            "moved, GB",
            "on several workers",
        ),
        *("stream: mean, s", "moved, GB", f"on several workers of {_STREAM}"),
    ]
    lines = [f"| {' | '.join(heads)} |", f"| ---: | --- |{' ---: |' * (len(heads) - 2)}"]
    lines += [
        f"| {row.slots} | {row.strategy} | {row.median_over_bound:.3f} | {row.worst_over_bound:.3f} | {row.median_wait_s:.1f} | "
        f"{row.moved_gb:.1f} | {row.spread} | {row.stream_mean_s:,.0f} | {row.stream_moved_gb:.2f} | {row.stream_spread} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = _ROOT.parent / "shared/data/wfinstances"
    parser.add_argument(
        "--traces", type=Path, default=Path(os.environ.get("MAINSPRING_TRACES", shared)), help="a folder"
    )
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON document instead of the table")
    options = parser.parse_args()
    paths = sorted(options.traces.glob("*.json"))
    if not paths:
        parser.error(f"no traces in {options.traces}; MAINSPRING_TRACES or --traces names a folder of WfFormat files")
    recordings = [read_trace(path.read_bytes()).recording() for path in paths]
    rows = list(rows_of(recordings))
    print(json.dumps([asdict(row) for row in rows], indent=2) if options.as_json else markdown(rows, len(recordings)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
