"""How long the cluster took to recover from each fault. Pure."""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.chaos.books import ShardBook
from tests.chaos.evidence import Inflicted, Key
from tests.chaos.faults import Cast, Kind
from tests.cluster.effects import Effect

_killed: Final = (Kind.KILL_COORDINATOR,)
_hung: Final = (Kind.HANG_COORDINATOR, Kind.CUT_FROM_DATABASE)
_workers_gone: Final = (Kind.KILL_WORKER, Kind.HANG_WORKER, Kind.CUT_WORKER)
_databases_gone: Final = (Kind.KILL_DATABASE, Kind.PAUSE_DATABASE)
_rest_ns: Final = 5_000_000_000
"""For so long after its end a fault may still slow a recovery."""


@dataclass(frozen=True, slots=True)
class Times:
    """Times of one kind, in seconds, sorted; `alone`: of those faults while which nothing else was done that slows recovery."""

    all: Sequence[float]
    alone: Sequence[float]
    worst: str = ""
    """The fault and what took longest."""


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile of sorted values, by the nearest rank."""
    return values[max(0, math.ceil(share * len(values)) - 1)]


class _Collected:
    def __init__(self) -> None:
        self.all = defaultdict[str, list[float]](list)
        self.alone = defaultdict[str, list[float]](list)
        self._worst = dict[str, tuple[float, str]]()

    def add(self, what: str, seconds: float, whose: str, *, alone: bool) -> None:
        self.all[what].append(seconds)
        self._worst[what] = max(self._worst.get(what, (0.0, "")), (seconds, whose))
        if alone:
            self.alone[what].append(seconds)

    def times(self) -> dict[str, Times]:
        return {
            what: Times(sorted(found), sorted(self.alone[what]), self._worst[what][1])
            for what, found in sorted(self.all.items())
        }


def recoveries(
    faults: Sequence[Inflicted], cast: Cast, shards: ShardBook, effects: Sequence[Effect]
) -> dict[str, Times]:
    """Return times by what they are of."""
    collected = _Collected()
    # What is done to workers does not slow a takeover, and what is done to clients slows nothing.
    core = [fault for fault in faults if fault.target in (*cast.coordinators, cast.database)]
    for fault in core:
        if fault.kind in (*_killed, *_hung):
            _takeover(fault, core, shards, collected)
        elif fault.kind in _databases_gone:
            _outage(fault, core, shards, collected)
    _deaths_of_workers([fault for fault in faults if fault.target not in cast.clients], effects, collected)
    return collected.times()


def _takeover(fault: Inflicted, faults: Sequence[Inflicted], shards: ShardBook, collected: _Collected) -> None:
    """From the fault until the last of its shards has a new owner, and until the first of them commits again."""
    taken_ns: dict[int, int] = {}
    commits_ns: list[int] = []
    for taken in shards.taken:
        epoch = fault.held.get(taken.shard)
        if epoch is not None and taken.at_ns > fault.began_ns and taken.epoch > epoch and taken.holder:
            taken_ns.setdefault(taken.shard, taken.at_ns)
            committed_ns = shards.committed_ns.get((taken.shard, taken.epoch))
            if committed_ns is not None:
                commits_ns.append(committed_ns)
    if not fault.held or len(taken_ns) < len(fault.held) or min(taken_ns.values()) > fault.ended_ns + 1_000_000_000:
        return  # it came back before anybody had to take over
    of = "killed" if fault.kind in _killed else "hung or cut-off"
    end_ns = max(taken_ns.values())
    alone = _alone(fault, faults, end_ns)
    collected.add(f"{of} coordinator: all its shards taken", (end_ns - fault.began_ns) / 1e9, fault.name, alone=alone)
    if commits_ns:
        first_s = (min(commits_ns) - fault.began_ns) / 1e9
        collected.add(f"{of} coordinator: first commit on its shards", first_s, fault.name, alone=alone)


def _outage(fault: Inflicted, faults: Sequence[Inflicted], shards: ShardBook, collected: _Collected) -> None:
    """From the database's return until the first commit."""
    commit_ns = next((at_ns for at_ns in shards.commits_ns if at_ns > fault.ended_ns), None)
    if commit_ns is not None:
        alone = _alone(fault, faults, commit_ns)
        collected.add("database back: first commit", (commit_ns - fault.ended_ns) / 1e9, fault.name, alone=alone)


def _deaths_of_workers(faults: Sequence[Inflicted], effects: Sequence[Effect], collected: _Collected) -> None:
    """From a worker's loss until what it ran starts elsewhere."""
    starts = defaultdict[Key, list[Effect]](list)
    for effect in effects:
        if effect.act == "start":
            starts[effect.key].append(effect)
    gone = [fault for fault in faults if fault.kind in _workers_gone]
    for found in starts.values():
        for first, again in itertools.pairwise(found):
            if again.attempt != first.attempt or again.worker == first.worker:
                continue
            fault = next(
                (one for one in gone if one.target == first.worker and first.at_ns <= one.began_ns <= again.at_ns), None
            )
            if fault is not None:
                alone = _alone(fault, faults, again.at_ns)
                of = "killed" if fault.kind == Kind.KILL_WORKER else "hung or cut-off"
                seconds = (again.at_ns - fault.began_ns) / 1e9
                whose = f"{fault.name}, {'/'.join(map(str, first.key))}"
                collected.add(f"{of} worker: its nodes start elsewhere", seconds, whose, alone=alone)


def _alone(fault: Inflicted, faults: Sequence[Inflicted], until_ns: int) -> bool:
    return not any(
        other is not fault and other.began_ns <= until_ns and other.ended_ns + _rest_ns >= fault.began_ns
        for other in faults
    )
