"""Concurrency limits whatever happens: several engines on one database of rows, messages that get lost, late, twice, to a stale owner.

Owners of shards and of homes are replaced, and do not know it before a commit of theirs fails; what they say without one gets out all the
same. At every commit no more nodes run than their limits allow; once the faults stop, everything ends and no permit is out.
"""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.errors import Failure
from mainspring.ids import shard_of
from mainspring_coordinator.batch import Gathered
from mainspring_coordinator.engine.effects import Assign, Effect, GrantPermits, LoadOutputs, StatePermits, Stop
from mainspring_coordinator.engine.events import (
    Cancel,
    CreditSet,
    Event,
    Inventory,
    OutputsLoaded,
    PermitsGranted,
    PermitsLoaded,
    PermitsStated,
    ResultItem,
    Results,
    ShardLost,
    ShardReady,
    ShardTaken,
    Submit,
    Tick,
    WorkerAttached,
    WorkflowAbsent,
    WorkflowEvicted,
    WorkflowLoaded,
)
from mainspring_coordinator.engine.permits import HeldPermits
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.rows import NodeAssigned, NodeChanged, PermitsHeld, Row, WorkflowInserted
from mainspring_coordinator.engine.status import NodeStatus, workflow_terminal
from mainspring_coordinator.engine.step import Engine
from tests.engine.placement.checks import wrong_with_permits
from tests.engine.replay import fold
from tests.engine.rig import SECOND, define, with_config

shards: Final = 4
widest: Final = {"db": 2, "api": 1}
workers: Final = ("w1", "w2", "w3")
_with_worker: Final = (NodeStatus.RUNNING, NodeStatus.CANCELLING)


def _limited(name: str, key: str, limit: int, **rest: object) -> dict[str, object]:
    retry = {"max_attempts": 2, "initial": "300ms"}
    concurrency = {"key": key, "limit": limit}
    return {"id": name, "executor": "work", "concurrency": concurrency, "retry": retry, "allow_failure": True, **rest}


plans: Final = (
    define([_limited("a", "db", 2), _limited("b", "db", 2, depends_on=["a"]), _limited("c", "db", 2)], output=None),
    define([_limited("each", "db", 2, map={"over": "${input}", "max_parallel": 3})], output=None),
    define([_limited("strict", "db", 1, priority=8), _limited("other", "api", 1)], output=None),
    define(
        [_limited("a", "api", 1, timeouts={"schedule_to_start": "4s"}), {"id": "free", "executor": "work"}], output=None
    ),
)
by_hash: Final = {plan.hash: plan for plan in plans}


class Database:
    """Rows under fences."""

    def __init__(self) -> None:
        self.epochs = dict.fromkeys(range(shards), 0)
        self.owners: dict[int, Owner | None] = dict.fromkeys(range(shards))
        self.rows: list[Row] = []
        self.statuses: dict[tuple[str, int, int], NodeStatus] = {}
        self.plans: dict[str, Plan] = {}
        self.permits: dict[tuple[int, str, int], HeldPermits] = {}

    def commit(self, rows: Sequence[Row]) -> None:
        """Store rows that are ours to store, in one transaction, and hold what is there then to the limits."""
        for row in rows:
            match row:
                case WorkflowInserted():
                    self.plans[row.workflow_id] = by_hash[row.plan_hash]
                case NodeAssigned():
                    self.statuses[row.workflow_id, row.node, row.instance] = NodeStatus.RUNNING
                case NodeChanged():
                    self.statuses[row.workflow_id, row.node, row.instance] = row.status
                case PermitsHeld():
                    self.permits[row.shard, row.key, row.holder] = HeldPermits(
                        row.key, row.holder, row.epoch, row.count
                    )
                    if not row.count:
                        del self.permits[row.shard, row.key, row.holder]
                case _:
                    pass
        self.rows += rows
        for key, of_shards in self.live().items():
            # Who was granted a permit under a narrow limit may find that others were granted more under a wide one since.
            assert sum(of_shards.values()) <= widest[key], (key, of_shards)
            for shard, count in of_shards.items():
                held = self.permits.get((shard_of(key, shards), key, shard))
                assert count <= (held.count if held is not None else 0), f"shard {shard} runs {count} of {key}"

    def live(self) -> dict[str, Counter[int]]:
        """Return how many nodes are with workers, by key and shard."""
        found: dict[str, Counter[int]] = {key: Counter() for key in widest}
        for (name, at, instance), status in self.statuses.items():
            node = self.plans[name].nodes[at]
            if status in _with_worker and node.concurrency is not None and (instance >= 0 or node.map is None):
                found[node.concurrency.key][shard_of(name, shards)] += 1
        return found


class Owner:
    """A coordinator: an engine, the batch that it gathers, and the one that is committed and not let out yet."""

    def __init__(self, cluster: "Cluster", number: int) -> None:
        self.cluster = cluster
        self.number = number
        self.engine = Engine(with_config(step_nodes=cluster.step_nodes))
        self.epochs: dict[int, int] = {}
        self.gathering = Gathered()
        self.committed: list[Effect] | None = None
        self.evicted: list[tuple[int, int, str]] = []
        """Shard, epoch and name of workflows that are to be loaded anew."""
        for session, name in enumerate(workers, 1):
            incarnation = f"{session:032x}"
            executors = frozenset({"work"})
            self.step(WorkerAttached(session, name, incarnation, "host", "", {}, executors, 2, 100))
            self.step(CreditSet(session, 1, 2))

    def step(self, event: Event) -> None:
        self.gathering.add(self.engine.step(event, self.cluster.now_us), 1)
        assert not list(wrong_with_permits(self.engine.state)), list(wrong_with_permits(self.engine.state))

    def finish_acts(self) -> None:
        while self.engine.busy:
            self.step(Tick())

    def take(self, shard: int) -> None:
        """Own a shard under the next epoch; whoever owned it is not told."""
        database = self.cluster.database
        database.epochs[shard] += 1
        database.owners[shard] = self
        epoch = self.epochs[shard] = database.epochs[shard]
        self.gathering.drop_shards({shard})
        self.step(ShardTaken(shard, epoch, self.cluster.now_us + 3 * SECOND, "e" * 32))
        self.finish_acts()
        for workflow in fold(database.rows, by_hash)[0]:
            if workflow.shard == shard:
                self.step(workflow)
        self.step(PermitsLoaded(shard, [held for (home, _, _), held in database.permits.items() if home == shard]))
        self.step(ShardReady(shard))
        self.finish_acts()
        for session in range(1, len(workers) + 1):
            self.inventory(session, shard)

    def inventory(self, session: int, shard: int) -> None:
        running = [number for at, number in self.cluster.running[session] if at == shard]
        if shard in self.epochs:
            self.step(Inventory(session, shard, self.epochs[shard], (), running, (), 0))

    def commit(self) -> None:
        """Commit what is gathered, as far as it is ours; what the database refuses of a workflow is loaded anew."""
        batch, self.gathering = self.gathering, Gathered()
        self.engine.cut()
        database, chance = self.cluster.database, self.cluster.chance
        stale = {row.shard for row in batch.rows if database.epochs[row.shard] != self.epochs.get(row.shard)}
        batch.drop_shards(stale)
        names = sorted({row.workflow_id for row in batch.rows if row.workflow_id})
        refused = chance.choice(names) if names and self.cluster.faults and chance.random() < 0.1 else ""
        if refused and not any(isinstance(row, WorkflowInserted) for row in batch.rows):
            batch.drop_refused(refused)
        database.commit(batch.rows)
        self.committed = batch.outward
        for shard in stale:
            self.epochs.pop(shard, None)
            self.gathering.drop_shards({shard})
            self.step(ShardLost(shard))
        shard = shard_of(refused, shards) if refused else -1
        if shard in self.epochs and not any(isinstance(row, WorkflowInserted) for row in batch.rows):
            self.step(WorkflowEvicted(shard, refused))
            self.gathering.drop_refused(refused)
            self.evicted.append((shard, self.epochs[shard], refused))

    def load_anew(self) -> None:
        """Load what was refused, unless the shard is not ours any more."""
        while self.evicted:
            shard, epoch, name = self.evicted.pop()
            if self.epochs.get(shard) == epoch:
                loaded = [one for one in fold(self.cluster.database.rows, by_hash)[0] if one.workflow_id == name]
                self.step(loaded[0] if loaded else WorkflowAbsent(shard, name))

    def let_out(self) -> None:
        effects, self.committed = self.committed or [], None
        for effect in effects:
            match effect:
                case Assign():
                    self.cluster.running[effect.session][effect.shard, effect.assignment] = self
                case Stop():
                    self.cluster.running[effect.session].pop((effect.shard, effect.assignment), None)
                case StatePermits() | GrantPermits():
                    self.cluster.post(effect)
                case LoadOutputs():
                    loaded = dict.fromkeys(effect.nodes, b"[]")
                    self.step(OutputsLoaded(effect.shard, effect.workflow_id, loaded))
                case _:
                    pass


class Cluster:
    """One seeded run."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.faults = True
        self.step_nodes = self.chance.choice([1, 3, 500])
        self.now_us = 1_000 * SECOND
        self.database = Database()
        self.running: dict[int, dict[tuple[int, int], Owner]] = {n: {} for n in range(1, len(workers) + 1)}
        self.messages: list[StatePermits | GrantPermits] = []
        self.past: list[StatePermits | GrantPermits] = []
        self.owners = [Owner(self, number) for number in range(3)]
        self.submitted = self.token = 0
        for shard in range(shards):
            self.chance.choice(self.owners).take(shard)

    def post(self, effect: StatePermits | GrantPermits) -> None:
        self.messages.append(effect)

    def deliver(self) -> None:
        """Let a message arrive somewhere: most are in order and arrive once; some were sent long ago."""
        chance = self.chance
        at = chance.randrange(len(self.messages)) if self.faults and chance.random() < 0.3 else 0
        message = self.messages.pop(at)
        self.past.append(message)
        if self.faults:
            if chance.random() < 0.1:
                return
            if chance.random() < 0.2:
                message = chance.choice(self.past[-40:])
        if isinstance(message, StatePermits):
            home = shard_of(message.statement.key, shards)
            event: Event = PermitsStated(home, message.statement)
        else:
            home, event = message.reply.shard, PermitsGranted(message.reply.shard, message.reply)
        owner = self.database.owners[home]
        if self.faults and chance.random() < 0.2:
            owner = chance.choice(self.owners)  # as an old directory would have it
        if owner is not None:
            owner.step(event)

    def submit(self) -> None:
        name = f"wf{self.submitted}"
        shard = shard_of(name, shards)
        owner = self.database.owners[shard]
        self.submitted += 1
        if owner is not None:
            plan = self.chance.choice(plans)
            data = b"[%b]" % b",".join(b"1" for _ in range(self.chance.randrange(6)))
            owner.step(Submit(self.submitted, shard, name, plan, data, plan.hash, "load-balanced"))

    def report(self) -> None:
        """Let an attempt end, mostly well, and its owner hear of it."""
        everything = [(session, name) for session, held in self.running.items() for name in held]
        if not everything:
            return
        session, (shard, number) = self.chance.choice(everything)
        owner = self.running[session].pop((shard, number))
        owner = self.database.owners[shard] or owner if not self.faults or self.chance.random() < 0.8 else owner
        status = self.chance.choices([NodeStatus.SUCCEEDED, NodeStatus.FAILED, NodeStatus.READY], [80, 15, 5])[0]
        failure = Failure("Flaky", "again") if status is NodeStatus.FAILED else None
        owner.step(Results(session, (ResultItem(shard, number, status, b"1", failure, 5),)))

    def kill(self) -> None:
        """Replace a coordinator by an empty one; nobody owns its shards until somebody takes them."""
        number = self.chance.randrange(len(self.owners))
        dead, self.owners[number] = self.owners[number], Owner(self, number)
        for shard, owner in self.database.owners.items():
            if owner is dead:
                self.database.owners[shard] = None

    def take_some_shard(self) -> None:
        """Let somebody own a shard: one that nobody owns, if there is one."""
        free = [shard for shard, owner in self.database.owners.items() if owner is None]
        self.chance.choice(self.owners).take(self.chance.choice(free or range(shards)))

    def act(self) -> None:
        chance = self.chance
        act = chance.random()
        owner = chance.choice(self.owners)
        if act < 0.10 and self.submitted < 40:
            self.submit()
        elif act < 0.25:
            self.report()
        elif act < 0.50 and self.messages:
            self.deliver()
        elif act < 0.85:
            if owner.committed is None:
                owner.commit()
            else:
                owner.let_out()
        elif act < 0.86:
            owner.load_anew()
        elif act < 0.875:
            self.take_some_shard()
        elif act < 0.877:
            self.kill()
        elif act < 0.90:
            owner.inventory(chance.randrange(1, len(workers) + 1), chance.randrange(shards))
        elif act < 0.905 and self.submitted:
            name = f"wf{chance.randrange(self.submitted)}"
            owner.step(Cancel(-1, shard_of(name, shards), name, ""))
        else:
            self.now_us += chance.choice([1_000, 50_000, 300_000, 1_100_000])
            owner.step(Tick())

    def heal(self) -> None:
        """Let everything go on that can, with owners that know who they are."""
        self.faults = False
        for shard in range(shards):
            self.chance.choice(self.owners).take(shard)
        quiet, open_ones = 0, list[WorkflowLoaded]()
        for _ in range(4_000):
            while self.messages:
                self.deliver()
            self.report()
            for owner in self.owners:
                owner.load_anew()
                owner.finish_acts()
                if owner.committed is None:
                    owner.commit()
                owner.let_out()
            if self.messages:
                continue
            self.now_us += SECOND // 10
            for owner in self.owners:
                owner.step(Tick())
                for session in range(1, len(workers) + 1):
                    for shard in range(shards):
                        owner.inventory(session, shard)
            open_ones = [one for one in fold(self.database.rows, by_hash)[0] if one.status not in workflow_terminal]
            quiet = quiet + 1 if not open_ones and not self.database.permits else 0
            if quiet == 3:
                return
        raise AssertionError(f"{len(open_ones)} never ended, permits {self.database.permits}")


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_limits_hold_and_permits_do_not_leak_whatever_happens(seed: int) -> None:
    print(f"seed {seed}")
    assert {shard_of(key, shards) for key in ("db", "api")} != {0}
    cluster = Cluster(seed)
    for _ in range(400):
        cluster.act()
    cluster.heal()
