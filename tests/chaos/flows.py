"""The workflows of the load, and how each must end. A kind names a definition; so whoever reads a log knows the nodes."""

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from mainspring import Workflow
from mainspring.builder import NodeReference
from mainspring.graph import build_graph
from mainspring.workflow import Definition, Json, Retry
from mainspring_coordinator.simulate.wfformat import read_trace

_root: Final = Path(__file__).parents[2]
_shipped: Final = _root / "examples/wfformat/traces/small.json"
_found: Final = Path(os.environ.get("MAINSPRING_TRACES", _root.parent / "shared/data/wfinstances"))
_trace_tasks_max: Final = 400
_chains: Final = {"chain": 6, "pulse": 24}
"""How many nodes they have."""
_pulse_s: Final = 0.4
"""How long each node of a pulse takes: so that at any time most shards have work, and its going on tells that they are served."""
_fan_width: Final = 8
_shares: Final = {"chain": 30, "diamond": 30, "pulse": 14, "fan": 20, "stumble": 10, "fail": 4, "trace": 1.5}
"""How often each kind comes, relative to the others."""
_stumbles: Final = 2
_soon: Final = Retry(max_attempts=5, initial_ms=100, max_interval_ms=1_000)
_once: Final = Retry(max_attempts=1)
_trace_longest_s: Final = 3.0
"""A trace is run so fast that its longest chain, or its work over this many slots, takes this long."""
_trace_slots: Final = 16


@dataclass(frozen=True, slots=True)
class Ask:
    """One workflow to submit."""

    kind: str
    input: Json
    status: str
    """How it must end, unless it is cancelled."""
    value: int
    """What it must give, if it succeeds."""


def _given(*after: NodeReference, **more: object) -> dict[str, object]:
    return {"values": [one["value"] for one in after], "after": [one["run"] for one in after], **more}


def _chain(name: str, length: int) -> Workflow:
    flow = Workflow(name)
    last = flow.node("n0", "add", input={"values": [flow.input["n"]], "seconds": flow.input["seconds"]}, retry=_soon)
    for number in range(1, length):
        last = flow.node(f"n{number}", "add", input=_given(last, seconds=flow.input["seconds"]), retry=_soon)
    flow.output(last)
    return flow


def _diamond() -> Workflow:
    flow = Workflow("diamond")
    top = flow.node("top", "add", input={"values": [flow.input["n"]], "seconds": flow.input["seconds"]}, retry=_soon)
    sides = [flow.node(side, "add", input=_given(top, seconds=flow.input["seconds"]), retry=_soon) for side in "lr"]
    flow.output(flow.node("bottom", "add", input=_given(*sides), retry=_soon))
    return flow


def _fan() -> Workflow:
    flow = Workflow("fan")
    one = {"values": [flow.item], "seconds": flow.input["seconds"]}
    each = flow.map("each", "add", over=flow.input["items"], input=one, max_parallel=5, retry=_soon)
    every = {"values": each.path("[*].value"), "after": each.path("[*].run")}
    flow.output(flow.node("all", "add", input=every, retry=_soon))
    return flow


def _stumble() -> Workflow:
    flow = Workflow("stumble")
    one = {"values": [flow.input["n"]], "fails": flow.input["fails"], "seconds": flow.input["seconds"]}
    first = flow.node("first", "add", input=one, retry=_soon)
    flow.output(flow.node("last", "add", input=_given(first), retry=_soon))
    return flow


def _trace(path: Path) -> Definition:
    trace = read_trace(path.read_bytes())
    speedup = trace.bounds(_trace_slots, 1.0).makespan_s / _trace_longest_s
    return trace.definition(max(speedup, 1.0), executor="nap")


@cache
def trace_paths() -> Mapping[str, Path]:
    """Return the traces to run, by kind: the shipped one, and those found that are not too large for a loaded machine."""
    found = {f"trace:{path.stem}": path for path in [_shipped, *sorted(_found.glob("*.json"))]}
    return {kind: path for kind, path in found.items() if len(read_trace(path.read_bytes()).tasks) <= _trace_tasks_max}


@cache
def definition(kind: str) -> Definition:
    """Return the definition of a kind."""
    if kind in trace_paths():
        return _trace(trace_paths()[kind])
    if kind in _chains:
        return _chain(kind, _chains[kind]).definition()
    makers = {"diamond": _diamond, "fan": _fan, "stumble": _stumble, "fail": _stumble}
    return makers[kind]().definition()


@cache
def node_ids(kind: str) -> Sequence[str]:
    """Return the ids of a kind's nodes in the order in which the database numbers them."""
    return build_graph(definition(kind)).ids


@cache
def parents(kind: str) -> Mapping[str, Sequence[str]]:
    """Return whom each node waits for."""
    graph = build_graph(definition(kind))
    return {node: tuple(graph.ids[parent] for parent in graph.parents_of(graph.index[node])) for node in graph.ids}


def draw(chance: random.Random) -> Ask:
    """Return a workflow by chance."""
    n = chance.randrange(1000)
    # Mostly short, so that much happens; now and then long enough to be running through a fault.
    seconds = round(chance.choice([0.0, 0.02, 0.1, 0.3]) if chance.random() < 0.9 else chance.uniform(1.0, 4.0), 3)
    kind = chance.choices([*_shares], [*_shares.values()])[0]
    base: dict[str, Any] = {"n": n, "seconds": seconds}
    if kind == "trace":
        # A trace's nodes pass no values on; its output is that of the definition: how many nodes it has.
        kind = chance.choice(sorted(trace_paths()))
        return Ask(kind, {"n": n}, "SUCCEEDED", len(node_ids(kind)))
    if kind == "fan":
        items = [chance.randrange(100) for _ in range(_fan_width)]
        return Ask("fan", {"items": [*items], "seconds": seconds}, "SUCCEEDED", sum(items) + _fan_width + 1)
    if kind == "fail":
        return Ask("fail", {**base, "fails": -1}, "FAILED", 0)
    if kind == "stumble":
        return Ask("stumble", {**base, "fails": chance.randint(1, _stumbles)}, "SUCCEEDED", n + 2)
    if kind == "pulse":
        return Ask("pulse", {"n": n, "seconds": _pulse_s}, "SUCCEEDED", n + _chains["pulse"])
    return Ask(kind, base, "SUCCEEDED", n + _chains["chain"] if kind == "chain" else 2 * n + 5)
