"""An engine with a fleet, and a ledger of its own that holds every assignment to what the workers said."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mainspring_coordinator.engine.config import EngineConfig
from mainspring_coordinator.engine.effects import Assign, Effect, StrategyFailed
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
    WorkerDetached,
    WorkerDraining,
)
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.status import NodeStatus
from mainspring_coordinator.engine.step import Engine

SHARDS = 2


@dataclass
class Books:
    """What one worker said, and what it was given."""

    session: int
    name: str
    host: str
    zone: str
    executors: frozenset[str]
    labels: Mapping[str, str]
    slots: int
    workflows_max: int
    stated: set[int] = field(default_factory=set[int])
    draining: bool = False
    work: dict[tuple[int, int], Assign] = field(default_factory=dict[tuple[int, int], Assign])


class Ledger:
    """Drives an engine that owns two shards."""

    def __init__(self, **config: Any) -> None:
        self.engine = Engine(EngineConfig(**config))
        self.now_us = 10**15
        self.workers: dict[int, Books] = {}
        self.plans: dict[str, Plan] = {}
        self.assigned: list[Assign] = []
        self.tokens = 0
        self.sessions = 0
        for shard in range(SHARDS):
            self.step(ShardTaken(shard, 1, self.now_us, "e" * 32))
            self.step(ShardReady(shard))

    def step(self, event: Event) -> list[Effect]:
        """Feed an event; hold what is assigned to the books."""
        effects = self.engine.step(event, self.now_us)
        while self.engine.busy:
            effects += self.engine.step(Tick(), self.now_us)
        self.engine.cut()
        for effect in effects:
            assert not isinstance(effect, StrategyFailed), effect
            if isinstance(effect, Assign):
                self._enter(effect)
        return effects

    def _enter(self, assign: Assign) -> None:
        worker, plan = self.workers[assign.session], self.plans[assign.workflow_id]
        node = next(node for node in plan.nodes if node.id == assign.node_id)
        labels = {"host": worker.host, "zone": worker.zone, **worker.labels}
        for label, needed in node.requires.items():
            assert labels.get(label) in ((needed,) if isinstance(needed, str) else needed)
        assert node.executor in worker.executors
        assert assign.shard in worker.stated
        assert not worker.draining
        assert len(worker.work) < worker.slots
        flows = {work.workflow_id for work in worker.work.values()} | {assign.workflow_id}
        assert len(flows) <= worker.workflows_max
        worker.work[assign.shard, assign.assignment] = assign
        self.assigned.append(assign)

    def attach(
        self,
        name: str = "",
        *,
        host: str = "",
        zone: str = "",
        executors: Sequence[str] = ("work",),
        labels: Mapping[str, str] | None = None,
        slots: int = 10,
        workflows_max: int = 1_000,
        shards: Sequence[int] = range(SHARDS),
    ) -> Books:
        """Attach a worker with all its room."""
        self.sessions += 1
        session = self.sessions
        name = name or f"w{session}"
        worker = Books(session, name, host, zone, frozenset(executors), labels or {}, slots, workflows_max)
        self.workers[session] = worker
        self.step(
            WorkerAttached(
                session, name, f"{session:032x}", host, zone, worker.labels, worker.executors, slots, workflows_max
            )
        )
        for shard in shards:
            self.state(worker, shard)
        self.step(CreditSet(session, 1, slots))
        return worker

    def state(self, worker: Books, shard: int) -> None:
        """Let a worker say what it has of a shard."""
        worker.stated.add(shard)
        has = [number for at, number in worker.work if at == shard]
        seen = max((assign.ordinal for assign in worker.work.values()), default=0)
        self.step(Inventory(worker.session, shard, 1, (), has, (), seen))

    def submit(self, plan: Plan, workflow_id: str, shard: int = 0, value: bytes = b"null") -> None:
        """Submit a workflow."""
        self.tokens += 1
        self.plans[workflow_id] = plan
        self.step(Submit(self.tokens, shard, workflow_id, plan, value, workflow_id.encode(), "load-balanced"))

    def end(self, assign: Assign) -> None:
        """Let an attempt end well."""
        worker = self.workers[assign.session]
        del worker.work[assign.shard, assign.assignment]
        item = ResultItem(assign.shard, assign.assignment, NodeStatus.SUCCEEDED, b"1", None, 1)
        self.step(Results(worker.session, (item,)))

    def report(self, worker: Books, cpu: float, memory: float) -> None:
        """Let a worker say how busy it is."""
        self.step(LoadReported(worker.session, cpu, memory))

    def drain(self, worker: Books) -> None:
        """Let a worker drain."""
        worker.draining = True
        self.step(WorkerDraining(worker.session))

    def leave(self, worker: Books) -> None:
        """Let a worker leave for good."""
        del self.workers[worker.session]
        self.step(WorkerDetached(worker.session, goodbye=True))

    def after(self, ms: int) -> None:
        """Let time pass."""
        self.now_us += ms * 1_000
        self.step(Tick())

    def where(self, workflow_id: str, node: str) -> str:
        """Return the name of the worker that a node went to last, empty if to none."""
        found = [a.session for a in self.assigned if (a.workflow_id, a.node_id) == (workflow_id, node)]
        return self.workers[found[-1]].name if found else ""

    def counts(self) -> Counter[str]:
        """Return how many nodes went to each worker."""
        return Counter(self.workers[assign.session].name for assign in self.assigned)
