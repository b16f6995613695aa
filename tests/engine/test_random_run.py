"""A cluster in which anything may happen at any time, and the laws are held after each step.

Several workflows on several shards; workers that die, drain, are evicted, come back, forget, repeat themselves and report late; cancels,
timeouts, credits that change; operators who retry, skip and complete nodes; owners that lose their shards. Every run is a seed,
printed when it fails.
"""

import random
from collections.abc import Sequence
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring import ids
from mainspring.errors import Failure
from mainspring.ids import shard_of
from mainspring_coordinator.engine.effects import Answer, AnswerCode, Assign, Effect, Ended, LoadOutputs, Refuse, Store
from mainspring_coordinator.engine.events import (
    Cancel,
    CreditSet,
    Event,
    Inventory,
    OutputsLoaded,
    ProgressReported,
    ResultItem,
    Results,
    ShardReady,
    ShardTaken,
    Submit,
    Tick,
    WorkerAttached,
    WorkerDraining,
    WorkerResumed,
)
from mainspring_coordinator.engine.operator_events import ActOnNode, EvictionsSeen, WorkerEvicted
from mainspring_coordinator.engine.rows import NodeChanged
from mainspring_coordinator.engine.state import WorkflowState
from mainspring_coordinator.engine.status import NodeAct, NodeStatus, WorkflowStatus
from mainspring_coordinator.shard_loader import collect_output
from mainspring_coordinator.store.protocol import StoredNode
from tests.engine.replay import fold
from tests.engine.rig import SECOND, Rig, Worker, define, with_config

plan = define(
    [
        {"id": "fetch", "executor": "work"},
        {
            "id": "each",
            "executor": "work",
            "map": {"over": "${input}", "max_parallel": 2},
            "input": ["${item}", "${fetch}"],
            "allow_failure": True,
            "retry": {"max_attempts": 2, "initial": "1s"},
        },
        {"id": "wide", "executor": "work", "map": {"over": "${input}"}, "depends_on": ["fetch"]},
        {"id": "timed", "executor": "work", "timeouts": {"start_to_close": "20s", "schedule_to_start": "60s"}},
        {"id": "side", "executor": "work", "input": "${fetch}", "retry": {"max_attempts": 3, "initial": "2s"}},
        {"id": "maybe", "executor": "work", "allow_failure": True, "depends_on": ["side"]},
        {"id": "sum", "executor": "work", "input": ["${each}", "${maybe}", "${wide}"]},
    ],
    timeout="300s",
)
shards = 2


class Run:
    """One seeded run."""

    plan = plan
    executors: Sequence[str] = ("work",)

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        # Half of the runs do everything in parts, down to a node a step, with other events between them.
        step_nodes = self.chance.choice([1, 2, 5, 500, 500, 500])
        self.rig = Rig(shards=shards, config=with_config(step_nodes=step_nodes))
        self.rig.at_once = step_nodes == 500
        self.rig.adopts = True
        self.submitted = 0
        self.cancels = 0
        self.epochs = dict.fromkeys(range(shards), 1)
        self.acknowledged: set[str] = set()
        self.ended: dict[str, WorkflowStatus] = {}
        self.succeeded: set[tuple[str, int, int]] = set()
        self.closing: set[str] = set()
        self.past: list[tuple[str, ResultItem]] = []
        self.wanted: list[LoadOutputs] = []
        for name in ("w1", "w2"):
            self.rig.attach(name, slots=3, executors=self.executors)

    def step(self, event: Event) -> None:
        self.look(self.rig.step(event))

    def look(self, effects: list[Effect]) -> None:
        """Hold what came out to the laws, then the state."""
        for effect in effects:
            match effect:
                case Ended():
                    assert effect.workflow_id not in self.ended, "a terminal state is final"
                    self.ended[effect.workflow_id] = effect.status
                case Assign():
                    assert effect.workflow_id not in self.closing, "nothing is assigned after a cancel"
                    assert effect.workflow_id not in self.ended
                case Answer() if effect.token < 0 and effect.code is AnswerCode.OK:
                    self.closing.add(effect.workflow_id)
                case Answer(created=True):
                    self.acknowledged.add(effect.workflow_id)
                case LoadOutputs():
                    self.wanted.append(effect)
                case Store(row=NodeChanged(status=NodeStatus.SUCCEEDED) as row):
                    key = (row.workflow_id, row.node, row.instance)
                    assert key not in self.succeeded, "a result counts once"
                    self.succeeded.add(key)
                case _:
                    pass
        state = self.rig.engine.state
        for session in {effect.session for effect in effects if isinstance(effect, Assign)}:
            worker = state.workers.get(session)
            if worker is not None and worker.attached:
                # What comes with a shard that is being loaded may be more than fits, and may come after what was assigned.
                held = state.held[worker.incarnation].assignments if worker.incarnation in state.held else {}
                ours = [number for shard, number in held if ids.epoch_of(number) == state.shards[shard].epoch]
                assert len(ours) <= worker.credit, "never more than the credit"
        for shard in state.shards.values():
            places = [(a.workflow_id, a.node, a.instance) for a in shard.live.values()]
            assert len(places) == len(set(places)), "one live assignment a node"
            for workflow in shard.workflows.values():
                assert workflow.id not in self.ended
                assert not shard.ready or self.goes_on(workflow), f"nothing brings {workflow.id} forward"

    def goes_on(self, workflow: WorkflowState) -> bool:
        """Tell whether every part of a workflow that has begun waits for something that will come."""
        state = self.rig.engine.state
        if self.rig.engine.busy:
            return True
        if workflow.status is not WorkflowStatus.RUNNING:
            return bool(workflow.live)
        waiting = state.ready.items_of(workflow.key) + workflow.parked
        live = {(a.node, a.instance) for a in workflow.live.values()}
        for node, status in enumerate(workflow.statuses):
            expanded = workflow.maps.get(node)
            if status == NodeStatus.WAITING:
                held = not workflow.remaining[node] and (node, -1) not in waiting
            elif status == NodeStatus.RUNNING and expanded is not None:
                backing_off = any(at == node for at, _ in workflow.retry_at_us)
                offered = any(at == node and instance != -1 for at, instance in waiting)
                served = expanded.live or expanded.collecting or offered or backing_off
                held = not served
            elif status == NodeStatus.READY:
                held = (node, -1) not in waiting
            elif status == NodeStatus.BACKOFF:
                held = (node, -1) not in workflow.retry_at_us
            else:
                held = status == NodeStatus.RUNNING and (node, -1) not in live
            if held:
                return False
        return not workflow.parked or bool(workflow.loading)

    def load(self) -> None:
        """Answer one thing that was asked of the database."""
        wanted = self.wanted.pop(self.chance.randrange(len(self.wanted)))
        workflow = self.rig.engine.state.shards[wanted.shard].workflows.get(wanted.workflow_id)
        if workflow is None:
            return
        stored = fold(self.rig.rows, {self.plan.hash: self.plan})[1].get(wanted.workflow_id, {})
        found: dict[int, bytes] = {}
        for node in wanted.nodes:
            width = workflow.maps[node].width if node in workflow.maps else None
            rows = [
                StoredNode("", at, number, NodeStatus.SUCCEEDED, 1, 0, "", "", 0, 0, 0, 0, 0, 0, 0, None, data)
                for (at, number), data in sorted(stored.items())
                if at == node
            ]
            found[node] = collect_output(rows, width)
        self.step(OutputsLoaded(wanted.shard, wanted.workflow_id, found))

    def move(self, shard: int) -> None:
        """Lose a shard and take it again at once, as another owner would."""
        rig = self.rig
        self.epochs[shard] += 1
        self.step(ShardTaken(shard, self.epochs[shard], rig.now_us + 9 * SECOND, "e" * 32))
        for workflow in fold(rig.rows, {self.plan.hash: self.plan})[0]:
            if workflow.shard == shard:
                self.step(workflow)
        self.step(ShardReady(shard))
        for worker in list(rig.workers.values()):
            if self.chance.random() < 0.8:
                self.state(worker, shard)

    def state(self, worker: Worker, shard: int) -> None:
        """Let a worker state its inventory; sometimes it has forgotten something, and then it does not run it."""
        if self.chance.random() < 0.2 and worker.running:
            worker.running.pop(self.chance.choice(list(worker.running)))
        has = [number for at, number in worker.running if at == shard]
        self.step(Inventory(worker.session, shard, self.epochs[shard], (), has, (), worker.seen))

    def report(self) -> None:
        """End an attempt somehow; sometimes twice, sometimes much later once more."""
        chance = self.chance
        worker, assign = chance.choice(self.rig.running())
        status = chance.choices(
            [NodeStatus.SUCCEEDED, NodeStatus.FAILED, NodeStatus.CANCELLED, NodeStatus.READY], [80, 15, 3, 2]
        )[0]
        failure = Failure("Flaky", "again") if status is NodeStatus.FAILED else None
        item = ResultItem(assign.shard, assign.assignment, status, orjson.dumps(assign.node_id), failure, 5)
        del worker.running[assign.shard, assign.assignment]
        self.past.append((worker.incarnation, item))
        self.step(Results(worker.session, [item] * chance.choice([1, 1, 1, 2])))

    def repeat(self) -> None:
        incarnation, item = self.chance.choice(self.past[-20:])
        for worker in list(self.rig.workers.values()):
            if worker.incarnation == incarnation or self.chance.random() < 0.1:
                self.step(Results(worker.session, [item]))

    def cancel(self) -> None:
        name = f"wf{self.chance.randrange(self.submitted)}"
        self.cancels += 1
        # Its answer may come later, if the shard is being loaded; what follows the answer must not assign.
        self.step(Cancel(-self.cancels, shard_of(name, shards), name, ""))

    def operate(self) -> None:
        """Act on any node or instance, whatever it does."""
        chance = self.chance
        name, act = f"wf{chance.randrange(self.submitted)}", chance.choice(list(NodeAct))
        node, instance = chance.choice(plan.graph.ids), chance.choice([-1, -1, 0, 1, 2])
        token = 1_000_000 + len(self.rig.effects)
        self.step(ActOnNode(token, shard_of(name, shards), name, act, node, instance, "", 0, b'"given"'))

    def worker_event(self) -> None:
        chance, rig = self.chance, self.rig
        worker = chance.choice(list(rig.workers.values()))
        act = chance.randrange(8)
        before = len(rig.effects)
        if act == 0:
            rig.drop(worker, goodbye=chance.random() < 0.4)
            self.look(rig.effects[before:])
        elif act == 1:
            worker_credit = chance.randrange(4)
            self.step(CreditSet(worker.session, len(rig.effects) + 2, worker_credit))
        elif act == 2:
            self.step(WorkerDraining(worker.session))
        elif act == 3 and worker.running:
            at = chance.choice(list(worker.running))
            self.step(ProgressReported(worker.session, at[0], at[1], b"{}"))
        elif act == 4:
            # The same process on a new stream.
            del rig.workers[worker.session]
            self.attach(worker.name, worker.incarnation, worker.running)
        elif act == 5:
            self.step(WorkerResumed(worker.session))
            for shard in range(shards):
                self.state(worker, shard)
        elif act == 6 and chance.random() < 0.3:
            self.evict(worker)
        else:
            self.state(worker, chance.randrange(shards))

    def evict(self, worker: Worker) -> None:
        """An operator evicts a worker, or another coordinator's fence row says so; it reports once more, and tries to come back."""
        chance, rig = self.chance, self.rig
        late = list(worker.running.values())
        del rig.workers[worker.session]
        at = chance.randrange(shards)
        ways: list[Event] = [WorkerEvicted(0, at, worker.incarnation), EvictionsSeen([worker.incarnation])]
        self.step(chance.choice(ways))
        before = len(rig.rows)
        items = [ResultItem(one.shard, one.assignment, NodeStatus.SUCCEEDED, b"1", None, 5) for one in late]
        self.past += [(worker.incarnation, item) for item in items]
        if rig.at_once:
            self.step(Results(worker.session, items))
            done = [row for row in rig.rows[before:] if isinstance(row, NodeChanged)]
            assert not [row for row in done if row.status is NodeStatus.SUCCEEDED], "an evicted worker's result counted"
        back = WorkerAttached(
            worker.session + 10**6, worker.name, worker.incarnation, "host", "", {}, frozenset({"work"}), 3, 100
        )
        effects = rig.step(back)
        assert [effect.reason for effect in effects if isinstance(effect, Refuse)] == ["EVICTED"]
        self.look(effects)

    def attach(self, name: str, incarnation: str = "", running: dict[tuple[int, int], Assign] | None = None) -> None:
        before = len(self.rig.effects)
        inventory, self.rig.inventory = self.rig.inventory, self._inventory  # type: ignore[method-assign]  # epochs differ by shard here
        try:
            self.rig.attach(name, slots=3, incarnation=incarnation, running=running, executors=self.executors)
        finally:
            self.rig.inventory = inventory  # type: ignore[method-assign]  # as it was
        self.look(self.rig.effects[before:])

    def _inventory(self, worker: Worker, shard: int = 0, **_: Any) -> list[Effect]:
        has = [number for at, number in worker.running if at == shard]
        return self.rig.step(Inventory(worker.session, shard, self.epochs[shard], (), has, (), worker.seen))

    def disturb(self) -> None:
        """Do one thing."""
        chance, rig = self.chance, self.rig
        act = chance.random()
        if act < 0.08 and self.submitted < 6:
            name, value = f"wf{self.submitted}", orjson.dumps(list(range(chance.randrange(5))))
            self.submitted += 1
            at, plan = shard_of(name, shards), self.plan
            self.step(Submit(self.submitted, at, name, plan, value, plan.hash, "load-balanced"))
        elif act < 0.55 and rig.running():
            self.report()
        elif act < 0.62 and self.wanted:
            self.load()
        elif act < 0.68 and self.past:
            self.repeat()
        elif act < 0.69 and self.submitted:
            self.cancel()
        elif act < 0.71 and self.submitted:
            self.operate()
        elif act < 0.74:
            self.move(chance.randrange(shards))
        elif act < 0.80 and rig.workers:
            self.worker_event()
        elif act < 0.86 and len(rig.workers) < 4:
            self.attach(f"w{chance.randrange(10**9)}")
        else:
            look_from = len(rig.effects)
            rig.after(chance.choice([0.1, 1, 3, 12]))
            self.look(rig.effects[look_from:])

    def heal(self) -> None:
        """Nothing goes wrong any more: everything ends."""
        self.attach("healer")
        for _ in range(3_000):
            while self.wanted:
                self.load()
            if self.acknowledged == set(self.ended):
                return
            if self.rig.engine.busy:
                self.step(Tick())
            elif self.rig.running():
                self.report()
            else:
                before = len(self.rig.effects)
                self.rig.after(5)
                self.look(self.rig.effects[before:])
        raise AssertionError(f"{self.acknowledged - set(self.ended)} never ended")


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_the_laws_hold_whatever_happens(seed: int) -> None:
    print(f"seed {seed}")
    run = Run(seed)
    assert {shard_of(f"wf{number}", shards) for number in range(6)} == set(range(shards))
    for _ in range(250):
        run.disturb()
    run.heal()
