"""One coordinator's engine and its workers on virtual time: what is assigned runs for as long as was recorded, and then the next.

The engine is the one that coordinators run, and everything reaches it as an event, as it does there. What is left out is what does not
decide who gets what: the database and the network take `hop_us` together, nothing fails, and every node is tried once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Final

import orjson

from mainspring_coordinator.engine.config import EngineConfig
from mainspring_coordinator.engine.effects import Assign, Effect, Ended, GrantPermits, LoadOutputs, StatePermits
from mainspring_coordinator.engine.events import (
    CreditSet,
    Event,
    Inventory,
    LoadReported,
    OutputsLoaded,
    PermitsGranted,
    PermitsStated,
    ResultItem,
    Results,
    ShardReady,
    ShardTaken,
    Submit,
    Tick,
    WorkerAttached,
)
from mainspring_coordinator.engine.plan import Plan, compile_plan
from mainspring_coordinator.engine.status import NodeStatus
from mainspring_coordinator.engine.step import Engine
from mainspring_coordinator.simulate.fleet import SimulatedWorker
from mainspring_coordinator.simulate.recording import Recording

_begin_us: Final = 1_000_000_000
_load_after_us: Final = 1_000_000
"""How long after something began or ended a worker reports its load, as real ones do."""
_workflows_max: Final = 100
"""MAX_CONCURRENT_WORKFLOWS of each worker."""
_noticeable: Final = 5.0
"""Percent; smaller moves of the load are not reported."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A workflow that is submitted at a time."""

    at_us: int
    """After the begin."""
    recording: Recording
    """What it is."""


@dataclass(frozen=True, slots=True)
class Ran:
    """One attempt; times after the begin."""

    workflow: int
    """By number of its arrival."""
    node: str
    instance: int
    worker: int
    """By number in the fleet."""
    slot: int
    ready_us: int
    started_us: int
    ended_us: int


@dataclass(slots=True)
class _Open:
    """A workflow under way."""

    number: int
    recording: Recording
    plan: Plan
    remaining: list[int]
    """By node: how many parents have not ended."""
    ready_us: dict[str, int] = field(default_factory=dict[str, int])
    """By node: when it could have started."""
    begun: set[str] = field(default_factory=set[str])
    """The nodes of which something was started."""
    made: dict[str, tuple[str, int]] = field(default_factory=dict[str, tuple[str, int]])
    """By file that was made: the host that made it, and its bytes."""
    fetched: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    """(File, host) that it was brought to."""
    left: dict[str, int] = field(default_factory=dict[str, int])
    """By `map` node: how many instances have not ended."""


@dataclass(slots=True)
class _Worker:
    """A worker under way."""

    about: SimulatedWorker
    session: int
    free: list[int]
    """Its free slots, lowest first."""
    reported: float = 0.0
    report_due: bool = False


class SimulatedCluster:
    """Runs a workload to its end, once."""

    def __init__(
        self,
        fleet: Sequence[SimulatedWorker],
        arrivals: Sequence[Arrival],
        config: EngineConfig,
        *,
        hop_us: int,
        bytes_a_s: float = 0.0,
        progress: Callable[[int], None] = lambda _ended: None,
    ) -> None:
        """`bytes_a_s`: how fast files go from host to host, 0 for no time at all; `progress` is told how many nodes have ended."""
        self.ran: list[Ran] = []
        self.moved_bytes = 0
        """Bytes of files that were made on one host and used on another."""
        self.ended_us: dict[int, int] = {}
        """By number of the arrival: when its workflow ended."""
        self._engine = Engine(config)
        self._hop_us = hop_us
        self._bytes_a_s = bytes_a_s
        self._progress = progress
        self._now_us = _begin_us
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()
        self._ended_count = 0
        self._plans: dict[int, Plan] = {}
        """By identity of the recording."""
        self._open: dict[str, _Open] = {}
        self._workers: dict[int, _Worker] = {}
        self._step(ShardTaken(0, 1, self._now_us, "simulated"))
        self._step(ShardReady(0))
        everything = frozenset(node.executor for arrival in arrivals for node in arrival.recording.definition.nodes)
        for session, about in enumerate(fleet, 1):
            self._attach(session, about, everything if about.executors is None else about.executors)
        for number, arrival in enumerate(arrivals):
            self._at(_begin_us + arrival.at_us, partial(self._submit, number, arrival.recording))

    def run(self, *, until: Callable[[], bool] = lambda: False) -> None:
        """Run until nothing is left to happen; what `ended_us` lacks then waits for a worker that this fleet does not have.

        Or until `until` says so, which is asked after each moment.
        """
        while (self._agenda or self._open) and not until():
            due_us = self._engine.next_due_us()
            if self._agenda and (due_us is None or self._agenda[0][0] <= due_us):
                self._now_us, _, act = heappop(self._agenda)
                act()
            elif due_us is not None:
                self._now_us = max(self._now_us, due_us)
                self._step(Tick())
            else:
                return

    @property
    def waiting(self) -> list[tuple[int, str]]:
        """The (arrival, node) that wait for a worker, at most one of each workflow."""
        return [
            (flow.number, next(node for node in flow.ready_us if node not in flow.begun))
            for flow in self._open.values()
        ]

    # -- the engine --------------------------------------------------------------------------------------------------------

    def _step(self, event: Event) -> None:
        engine = self._engine
        effects = engine.step(event, self._now_us)
        while engine.busy:
            effects += engine.step(Tick(), self._now_us)
        engine.cut()
        for effect in effects:
            self._do(effect)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Assign():
                self._at(self._now_us + self._hop_us, partial(self._begin, effect))
            case LoadOutputs():
                loaded = OutputsLoaded(effect.shard, effect.workflow_id, dict.fromkeys(effect.nodes, b"null"))
                self._at(self._now_us, partial(self._step, loaded))
            case StatePermits():
                self._at(self._now_us, partial(self._step, PermitsStated(0, effect.statement)))
            case GrantPermits():
                self._at(self._now_us, partial(self._step, PermitsGranted(0, effect.reply)))
            case Ended():
                flow = self._open.pop(effect.workflow_id)
                self.ended_us[flow.number] = self._now_us - _begin_us
            case _:
                pass  # rows, acknowledgements and what else no worker acts upon here

    def _at(self, at_us: int, act: Callable[[], None]) -> None:
        heappush(self._agenda, (at_us, next(self._order), act))

    def _submit(self, number: int, recording: Recording) -> None:
        plan = self._plans.get(id(recording))
        if plan is None:
            plan = self._plans[id(recording)] = compile_plan(recording.definition)
        workflow_id = f"{recording.name}-{number}"
        flow = _Open(number, recording, plan, list(plan.indegree))
        flow.left = dict(recording.widths)
        self._make_ready(flow, plan.graph.roots)
        self._open[workflow_id] = flow
        data = orjson.dumps(recording.input)
        self._step(Submit(number + 1, 0, workflow_id, plan, data, plan.hash, plan.strategy))

    # -- the workers -------------------------------------------------------------------------------------------------------

    def _attach(self, session: int, about: SimulatedWorker, executors: frozenset[str]) -> None:
        self._workers[session] = _Worker(about, session, list(range(about.slots)))
        labels, slots = about.labels, about.slots
        incarnation = f"{session:032x}"
        self._step(
            WorkerAttached(
                session, about.name, incarnation, about.host, about.zone, labels, executors, slots, _workflows_max
            )
        )
        self._step(Inventory(session, 0, 1, (), (), (), 0))
        self._step(CreditSet(session, 1, slots))

    def _begin(self, assign: Assign) -> None:
        flow, worker = self._open[assign.workflow_id], self._workers[assign.session]
        flow.begun.add(assign.node_id)
        slot = heappop(worker.free)
        moved = self._fetch(flow, assign.node_id, worker.about.host)
        self.moved_bytes += moved
        takes_us = flow.recording.run_us[assign.node_id, assign.instance] / worker.about.speed
        if self._bytes_a_s:
            takes_us += moved / self._bytes_a_s * 1e6
        end_us = self._now_us + round(takes_us)
        self.ran.append(
            Ran(
                flow.number,
                assign.node_id,
                assign.instance,
                worker.session - 1,
                slot,
                flow.ready_us[assign.node_id] - _begin_us,
                self._now_us - _begin_us,
                end_us - _begin_us,
            )
        )
        self._at(end_us, partial(self._end, assign, flow, worker, slot))
        self._load_changed(worker)

    def _fetch(self, flow: _Open, node: str, host: str) -> int:
        """Bring what a node reads to a host; return the bytes that come from other hosts."""
        moved = 0
        for file in flow.recording.used.get(node, ()):
            made = flow.made.get(file)
            if made is not None and made[0] != host and (file, host) not in flow.fetched:
                flow.fetched.add((file, host))
                moved += made[1]
        return moved

    def _end(self, assign: Assign, flow: _Open, worker: _Worker, slot: int) -> None:
        heappush(worker.free, slot)
        node = assign.node_id
        for file, size in flow.recording.made.get(node, {}).items():
            flow.made[file] = (worker.about.host, size)
        left = flow.left.get(node, 1) - 1
        flow.left[node] = left
        if not left:
            self._make_ready(flow, self._freed_by(flow, flow.plan.graph.index[node]))
        self._load_changed(worker)
        item = ResultItem(0, assign.assignment, NodeStatus.SUCCEEDED, b"null", None, 0)
        self._step(Results(assign.session, (item,)))
        self._ended_count += 1
        self._progress(self._ended_count)

    def _make_ready(self, flow: _Open, nodes: Sequence[int]) -> None:
        """Note that nodes could start now, and those behind a `map` over nothing, which the engine ends without a worker."""
        graph, free = flow.plan.graph, list(nodes)
        while free:
            node = free.pop()
            name = graph.ids[node]
            flow.ready_us[name] = self._now_us
            if flow.left.get(name) == 0:
                flow.begun.add(name)
                free += self._freed_by(flow, node)

    def _freed_by(self, flow: _Open, node: int) -> list[int]:
        """Return the nodes that waited for this one alone; it has ended."""
        freed: list[int] = []
        for child in flow.plan.graph.children_of(node):
            flow.remaining[child] -= 1
            if not flow.remaining[child]:
                freed.append(child)
        return freed

    def _load_changed(self, worker: _Worker) -> None:
        if not worker.report_due:
            worker.report_due = True
            self._at(self._now_us + _load_after_us, partial(self._report_load, worker))

    def _report_load(self, worker: _Worker) -> None:
        worker.report_due = False
        busy = 100.0 * (1 - len(worker.free) / worker.about.slots)
        if abs(busy - worker.reported) >= _noticeable:
            worker.reported = busy
            self._step(LoadReported(worker.session, busy, 0.0))
