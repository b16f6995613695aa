"""Holds a run to the laws of DESIGN: what is committed, and in what order after what; what leaves a coordinator, and when.

It keeps its own account of the database, row by row as it is committed, and compares with nothing that the project itself believes.
A law that is broken is noted, with its number, and ends the run.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from mainspring.ids import epoch_of
from mainspring.workflow import Concurrency
from mainspring_coordinator.engine.effects import (
    Ack,
    Answer,
    AnswerCode,
    Assign,
    CancelCause,
    Changed,
    Disposition,
    Effect,
    Ended,
    Stop,
)
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.rows import (
    MapExpanded,
    NodeAssigned,
    NodeChanged,
    PermitsHeld,
    RetryDue,
    Row,
    WorkersEvicted,
    WorkflowInserted,
    WorkflowPaused,
    WorkflowUpdated,
)
from mainspring_coordinator.engine.status import (
    NodeAct,
    NodeStatus,
    WorkflowStatus,
    node_terminal,
    node_transitions,
    workflow_terminal,
    workflow_transitions,
)
from mainspring_coordinator.store.protocol import Batch, Committed, ShardRow
from tests.simulation.world import SECOND, World

_N = NodeStatus
_seen_by_all_us = 3 * SECOND
_results = frozenset({_N.SUCCEEDED, _N.FAILED, _N.BACKOFF})
_reachable = {
    status: after | (node_transitions[_N.READY] if _N.READY in after else frozenset())
    for status, after in node_transitions.items()
}
"""READY is not always stored: a node may have passed through it between two rows."""

Place = tuple[str, int, int]


@dataclass(slots=True)
class Node:
    """A node as its rows have it."""

    status: NodeStatus = NodeStatus.WAITING
    attempt: int = 0
    assignment: int = 0
    incarnation: str = ""


@dataclass(slots=True)
class Flow:
    """A workflow as its rows have it."""

    shard: int
    digest: bytes
    status: WorkflowStatus = WorkflowStatus.RUNNING
    version: int = 1
    output: bytes | None = None


class Witness:
    """Of one run."""

    def __init__(self, world: World, lease_us: int) -> None:
        self._world = world
        self._lease_us = lease_us
        self.broken: list[str] = []
        self.flows: dict[str, Flow] = {}
        self.nodes: dict[Place, Node] = {}
        self.plans: dict[str, Plan] = {}
        """By workflow, what its clients submit."""
        self.open: set[str] = set()
        """The workflows that have not ended."""
        self.acknowledged: set[str] = set()
        self.takeovers = 0
        """Shards that changed hands without having been given up."""
        self.handovers = 0
        self._minted: dict[tuple[int, int], Place] = {}
        self._given: dict[tuple[int, int], str] = {}
        """By (shard, id): the incarnation of the worker that it was committed for."""
        self._closed: set[tuple[int, int]] = set()
        self._refused: set[tuple[int, int]] = set()
        self._epochs: dict[int, int] = {}
        self._renewed_us: dict[str, int] = {}
        self._served_since_us: dict[str, int] = {}
        """By incarnation of a coordinator: since when each renewal said that workers are attached to it."""
        self.is_locked: Callable[[str], bool] = lambda _incarnation: True
        """Tells whether the database holds the lock of a coordinator's incarnation."""
        self._stated: dict[tuple[object, int], int] = {}
        """By (process of a worker, shard): the highest epoch that it has stated."""
        self._running: set[tuple[object, int, int]] = set()
        """(Process of a worker, shard, id) that it has stated to run."""
        self._sent_us: dict[tuple[int, int], int] = {}
        """When an assignment was sent last."""
        self._stood_still: dict[object, tuple[int, frozenset[tuple[int, int]]]] = {}
        """By process of a worker: when it went on after it had stood still for long, and what it had then."""
        self._permits: dict[tuple[str, int], int] = {}
        """By concurrency key and shard: how many permits the rows say that it has."""
        self._limited: dict[str, set[Place]] = {}
        """By concurrency key: the nodes that are with workers."""
        self._paused: set[str] = set()
        """Workflows that are paused."""
        self._evicted: dict[str, set[str]] = {}
        """By incarnation of a coordinator: the workers' that it evicted."""
        self._runs: list[tuple[int, int]] = []
        """By number: the (shard, id) that code was started for."""

    def breaks(self, law: int, what: str) -> None:
        """Note that a law is broken."""
        self._world.tell("LAW", f"{law} is broken: {what}")
        self.broken.append(f"law {law}: {what}")

    def hold(self, true: object, law: int, what: str) -> None:
        """Note that a law is broken unless this is true."""
        if not true:
            self.breaks(law, what)

    # -- ownership ---------------------------------------------------------------------------------------------------------

    def took(self, before: ShardRow, after: ShardRow) -> None:
        """A shard got another owner."""
        self.hold(after.epoch > self._epochs.get(after.shard, 0), 3, f"the epoch of shard {after.shard} does not rise")
        self._epochs[after.shard] = after.epoch
        self.takeovers += before.holder is not None
        self.handovers += before.holder is None and before.epoch > 0

    def renewed(self, incarnation: str, sent_us: int, attached_workers: int) -> None:
        """A lease was renewed, and its holder knows."""
        self._renewed_us[incarnation] = sent_us
        if attached_workers:
            self._served_since_us.setdefault(incarnation, sent_us)
        else:
            self._served_since_us.pop(incarnation, None)

    def gave_up(self, incarnation: str, row: NodeChanged) -> None:
        """A coordinator to which no worker is attached counts that an attempt's worker died."""
        if self._renewed_long_ago(incarnation):
            return  # whatever it believes, it commits nothing of it
        now_us = self._world.now_us
        # A peer that has had workers for so long, and up to now, that everyone has seen it.
        serving = [
            peer
            for peer, since_us in self._served_since_us.items()
            if peer != incarnation
            and now_us - since_us > _seen_by_all_us
            and self.is_locked(peer)
            and not self._renewed_long_ago(peer)
        ]
        self.hold(
            not serving, 11, f"{row.workflow_id}/{row.node} loses its worker to a coordinator that is cut off from all"
        )

    def _renewed_long_ago(self, incarnation: str) -> bool:
        return self._world.now_us - self._renewed_us.get(incarnation, 0) > self._lease_us // 2

    # -- commits -----------------------------------------------------------------------------------------------------------

    def committed(self, incarnation: str, batch: Batch, committed: Committed, before: Mapping[int, ShardRow]) -> None:
        """A batch was committed by an incarnation, over fence rows that were so before it."""
        for shard, epoch in batch.epochs.items():
            fence = before[shard]
            if fence.epoch != epoch or fence.holder != incarnation or self._epochs[shard] != epoch:
                self.breaks(3, f"a commit under epoch {epoch} of shard {shard}, which is at {fence.epoch}")
        self.hold(batch.rows, 7, "a commit that writes nothing")
        ended = {name for name in {row.workflow_id for row in batch.rows} if self._has_ended(name)}
        for row in batch.rows:
            if row.workflow_id in committed.existing:
                continue
            self.hold(row.shard in batch.epochs, 3, f"a row of shard {row.shard} that nothing fences")
            match row:
                case WorkflowInserted():
                    self._inserted(row)
                case WorkflowUpdated():
                    self._updated(row)
                case NodeAssigned():
                    evicted = row.incarnation in self._evicted.get(incarnation, ())
                    self.hold(not evicted, 12, f"{row.workflow_id} goes to {row.incarnation}, which was evicted")
                    self._assigned(row, batch.epochs[row.shard])
                case NodeChanged():
                    self._changed(row)
                case MapExpanded():
                    self.nodes[row.workflow_id, row.node, -1] = Node(_N.RUNNING)
                    self._seen(self.flows[row.workflow_id], row.version)
                case _:
                    self._noted(incarnation, row)
                    continue
            self.hold(row.workflow_id not in ended, 4, f"{row.workflow_id} had ended, and changes")
        self._limits_hold()

    def _noted(self, incarnation: str, row: Row) -> None:
        match row:
            case PermitsHeld():
                self._permits[row.key, row.holder] = row.count
            case WorkersEvicted():
                self._evicted.setdefault(incarnation, set()).update(row.evicted.split())
            case RetryDue():
                self._seen(self.flows[row.workflow_id], row.version)
            case WorkflowPaused():
                (self._paused.add if row.since_us else self._paused.discard)(row.workflow_id)
            case _:
                pass

    def _limits_hold(self) -> None:
        for key, places in self._limited.items():
            limit = (
                max(wanted.limit for place in places if (wanted := self._wanted(place)) is not None) if places else 0
            )
            self.hold(len(places) <= limit, 6, f"{len(places)} nodes of {key!r} run, more than {limit}")
            for shard, count in Counter(self.flows[name].shard for name, _, _ in places).items():
                has = self._permits.get((key, shard), 0)
                self.hold(count <= has, 6, f"{count} nodes of {key!r} run in shard {shard}, which has {has} permits")

    def _wanted(self, place: Place) -> Concurrency | None:
        concurrency = self.plans[place[0]].concurrency
        return concurrency[place[1]] if concurrency else None

    def _count_limited(self, place: Place, *, running: bool) -> None:
        wanted = self._wanted(place)
        if wanted is not None:
            places = self._limited.setdefault(wanted.key, set())
            (places.add if running else places.discard)(place)

    def _has_ended(self, name: str) -> bool:
        flow = self.flows.get(name)
        return flow is not None and flow.status in workflow_terminal

    def _inserted(self, row: WorkflowInserted) -> None:
        self.hold(row.workflow_id not in self.flows, 1, f"{row.workflow_id} is inserted twice")
        self.flows[row.workflow_id] = Flow(row.shard, row.digest)
        self.open.add(row.workflow_id)

    def _updated(self, row: WorkflowUpdated) -> None:
        flow = self.flows[row.workflow_id]
        allowed = row.status in workflow_transitions[flow.status] or (
            # One that ends in the batch in which it began to: one row says both. A pause leaves it RUNNING.
            flow.status is WorkflowStatus.RUNNING
            and (row.status in workflow_terminal or row.status is WorkflowStatus.RUNNING)
        )
        self.hold(allowed, 4, f"{row.workflow_id} goes from {flow.status.name} to {row.status.name}")
        self.hold(row.version >= flow.version, 4, f"{row.workflow_id} goes back to version {row.version}")
        flow.status, flow.version, flow.output = row.status, row.version, row.output
        if row.status in workflow_terminal:
            self.open.discard(row.workflow_id)

    def _assigned(self, row: NodeAssigned, epoch: int) -> None:
        place = (row.workflow_id, row.node, row.instance)
        key = (row.shard, row.assignment)
        node = self.nodes.setdefault(place, Node())
        flow = self.flows[row.workflow_id]
        self.hold(epoch_of(row.assignment) == epoch, 4, f"assignment {key} is minted by epoch {epoch}")
        self.hold(key not in self._minted, 4, f"assignment {key} is minted twice")
        self.hold(row.workflow_id not in self._paused, 12, f"{place} is assigned, though it is paused")
        self.hold(flow.status is WorkflowStatus.RUNNING, 1, f"{place} is assigned, though it is {flow.status.name}")
        self.hold(_N.RUNNING in _reachable[node.status], 4, f"{place} is assigned, though it is {node.status.name}")
        self._parents_ended(row.workflow_id, row.node, "is assigned")
        self._minted[key] = place
        self._given[key] = row.incarnation
        node.status, node.attempt, node.assignment = _N.RUNNING, row.attempt, row.assignment
        node.incarnation = row.incarnation
        self._count_limited(place, running=True)
        self._seen(flow, row.version)

    def _changed(self, row: NodeChanged) -> None:
        place = (row.workflow_id, row.node, row.instance)
        node = self.nodes.setdefault(place, Node())
        flow = self.flows[row.workflow_id]
        what = f"{place} goes from {node.status.name} to {row.status.name}"
        self.hold(row.status in _reachable[node.status], 4, what)
        self._seen(flow, row.version)
        ran = node.status in (_N.RUNNING, _N.CANCELLING) and node.assignment
        node.status = row.status
        self._count_limited(place, running=row.status in (_N.RUNNING, _N.CANCELLING))
        if not ran or row.status is _N.CANCELLING:
            return
        key = (flow.shard, node.assignment)
        self.hold(key not in self._closed, 4, f"the end of {key} counts twice")
        self._closed.add(key)
        if row.status is _N.SUCCEEDED and row.output is not None and row.failure is None:
            run = self._runs[orjson.loads(row.output)["run"]]
            self.hold(run == key, 4, f"{place} gets a result of {run}, though {key} is current")
            self.hold(run not in self._refused, 4, f"the result of {run} was refused, and is recorded")

    def _seen(self, flow: Flow, version: int) -> None:
        self.hold(version >= flow.version, 4, f"version {version} comes after {flow.version}")
        flow.version = max(flow.version, version)

    def _parents_ended(self, name: str, node: int, act: str) -> None:
        plan = self.plans[name]
        for parent in plan.graph.parents_of(node):
            row = self.nodes.get((name, parent, -1))
            over = row is not None and row.status in (_N.SUCCEEDED, _N.FAILED, _N.SKIPPED)
            self.hold(over, 4, f"node {node} of {name} {act} before node {parent} has ended")

    def acted(self, place: Place, act: NodeAct, answer: Answer) -> None:
        """An operator's act on a node is answered: what was said to be done is committed."""
        if answer.code is AnswerCode.OK and act is not NodeAct.RETRY:
            node = self.nodes.get(place)
            done = node is not None and node.status in (_N.SKIPPED, _N.SUCCEEDED)
            self.hold(done, 2, f"{act.name} of {place} is answered, and is not committed")

    # -- what leaves a coordinator -----------------------------------------------------------------------------------------

    def let_out(self, who: str, incarnation: str, effects: Sequence[Effect]) -> None:
        """A coordinator lets effects out now."""
        if effects:
            age_us = self._world.now_us - self._renewed_us.get(incarnation, 0)
            # Its clock may be slow by a hundredth.
            self.hold(age_us <= self._lease_us * 1.02, 3, f"{who} speaks {age_us} us after its lease was renewed")
        for effect in effects:
            match effect:
                case Assign():
                    key = (effect.shard, effect.assignment)
                    self.hold(key in self._minted, 2, f"assignment {key} leaves before it is committed")
                case Ack():
                    self._acked(effect)
                case Stop(cause=CancelCause.SUPERSEDED):
                    key = (effect.shard, effect.assignment)
                    self.hold(not self._is_current(key), 2, f"{key} is stopped as superseded, though it is current")
                case Ended():
                    flow = self.flows.get(effect.workflow_id)
                    ended = flow is not None and flow.status is effect.status
                    self.hold(ended, 2, f"the end of {effect.workflow_id} is told before it is committed")
                case Changed():
                    flow = self.flows.get(effect.workflow_id)
                    there = flow is not None and flow.version >= effect.version
                    self.hold(there, 2, f"version {effect.version} of {effect.workflow_id} is told before its commit")
                case _:
                    pass

    def _acked(self, ack: Ack) -> None:
        key = (ack.shard, ack.assignment)
        if ack.disposition is Disposition.RECORDED:
            self.hold(key in self._closed, 1, f"the result of {key} is acknowledged before it is committed")
        elif ack.disposition is Disposition.STALE:
            self._refused.add(key)
            self.hold(not self._is_current(key), 4, f"the result of {key} is refused, though it is current")

    def _is_current(self, key: tuple[int, int]) -> bool:
        """Tell whether an assignment is, as it is committed, that of a running node."""
        place = self._minted.get(key)
        node = self.nodes[place] if place is not None else None
        return node is not None and node.assignment == key[1] and node.status is _N.RUNNING

    # -- what clients learn ------------------------------------------------------------------------------------------------

    def submitted(self, name: str, digest: bytes, answer: Answer) -> None:
        """A submit was answered."""
        flow = self.flows.get(name)
        if answer.code is AnswerCode.OK:
            self.hold(flow is not None and flow.digest == digest, 1, f"{name} is acknowledged before it is committed")
            self.acknowledged.add(name)
        elif answer.code is AnswerCode.ALREADY_EXISTS:
            self.hold(flow is not None and flow.digest != digest, 2, f"{name} is refused as another one's, and is not")

    def cancelled(self, name: str, open_before: bool, answer: Answer) -> None:
        """A cancel was answered; `open_before`: the workflow was open when it was asked for."""
        flow = self.flows.get(name)
        if answer.code is AnswerCode.OK:
            stops = flow is not None and flow.status is not WorkflowStatus.RUNNING
            self.hold(stops, 1, f"the cancel of {name} is acknowledged before it is committed")
        elif answer.code is AnswerCode.NOT_FOUND:
            missing = not open_before or self._has_ended(name)
            self.hold(missing, 2, f"a cancel finds no {name}, which is open")

    def version_of(self, name: str) -> int:
        """Return the version of an open workflow, 0 if it is not open."""
        flow = self.flows.get(name)
        return flow.version if flow is not None and flow.status not in workflow_terminal else 0

    def read(self, name: str, version_before: int, answer: Answer) -> None:
        """A read was answered; `version_before` was committed when it was asked for."""
        if answer.code is AnswerCode.OK and answer.view is not None:
            flow, version = self.flows.get(name), answer.view.version
            self.hold(flow is not None and version <= flow.version, 2, f"a read sees {name} before its commit")
            self.hold(version >= version_before, 2, f"a read sees {name} at {version}, which was at {version_before}")
        elif answer.code is AnswerCode.NOT_FOUND:
            missing = not version_before or self._has_ended(name)
            self.hold(missing, 2, f"a read finds no {name}, which is open")

    # -- what workers do ---------------------------------------------------------------------------------------------------

    def stated(self, worker: object, shard: int, epoch: int, running: Iterable[int]) -> None:
        """A worker states what it has of a shard, under an epoch; what it says to run counts as started."""
        self._running.update((worker, shard, number) for number in running)
        self._stated[worker, shard] = max(epoch, self._stated.get((worker, shard), 0))

    def went_on(self, worker: object, had: Iterable[tuple[int, int]]) -> None:
        """A worker goes on that stood still for longer than it takes to be given up; `had` are those that it has begun."""
        self._stood_still[worker] = (self._world.now_us, frozenset(had))

    def sent(self, keys: Sequence[tuple[int, int]]) -> None:
        """A coordinator's stream sends assignments."""
        for key in keys:
            self._sent_us[key] = self._world.now_us
            self.hold(key in self._minted, 2, f"assignment {key} is sent before it is committed")

    def started(
        self, worker: object, incarnation: str, shard: int, assignment: int, epoch: int, running: int, slots: int
    ) -> int:
        """A worker starts the code of an assignment that was sent under an epoch; returns the number of this run."""
        given = self._given.get((shard, assignment), incarnation)
        self.hold(given == incarnation, 10, f"({shard}, {assignment}) of {given} is started by {incarnation}")
        stated = self._stated.get((worker, shard), 0)
        promised = epoch < stated and (worker, shard, assignment) not in self._running
        self.hold(not promised, 11, f"({shard}, {assignment}) of epoch {epoch} is started after {stated} was stated")
        place = self._minted.get((shard, assignment))
        self.hold(place is not None, 2, f"({shard}, {assignment}) is started, though it was never committed")
        went_on_us, had = self._stood_still.get(worker, (0, frozenset[tuple[int, int]]()))
        fresh = self._sent_us.get((shard, assignment), 0) >= went_on_us or (shard, assignment) in had
        self.hold(
            fresh, 11, f"({shard}, {assignment}) is started, which was sent while its worker stood still for long"
        )
        self.hold(running <= slots, 6, f"{running} attempts run on {slots} slots")
        if place is not None:
            self._parents_ended(place[0], place[1], "starts")
        self._runs.append((shard, assignment))
        return len(self._runs) - 1

    # -- the end -----------------------------------------------------------------------------------------------------------

    def agrees_with(self, workflows: Mapping[str, Any], nodes: Mapping[Place, Any]) -> None:
        """Hold the database against the account, at the end."""
        for name in self.acknowledged:
            self.hold(name in workflows, 1, f"{name} was acknowledged, and is not there")
        for name, flow in self.flows.items():
            stored = workflows.get(name)
            same = stored is not None and stored.status is flow.status
            self.hold(same, 1, f"{name} is not in the database as it was committed")
        for place, node in self.nodes.items():
            stored = nodes.get(place)
            self.hold(stored is None or stored.status is node.status, 1, f"{place} is not as it was committed")
            over = node.status in node_terminal or self.flows[place[0]].status in workflow_terminal
            self.hold(over, 5, f"{place} is left {node.status.name}")
