"""An engine on a table: fake workers, a fake clock, and a database that is a list of rows.

Effects are looked at as they come; `rows` keeps every row that was ever stored, in order, so that a recovery can be built from it.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import orjson

from mainspring import limits
from mainspring.definition import definition_from_json
from mainspring.errors import Failure
from mainspring.ids import shard_of
from mainspring.json_text import trimmed
from mainspring.workflow import Definition
from mainspring_coordinator.engine.config import EngineConfig
from mainspring_coordinator.engine.effects import (
    Answer,
    Assign,
    Effect,
    GrantPermits,
    ReportBacklog,
    StatePermits,
    Store,
)
from mainspring_coordinator.engine.events import (
    Cancel,
    CreditSet,
    Event,
    Inventory,
    PermitsGranted,
    PermitsStated,
    Read,
    ResultItem,
    Results,
    ShardReady,
    ShardTaken,
    Submit,
    Tick,
    WorkerAttached,
    WorkerDetached,
)
from mainspring_coordinator.engine.operator_events import ActOnNode
from mainspring_coordinator.engine.plan import Plan, compile_plan
from mainspring_coordinator.engine.rows import Row
from mainspring_coordinator.engine.status import NodeAct, NodeStatus
from mainspring_coordinator.engine.step import Engine
from tests.engine.placement.checks import wrong_with

_E = TypeVar("_E")
SECOND = 1_000_000
_incarnations = itertools.count(1)


def define(nodes: Sequence[Mapping[str, Any]], **rest: Any) -> Plan:
    """Compile a definition from its JSON form."""
    definition: Definition = definition_from_json({"name": "test", "nodes": list(nodes), **rest})
    return compile_plan(definition)


@dataclass
class Worker:
    """A worker as the engine meets it."""

    session: int
    name: str
    incarnation: str
    running: dict[tuple[int, int], Assign] = field(default_factory=dict[tuple[int, int], Assign])
    seen: int = 0


class Rig:
    """Drives one engine that owns all shards of a small cluster."""

    def __init__(
        self, *, shards: int = 1, epoch: int = 1, config: EngineConfig | None = None, own: bool = True
    ) -> None:
        self.shards = shards
        self.now_us = 1_000 * SECOND
        self.engine = Engine(config or EngineConfig())
        self.effects: list[Effect] = []
        self.rows: list[Row] = []
        self.workers: dict[int, Worker] = {}
        self.backlogged: set[int] = set()
        """Sessions that were told last that something waits for them."""
        self._session = 0
        self._token = 0
        self.epoch = epoch
        self.at_once = True
        """What an event leads to is all done in the step that feeds it; else other events may come between its parts."""
        self.adopts = False
        """Shards come with assignments of theirs, so that a worker may have more than its slots until some end."""
        self.passes_permits = True
        """What shards say to each other of permits arrives at once."""
        if own:
            for shard in range(shards):
                self.step(ShardTaken(shard, epoch, self.now_us, "e" * 32))
                self.step(ShardReady(shard))

    def step(self, event: Event) -> list[Effect]:
        """Feed one event; hand assignments to the fake workers, keep the rows."""
        effects = self.engine.step(event, self.now_us)
        while self.at_once and self.engine.busy:
            effects += self.engine.step(Tick(), self.now_us)
        self.effects += effects
        for effect in effects:
            if isinstance(effect, Store):
                self.rows.append(effect.row)
            elif isinstance(effect, Assign) and effect.session in self.workers:
                worker = self.workers[effect.session]
                worker.running[effect.shard, effect.assignment] = effect
                worker.seen = max(worker.seen, effect.ordinal)
            elif isinstance(effect, ReportBacklog):
                (self.backlogged.add if effect.waiting else self.backlogged.discard)(effect.session)
        self.engine.cut()
        self.check()
        for said in effects if self.passes_permits else ():
            if isinstance(said, StatePermits):
                effects = effects + self.step(PermitsStated(shard_of(said.statement.key, self.shards), said.statement))
            elif isinstance(said, GrantPermits):
                effects = effects + self.step(PermitsGranted(said.reply.shard, said.reply))
        return effects

    def after(self, seconds: float) -> list[Effect]:
        """Let time pass."""
        self.now_us += int(seconds * SECOND)
        return self.step(Tick())

    def attach(
        self,
        name: str = "w1",
        *,
        executors: Sequence[str] = ("work",),
        slots: int = 10,
        incarnation: str = "",
        workflows_max: int = 100,
        labels: dict[str, str] | None = None,
        host: str = "host",
        zone: str = "",
        running: dict[tuple[int, int], Assign] | None = None,
    ) -> Worker:
        """Attach a worker that states its (empty or kept) inventory and gives all its slots."""
        self._session += 1
        incarnation = incarnation or f"{next(_incarnations):032x}"
        before = next((w for w in self.workers.values() if w.incarnation == incarnation), None)
        worker = Worker(self._session, name, incarnation, running or (before.running if before is not None else {}))
        self.workers[worker.session] = worker
        self.step(
            WorkerAttached(
                worker.session, name, incarnation, host, zone, labels or {}, frozenset(executors), slots, workflows_max
            )
        )
        for shard in range(self.shards):
            self.inventory(worker, shard)
        self.step(CreditSet(worker.session, 1, slots))
        return worker

    def inventory(self, worker: Worker, shard: int = 0, *, finished: Sequence[int] = ()) -> list[Effect]:
        """Let a worker say what it has of a shard."""
        running = [number for at, number in worker.running if at == shard and number not in finished]
        return self.step(Inventory(worker.session, shard, self.epoch, (), running, finished, worker.seen))

    def submit(self, plan: Plan, workflow_id: str = "wf", value: Any = None) -> Answer:
        """Submit a workflow and return the answer."""
        self._token += 1
        data = trimmed(orjson.dumps(value))
        shard = shard_of(workflow_id, self.shards)
        event = Submit(self._token, shard, workflow_id, plan, data, plan.hash + data[:8], "load-balanced")
        return only(self.step(event), Answer)

    def cancel(self, workflow_id: str = "wf", reason: str = "why not") -> Answer:
        """Cancel a workflow and return the answer."""
        self._token += 1
        return only(self.step(Cancel(self._token, shard_of(workflow_id, self.shards), workflow_id, reason)), Answer)

    def act(
        self,
        act: NodeAct,
        node: str,
        instance: int = -1,
        *,
        workflow_id: str = "wf",
        attempt: int = 0,
        value: Any = None,
        reason: str = "why not",
    ) -> list[Effect]:
        """Act on a node as an operator does."""
        self._token += 1
        shard = shard_of(workflow_id, self.shards)
        event = ActOnNode(
            self._token, shard, workflow_id, act, node, instance, reason, attempt, trimmed(orjson.dumps(value))
        )
        return self.step(event)

    def read(self, workflow_id: str = "wf") -> Answer:
        """Read a workflow."""
        self._token += 1
        return only(self.step(Read(self._token, shard_of(workflow_id, self.shards), workflow_id)), Answer)

    def running(self, node: str = "", instance: int | None = None) -> list[tuple[Worker, Assign]]:
        """Return what runs, in the order of assignment; of one node, or of one instance, if named."""
        found = [
            (worker, assign)
            for worker in self.workers.values()
            for assign in worker.running.values()
            if (not node or assign.node_id == node) and (instance is None or assign.instance == instance)
        ]
        return sorted(found, key=lambda pair: pair[1].assignment)

    def finish(self, node: str = "", value: Any = None, *, instance: int | None = None) -> list[Effect]:
        """Let the first running attempt (of a node) end well."""
        worker, assign = self.running(node, instance)[0]
        return self.end(worker, assign, NodeStatus.SUCCEEDED, orjson.dumps(value))

    def fail(self, node: str = "", failure: Failure | None = None, *, instance: int | None = None) -> list[Effect]:
        """Let the first running attempt (of a node) fail."""
        worker, assign = self.running(node, instance)[0]
        return self.end(worker, assign, NodeStatus.FAILED, b"", failure or Failure("ValueError", "no"))

    def end(
        self,
        worker: Worker,
        assign: Assign,
        status: NodeStatus,
        output: bytes = b"null",
        failure: Failure | None = None,
    ) -> list[Effect]:
        """Report the end of an attempt."""
        worker.running.pop((assign.shard, assign.assignment), None)
        return self.report(worker, ResultItem(assign.shard, assign.assignment, status, output, failure, 5))

    def report(self, worker: Worker, *items: ResultItem) -> list[Effect]:
        """Report results."""
        return self.step(Results(worker.session, items))

    def drop(self, worker: Worker, *, goodbye: bool = False) -> list[Effect]:
        """Let a worker's stream end."""
        del self.workers[worker.session]
        return self.step(WorkerDetached(worker.session, goodbye))

    def run_to_end(self, limit: int = 100_000) -> None:
        """Let every attempt end well until nothing runs."""
        for _ in range(limit):
            running = self.running()
            if not running:
                return
            worker, assign = running[0]
            self.end(worker, assign, NodeStatus.SUCCEEDED, orjson.dumps({"of": assign.node_id}))
        raise AssertionError(f"still running after {limit} results")

    def check(self) -> None:
        """Hold every index against what it was derived from."""
        state = self.engine.state
        assert next(wrong_with(state), None) is None
        live = {(a.shard, a.id): a for shard in state.shards.values() for a in shard.live.values()}
        held = {key: a for h in state.held.values() for key, a in h.assignments.items()}
        of_workflows = {
            (a.shard, a.id): a
            for shard in state.shards.values()
            for w in shard.workflows.values()
            for a in w.live.values()
        }
        # What is being loaded or forgotten part by part counts as held a little longer.
        assert live == {key: a for key, a in held.items() if state.has(a)} == of_workflows
        assert self.engine.busy or live == held
        for worker in state.workers.values():
            assert (worker.session in state.roomy) == (state.room(worker) > 0)
            bound = worker.attached and not worker.draining and not self.adopts
            assert not bound or worker.credit - state.room(worker) <= worker.slots
        awake = [ready for ready in state.ready.waiting.values() if ready.wanting]
        awaited = {session for ready in awake for session in ready.eligible}
        assert (self.backlogged & set(state.workers)) == awaited or len(awaited) > limits.backlogged_workers_max
        for ready in state.ready.waiting.values():
            lines = [line for of_one in ready.waiting._lines.values() for line in of_one]
            tied = sum(len(items) for flows in ready.tied.values() for items in flows.values())
            assert ready.count == tied + sum(len(line.items) for line in lines) > 0
            assert not any(line.aside or not line.items for line in lines)
        for shard in state.shards.values():
            for workflow in shard.workflows.values():
                pending = sum(NodeStatus(s) not in _terminal for s in workflow.statuses)
                loading = shard.shard in state.occupied
                assert workflow.unfinished == pending or workflow.status.name != "RUNNING" or loading
                for expanded in workflow.maps.values():
                    running = expanded.statuses.count(NodeStatus.RUNNING) + expanded.statuses.count(
                        NodeStatus.CANCELLING
                    )
                    assert expanded.live == running
        assert self.engine.busy or state.cached_bytes == sum(
            w.output_bytes for s in state.shards.values() for w in s.workflows.values()
        )


_terminal = {NodeStatus.SUCCEEDED, NodeStatus.FAILED, NodeStatus.SKIPPED, NodeStatus.CANCELLED}


def only(effects: Sequence[Effect], kind: type[_E]) -> _E:
    """Return the one effect of a kind."""
    found = [effect for effect in effects if isinstance(effect, kind)]
    assert len(found) == 1, effects
    return found[0]


def of(effects: Sequence[Effect], kind: type[_E]) -> list[_E]:
    """Return the effects of a kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def rows_of(effects: Sequence[Effect], kind: type[_E]) -> list[_E]:
    """Return the rows of a kind."""
    return [effect.row for effect in effects if isinstance(effect, Store) and isinstance(effect.row, kind)]


def with_config(**changes: Any) -> EngineConfig:
    """Return a configuration that differs from the default."""
    return replace(EngineConfig(), **changes)
