"""What a simulation shows: how long it took against what no schedule can beat, who waited, and where things ran."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mainspring_coordinator.simulate.cluster import Arrival, Ran
from mainspring_coordinator.simulate.fleet import SimulatedWorker


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one strategy; times in seconds."""

    strategy: str
    makespan_s: float
    """From the first submit to the last end."""
    bound_s: float
    """No schedule can be faster."""
    workflow_mean_s: float
    """From submit to end, the mean of all workflows."""
    wait_p50_s: float
    """From when a node could start to when it did."""
    wait_p95_s: float
    wait_max_s: float
    busy: float
    """The share of all slots' time that was used, 0 to 1."""
    imbalance: float
    """How much busier than the mean the busiest worker was, by the share of its slots; 1: all alike."""
    moved_bytes: int
    """Of files that were made on one host and used on another."""
    spread: int
    """How many workflows ran on more than one worker."""
    workflows: int
    nodes: int

    @property
    def over_bound(self) -> float:
        """The makespan as a multiple of the bound."""
        return self.makespan_s / self.bound_s if self.bound_s else 1.0


def bound_us(fleet: Sequence[SimulatedWorker], arrivals: Sequence[Arrival]) -> float:
    """Return what no schedule can beat: all work over all slots, and each workflow's longest chain on the fastest worker.

    After the classic bounds of list scheduling (Graham, 1969), for slots of different speeds. Who can run what is left out, so
    that a fleet of specialists may be far from it.
    """
    capacity = sum(worker.slots * worker.speed for worker in fleet)
    fastest = max(worker.speed for worker in fleet)
    chains: dict[int, int] = {}
    for arrival in arrivals:
        if id(arrival.recording) not in chains:
            chains[id(arrival.recording)] = arrival.recording.critical_path_us()
    longest = max((arrival.at_us + chains[id(arrival.recording)] / fastest for arrival in arrivals), default=0.0)
    return max(longest, sum(arrival.recording.work_us for arrival in arrivals) / capacity)


def figures_of(
    strategy: str, fleet: Sequence[SimulatedWorker], arrivals: Sequence[Arrival], ran: Sequence[Ran], moved_bytes: int
) -> Figures:
    """Work the figures out from what ran."""
    waits = sorted(one.started_us - one.ready_us for one in ran)
    makespan_us = max((one.ended_us for one in ran), default=0)
    ends: dict[int, int] = defaultdict(int)
    on: dict[int, set[int]] = defaultdict(set)
    worked: dict[int, int] = defaultdict(int)
    for one in ran:
        ends[one.workflow] = max(ends[one.workflow], one.ended_us)
        on[one.workflow].add(one.worker)
        worked[one.worker] += one.ended_us - one.started_us
    shares = [worked[number] / worker.slots for number, worker in enumerate(fleet)]
    mean = sum(shares) / len(shares)
    slots = sum(worker.slots for worker in fleet)
    return Figures(
        strategy=strategy,
        makespan_s=makespan_us / 1e6,
        bound_s=bound_us(fleet, arrivals) / 1e6,
        workflow_mean_s=sum(ends[n] - arrivals[n].at_us for n in ends) / max(1, len(ends)) / 1e6,
        wait_p50_s=_at(waits, 0.5) / 1e6,
        wait_p95_s=_at(waits, 0.95) / 1e6,
        wait_max_s=_at(waits, 1.0) / 1e6,
        busy=sum(worked.values()) / (slots * makespan_us) if makespan_us else 0.0,
        imbalance=max(shares) / mean if mean else 1.0,
        moved_bytes=moved_bytes,
        spread=sum(len(workers) > 1 for workers in on.values()),
        workflows=len(arrivals),
        nodes=len(ran),
    )


def _at(values: Sequence[int], share: float) -> int:
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0
