"""What a choice of a worker costs, and what a node takes that waits: the engine alone, in one thread, with no network and no database.

    make bench-placement [ARGS=--json]

Each strategy is measured in a small cluster and in a large one, whose nodes wait as instances of `map` nodes or in many workflows. All
workers have room all the time. Times are CPU times of the thread; a choice includes the assignment that it leads to.
"""

import argparse
import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final
from unittest.mock import patch

from mainspring.definition import definition_from_json
from mainspring_coordinator.engine import dispatch
from mainspring_coordinator.engine.config import EngineConfig
from mainspring_coordinator.engine.effects import Assign, Effect
from mainspring_coordinator.engine.events import (
    CreditSet,
    Event,
    Inventory,
    LoadReported,
    ResultItem,
    Results,
    ShardReady,
    ShardTaken,
    Submit,
    Tick,
    WorkerAttached,
)
from mainspring_coordinator.engine.placement import strategies, strategy_names
from mainspring_coordinator.engine.placement.affinities import Affinities
from mainspring_coordinator.engine.plan import Plan, compile_plan
from mainspring_coordinator.engine.status import NodeStatus
from mainspring_coordinator.engine.step import Engine

_NOW_US: Final = 10**15
_CHOICES: Final = 100
_WARM: Final = 20
_TRIES: Final = 5
"""The median of so many is told."""
_A_STEP: Final = 10
"""Choices; no more than the small cluster has workflows, so that each is of another one there too."""
_NODES_A_WORKFLOW: Final = 100
_MAP_WIDTH: Final = 100_000


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured."""

    shape: str
    workers: int
    nodes: int


_CASES: Final = (
    Case("map", 10, 1_000),
    Case("map", 10_000, 1_000_000),
    Case("workflows", 10, 1_000),
    Case("workflows", 10_000, 1_000_000),
)


class Cluster:
    """An engine with workers that never lack room."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.engine = Engine(EngineConfig())
        self.roots: list[Assign] = []
        self._seq = 0
        self.slots = 10 * _TRIES * len(strategy_names) * _CHOICES // case.workers + 100
        self.step(ShardTaken(0, 1, _NOW_US, "e" * 32))
        self.step(ShardReady(0))

    def step(self, event: Event) -> list[Effect]:
        """Feed an event, and do what it leads to."""
        effects = self.engine.step(event, _NOW_US)
        while self.engine.busy:
            effects += self.engine.step(Tick(), _NOW_US)
        self.engine.cut()
        return effects

    def attach(self) -> None:
        """Attach all workers, without credit."""
        for session in range(1, self.case.workers + 1):
            executors = frozenset(["work", "other", "third"][: 1 + session % 3])
            name, host, zone = f"worker-{session}", f"host-{session // 4}", f"zone-{session % 3}"
            labels = {"unique": name}
            self.step(
                WorkerAttached(session, name, f"{session:032x}", host, zone, labels, executors, self.slots, 10**6)
            )
            self.step(Inventory(session, 0, 1, (), (), (), 0))
            self.step(LoadReported(session, session * 7 % 100, session * 13 % 100))

    def credit(self, limit: int) -> None:
        """Set the credit of all workers; what is assigned meanwhile is kept, so that it can be ended."""
        self._seq += 1
        for session in range(1, self.case.workers + 1):
            effects = self.engine.step(CreditSet(session, self._seq, limit), _NOW_US)
            self.engine.cut()
            self.roots += [effect for effect in effects if isinstance(effect, Assign)]

    def submit(self) -> None:
        """Submit all nodes."""
        if self.case.shape == "map":
            plan = _plan([{"id": "m", "executor": "work", "map": {"over": "${input}"}}])
            width = min(_MAP_WIDTH, self.case.nodes)
            count, value = self.case.nodes // width, b"[" + b",".join([b"0"] * width) + b"]"
        else:
            first: list[dict[str, Any]] = [{"id": "n0", "executor": "work"}]
            rest = [{"id": f"n{at}", "executor": "work", "input": "${n0}"} for at in range(1, _NODES_A_WORKFLOW)]
            plan, count, value = _plan(first + rest), self.case.nodes // _NODES_A_WORKFLOW, b"null"
        for number in range(count):
            self.step(Submit(number, 0, f"workflow-{number}", plan, value, b"%d" % number, "load-balanced"))

    def make_ready(self) -> None:
        """Run what all others wait for."""
        if self.case.shape == "map":
            return
        self.credit(self.slots)
        while not self.engine.state.ready.waiting and self.engine.busy:
            self.step(Tick())
        self.roots += [effect for effect in self.step(Tick()) if isinstance(effect, Assign)]
        self.credit(0)
        for assign in self.roots:
            item = ResultItem(0, assign.assignment, NodeStatus.SUCCEEDED, b"1", None, 1)
            self.step(Results(assign.session, (item,)))

    def open(self) -> None:
        """Give all workers room, and hardly anything to do before the measurement."""
        self.engine.state.config = replace(self.engine.state.config, step_nodes=1)
        self.credit(self.slots)

    def choose(self, strategy: str) -> float:
        """Return the microseconds of a choice by a strategy."""
        # Private, but the alternative is to build a million nodes for each strategy.
        self.engine._strategies = {**strategies, "": strategies[strategy]}  # noqa: SLF001
        self.engine.state.config = replace(self.engine.state.config, step_nodes=_A_STEP)
        spent, made = 0, 0
        original = dispatch.dispatch

        def timed(*given: Any) -> bool:
            nonlocal spent
            begun = time.thread_time_ns()
            try:
                return original(*given)
            finally:
                spent += time.thread_time_ns() - begun

        with patch.object(dispatch, "dispatch", timed):
            for least in (_WARM, _CHOICES):
                spent = made = 0
                while made < least:
                    # So that each key is hashed anew, which is what costs most. Instances of a `map` have one key, and hash it once.
                    if self.case.shape == "workflows":
                        self.engine.state.affinities = Affinities()
                    effects = self.engine.step(Tick(), _NOW_US)
                    found = sum(isinstance(effect, Assign) for effect in effects)
                    if not found:
                        raise RuntimeError(f"{strategy} finds no worker in {self.case}")
                    made += found
                    self.engine.cut()
        return spent / made / 1_000


def _plan(nodes: Sequence[dict[str, Any]]) -> Plan:
    return compile_plan(definition_from_json({"name": "bench", "nodes": list(nodes), "output": 1}))


def measure(case: Case) -> dict[str, float]:
    """Return the microseconds of a choice, by strategy."""
    found: dict[str, list[float]] = {strategy: [] for strategy in strategy_names}
    cluster: Cluster | None = None
    for _ in range(_TRIES):
        # A small cluster is used up by one measurement of each.
        if cluster is None or case.nodes < _TRIES * len(strategy_names) * 2 * _CHOICES:
            cluster = Cluster(case)
            cluster.attach()
            cluster.submit()
            cluster.make_ready()
            cluster.open()
        for strategy, times in found.items():
            times.append(cluster.choose(strategy))
    return {strategy: round(median(times), 2) for strategy, times in found.items()}


def bytes_a_node(shape: str) -> float:
    """Return what a pending node takes, without payloads: the input of a `map` is counted off."""
    case = Case(shape, 1, 100_000)
    cluster = Cluster(case)
    tracemalloc.start()
    cluster.submit()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return round(used / case.nodes, 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    asked = parser.parse_args()
    begun = time.monotonic()
    gc.set_threshold(50_000, 20, 1_000)  # as a coordinator does; a full collection would be measured instead
    choices = [(case, measure(case)) for case in _CASES]
    taken = {shape: bytes_a_node(shape) for shape in ("map", "workflows")}
    ratios = {
        f"{small.shape}/{name}": round(large_us[name] / small_us[name], 2)
        for (small, small_us), (_, large_us) in zip(choices[::2], choices[1::2], strict=True)
        for name in strategy_names
    }
    if asked.json:
        cases = [{"shape": c.shape, "workers": c.workers, "nodes": c.nodes, "choice_us": us} for c, us in choices]
        json.dump({"cases": cases, "ratios": ratios, "bytes_a_pending_node": taken}, sys.stdout, indent=2)
        print()
        return
    print(f"{'microseconds a choice':44}" + "".join(f"{name:>15}" for name in strategy_names))
    for case, us in choices:
        name = f"{case.shape}, {case.workers:,} workers, {case.nodes:,} nodes"
        print(f"{name:44}" + "".join(f"{us[strategy]:15.1f}" for strategy in strategy_names))
    print(f"large to small, at most {max(ratios.values()):.2f}; bytes a pending node: {taken}")
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
