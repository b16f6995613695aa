"""Safety nets, to be taken away one at a time: what the simulation must see when one is missing.

Each patches the project for as long as it is at work; nothing of this is known to the project itself.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final
from unittest.mock import patch

from mainspring_coordinator import batch
from mainspring_coordinator.engine import absence, dispatch, fleet, nodes, recovery, step, workflows
from mainspring_coordinator.engine.choices import Candidates
from mainspring_coordinator.engine.effects import Ack, Assign, Effect
from mainspring_coordinator.engine.events import Inventory, ResultItem
from mainspring_coordinator.engine.placement import Strategy
from mainspring_coordinator.engine.placement.strategies import LoadBalanced
from mainspring_coordinator.engine.state import ShardState, State
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from mainspring_coordinator.engine.turn import Turn
from mainspring_coordinator.epoch import Lease
from mainspring_coordinator.loop import ControlLoop
from mainspring_coordinator.shard_loader import ShardLoader
from mainspring_coordinator.store.memory import MemoryJournal, MemoryLockSession
from mainspring_worker.attempts import Phase, Session, Start
from mainspring_worker.machine import Machine


@dataclass(frozen=True, slots=True)
class Mutation:
    """One net that is missing."""

    name: str
    missing: str
    """What is taken away."""
    patches: Callable[[], Sequence[Any]]
    breaks: str
    """The law that is seen to be broken."""
    seed: int
    """One that sees it."""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Take the net away meanwhile."""
        with ExitStack() as stack:
            for patched in self.patches():
                stack.enter_context(patched)
            yield


def _early(kind: type[Effect]) -> Sequence[Any]:
    cut = ControlLoop._cut

    def early_cut(loop: ControlLoop) -> None:
        gathered = loop._gathering
        early = [effect for effect in gathered.outward if isinstance(effect, kind)]
        gathered.outward = [effect for effect in gathered.outward if not isinstance(effect, kind)]
        if early:
            loop._delivery.let_out(early)
        cut(loop)

    return [patch.object(ControlLoop, "_cut", early_cut)]


def _omissions_ignored() -> Sequence[Any]:
    inventory = fleet.inventory

    def credulous(turn: Turn, shard: ShardState, event: Inventory) -> None:
        worker = turn.state.workers.get(event.session)
        held = turn.state.held.get(worker.incarnation) if worker is not None else None
        omitted = [number for at, number in held.assignments if at == event.shard] if held is not None else []
        inventory(turn, shard, replace(event, finished=(*event.finished, *omitted)))

    return [patch.dict(step._of_a_ready_shard, {Inventory: credulous})]


def _epochs_ignored() -> Sequence[Any]:
    assigned = Machine.assigned

    def trusting(machine: Machine, session: int, works: Any) -> Any:
        present = [replace(work, epoch=max(work.epoch, machine.epochs.get(work.shard, 0))) for work in works]
        return assigned(machine, session, present)

    return [patch.object(Machine, "assigned", trusting)]


def _any_result_counts() -> Sequence[Any]:
    result, add_live = fleet.result, State.add_live
    places: dict[tuple[int, int], tuple[str, int, int]] = {}

    def noting(state: State, workflow: Any, assignment: Any) -> None:
        places[assignment.shard, assignment.id] = (assignment.workflow_id, assignment.node, assignment.instance)
        add_live(state, workflow, assignment)

    def lenient(turn: Turn, session: int, item: ResultItem) -> None:
        shard = turn.state.shards.get(item.shard)
        place = places.get((item.shard, item.assignment))
        if shard is not None and item.assignment not in shard.live and place is not None:
            for current in shard.live.values():
                if (current.workflow_id, current.node, current.instance) == place:
                    item = replace(item, assignment=current.id)
                    session = turn.state.sessions.get(current.incarnation, session)
        result(turn, session, item)

    return [patch.object(fleet, "result", lenient), patch.object(State, "add_live", noting)]


def _cut_off_judges() -> Sequence[Any]:
    def absent_until_us(turn: Turn, since_us: int, told_us: int = 0) -> int:
        return since_us + turn.state.config.stream_grace_us

    return [patch.object(absence, "absent_until_us", absent_until_us)]


def _lease_for_ever() -> Sequence[Any]:
    return [patch.object(Lease, "fresh", lambda lease, _now_us: lease._sent_us is not None)]


def _echo_ignored() -> Sequence[Any]:
    return [patch.object(Session, "ceiling", property(lambda session: session.limit))]


def _state_kept() -> Sequence[Any]:
    return [patch.object(recovery, "lost", lambda _turn, _shard: None)]


def _fence_ignored() -> Sequence[Any]:
    return [patch.object(MemoryJournal, "_fence", lambda _journal, _epochs, adopted: None)]


def _commit_repeated() -> Sequence[Any]:
    commit = MemoryJournal.commit

    def forgetful(journal: MemoryJournal, batch: Any) -> Any:
        journal._done = None
        return commit(journal, batch)

    return [patch.object(MemoryJournal, "commit", forgetful)]


def _ids_not_looked_up() -> Sequence[Any]:
    return [patch.object(MemoryJournal, "_existing", lambda _journal, _rows: {})]


def _epoch_not_raised() -> Sequence[Any]:
    take = MemoryLockSession.take

    def lazy(session: MemoryLockSession, shard: Any, incarnation: str, grace_us: int, death: str) -> Any:
        row = take(session, shard, incarnation, grace_us, death)
        if row is not None and shard.epoch:
            row = replace(row, epoch=shard.epoch)
            session._store.tables.shards[row.shard] = row
        return row

    return [patch.object(MemoryLockSession, "take", lazy)]


def _parents_ignored() -> Sequence[Any]:
    make_ready = nodes.make_ready

    def eager(turn: Turn) -> None:
        while turn.released:
            workflow, node = turn.released.popleft()
            for child in workflow.plan.graph.children_of(node):
                workflow.remaining[child] -= 1
                if workflow.statuses[child] == NodeStatus.WAITING and workflow.status is WorkflowStatus.RUNNING:
                    make_ready(turn, workflow, child)
            workflows.finish_if_done(turn, workflow)

    return [patch.object(nodes, "settle", eager)]


def _slots_ignored() -> Sequence[Any]:
    def start_all(machine: Machine) -> Any:
        instructions: list[Start] = []
        while machine._queue:
            attempt = machine.attempts[machine._queue.popleft()]
            attempt.phase = Phase.RUNNING
            machine._active += 1
            instructions.append(Start(attempt.work))
        return instructions

    return [patch.object(Machine, "_start", start_all)]


def _dispatched_later() -> Sequence[Any]:
    dispatch_now = dispatch.dispatch

    def lazy(turn: Turn, strategies: Mapping[str, Strategy]) -> bool:
        recorded = any(isinstance(effect, Ack) for effect in turn.effects)
        return False if recorded else dispatch_now(turn, strategies)

    return [patch.object(dispatch, "dispatch", lazy)]


def _placed_by_chance() -> Sequence[Any]:
    chance = random.Random(1)

    def choose(_strategy: LoadBalanced, choices: Candidates) -> int:
        return chance.choice([session for session in choices._state.pool.members if choices.can_take(session)])

    return [patch.object(LoadBalanced, "choose", choose)]


def _deferred_without_bound() -> Sequence[Any]:
    return [patch.object(step, "_defer", lambda _turn, shard, event: shard.deferred.append(event))]


def _permits_forgotten() -> Sequence[Any]:
    return [patch.object(ShardLoader, "_permits", lambda _loader, _shard: ())]


def _unproven() -> Sequence[Any]:
    return [patch.object(batch, "needs_proof", lambda _effect: False)]


_all: Final = (
    Mutation("fence-ignored", "a write transaction does not prove its epochs", _fence_ignored, "law 3", 10),
    Mutation("epoch-not-raised", "a new owner keeps the epoch of the one before", _epoch_not_raised, "law 3", 1),
    Mutation(
        "ack-before-commit",
        "results are acknowledged before the commit that holds them",
        lambda: _early(Ack),
        "law 1",
        1,
    ),
    Mutation("assign-before-commit", "assignments leave before their commit", lambda: _early(Assign), "law 2", 1),
    Mutation("omissions-ignored", "what an inventory omits is not offered again", _omissions_ignored, "law 5", 5),
    Mutation(
        "epochs-ignored", "a worker takes assignments of lower epochs than it has seen", _epochs_ignored, "law 11", 14
    ),
    Mutation(
        "stalls-unnoticed",
        "a worker that stood still begins what was sent meanwhile",
        lambda: [patch.object(Machine, "stood_still", lambda _machine, _ping: None)],
        "law 11",
        12,
    ),
    Mutation(
        "cut-off-judges",
        "a coordinator that is cut off from all workers takes them for dead",
        _cut_off_judges,
        "law 11",
        24,
    ),
    Mutation("any-result-counts", "a result counts whichever attempt it is of", _any_result_counts, "law 4", 17),
    Mutation("lease-for-ever", "a coordinator speaks however old its lease is", _lease_for_ever, "law 3", 1),
    Mutation(
        "echo-ignored",
        "a worker gives credit away before the coordinator that had it has let go",
        _echo_ignored,
        "law 6",
        1,
    ),
    Mutation("state-kept", "a coordinator that loses a shard keeps what it knew of it", _state_kept, "law 6", 2),
    Mutation("commit-repeated", "a commit whose answer was lost is made again", _commit_repeated, "law 4", 1),
    Mutation("ids-not-looked-up", "a submit does not look whether its id is taken", _ids_not_looked_up, "law 1", 1),
    Mutation(
        "parents-ignored",
        "a node becomes ready with the first of those that it depends on",
        _parents_ignored,
        "law 4",
        1,
    ),
    Mutation("dispatched-later", "what an end frees waits for another commit", _dispatched_later, "law 7", 1),
    Mutation("placed-by-chance", "the engine draws where a node goes", _placed_by_chance, "law 8", 8),
    Mutation(
        "deferred-without-bound",
        "whatever comes for a shard that is being recovered is kept",
        _deferred_without_bound,
        "law 9",
        34,
    ),
    Mutation(
        "permits-forgotten",
        "the new owner of a key's home does not read back who has permits",
        _permits_forgotten,
        "law 6",
        42,
    ),
    Mutation("unproven", "answers leave without a proof that the shard is still ours", _unproven, "law 2", 350),
    Mutation("slots-ignored", "a worker starts whatever it is given", _slots_ignored, "law 6", 2),
)
mutations: Final = {mutation.name: mutation for mutation in _all}
