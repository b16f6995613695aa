"""Workers come, go, and say what they have.

What a worker runs is the truth; what we believe is corrected by its inventory. A worker gets work of a shard only after it has stated
its inventory of that shard on this stream and under our epoch, so what a current inventory omits is not there. One that was given up
and comes back is like any other: it keeps what was not offered elsewhere, and is told to stop the rest.
"""

from collections.abc import Mapping, Sequence

from mainspring import ids, limits
from mainspring.errors import Failure
from mainspring.failures import start_to_close_timeout
from mainspring_coordinator.engine import crowding, eviction, lost_history, nodes, workflows
from mainspring_coordinator.engine.absence import (
    end_grace,
    give_up,
    held_by,
    leave_classes,
    remove,
    untie_in_parts,
    untie_left_behind,
    workflow_of,
)
from mainspring_coordinator.engine.effects import (
    Ack,
    CancelCause,
    Disposition,
    EchoCredit,
    Refuse,
    Replace,
    Stop,
    Welcomed,
)
from mainspring_coordinator.engine.events import (
    CreditSet,
    Inventory,
    LoadReported,
    ProgressReported,
    ResultItem,
    WorkerAttached,
    WorkerDraining,
    WorkerResumed,
)
from mainspring_coordinator.engine.placement.base import shard_place
from mainspring_coordinator.engine.rows import ProgressSaved
from mainspring_coordinator.engine.state import Assignment, ShardState, WorkflowState, runs
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from mainspring_coordinator.engine.timers import Timer
from mainspring_coordinator.engine.turn import Act, Turn
from mainspring_coordinator.engine.worker import WorkerState


def attached(turn: Turn, event: WorkerAttached) -> None:
    """A worker's stream is there: welcome it, or say why not."""
    state = turn.state
    if eviction.refuse(turn, event) or _is_anothers(turn, event):
        return
    holder = state.names.get(event.name)
    if holder is not None and holder != event.incarnation and not _give_up_name(turn, holder):
        message = (
            f"a worker named {event.name!r} is attached already; "
            "give this one another name (--name or ENGINE_INSTANCE_ID)"
        )
        turn.emit(Refuse(event.session, "NAME_TAKEN", message))
        return
    before = state.sessions.get(event.incarnation)
    if before is not None:
        remove(turn, state.workers[before])
        turn.emit(Replace(before))
    worker = WorkerState(
        event.session,
        event.name,
        event.incarnation,
        event.host,
        event.zone,
        _labels_of(event),
        event.executors,
        event.slots,
        event.workflows_max,
    )
    state.workers[event.session] = worker
    state.sessions[event.incarnation] = event.session
    state.given_up.pop(event.incarnation, None)
    state.departed.pop(event.incarnation, None)
    state.names[event.name] = event.incarnation
    state.origins.locate(worker.incarnation, worker.host, worker.zone)
    _join_classes(turn, worker)
    turn.emit(Welcomed(event.session))


def _is_anothers(turn: Turn, event: WorkerAttached) -> bool:
    """Turn away whoever comes under the incarnation of a worker of another name; tell whether it did.

    What the incarnation has of us says whose it is; a stream may have come before that was read.
    """
    state = turn.state
    held = held_by(turn, event.incarnation)
    known = held[0].worker if held else ""
    if not known and (session := state.sessions.get(event.incarnation)) is not None:
        known = state.workers[session].name
    if known in ("", event.name):
        return False
    message = (
        f"incarnation {event.incarnation} is worker {known!r}, and not {event.name!r}; each start of a worker makes an incarnation "
        "of its own, so start this one again"
    )
    turn.emit(Refuse(event.session, "PROTOCOL_ERROR", message))
    return True


def _has(worker: WorkerState, assignment: Assignment) -> bool:
    """Tell whether an attempt was given to this worker, which is a name and an incarnation."""
    return assignment.incarnation == worker.incarnation and assignment.worker == worker.name


def _join_classes(turn: Turn, worker: WorkerState) -> None:
    """Count a worker among those that take work; it has stated no inventory yet."""
    state = turn.state
    state.pool.add(worker.session, worker.name, worker.host, worker.zone, worker.labels, worker.executors)
    state.update_room(worker.incarnation)
    for ready in state.ready.classes.values():
        if runs(worker, ready.key):
            state.backlog.join(ready, worker.session)


def _labels_of(event: WorkerAttached) -> Mapping[str, str]:
    """Return a worker's labels; where it is may be asked for as if it were one of them."""
    places = {"host": event.host, "zone": event.zone}
    return {**{name: place for name, place in places.items() if place}, **event.labels}


def _give_up_name(turn: Turn, incarnation: str) -> bool:
    """One of the same name attaches: give up a worker that is absent for longer than its grace, and was not yet; tell whether.

    With failover off it keeps its work until then, as it does while we are cut off from all.
    """
    state = turn.state
    worker = state.workers[state.sessions[incarnation]]
    if worker.attached or turn.now_us < worker.absent_since_us + state.config.stream_grace_us:
        return False
    give_up(turn, worker)
    return True


def inventory(turn: Turn, shard: ShardState, event: Inventory) -> None:
    """A worker says what it has of a shard: adopt it, offer again what is not there, stop what should not be."""
    worker = turn.state.workers.get(event.session)
    if worker is None or not worker.attached:
        return
    if event.epoch != shard.epoch:
        # Under another epoch it proves nothing; the worker hears of ours and states it anew. Unless it has seen a higher one: then we are
        # not the owner any more, or the database has lost history, and the worker takes nothing of us.
        if event.epoch > shard.epoch:
            lost_history.claimed(turn, shard, worker, event.epoch)
        return
    has = {*event.queued, *event.running, *event.finished}
    to_stop: list[Assignment] = []
    missing: list[Assignment] = []
    for assignment in [held for held in held_by(turn, worker.incarnation) if held.shard == shard.shard]:
        if assignment.id in has and _has(worker, assignment):
            # It has come, so that an inventory without it says that it is gone; its number may be that of an earlier stream.
            assignment.session, assignment.ordinal = worker.session, 0
            if assignment.cancelling:
                to_stop.append(assignment)
        elif assignment.session != worker.session or assignment.ordinal <= event.ordinal_seen:
            missing.append(assignment)
    unknown = [number for number in (*event.queued, *event.running) if _is_void(shard, worker, number)]
    if (highest := max(has, default=0)) >= _next_id(shard):
        # Minted in a history that the database has lost: what it names would be taken for the next that we mint.
        if not lost_history.claimed(turn, shard, worker, ids.epoch_of(highest)):
            return
    elif shard.next_number > limits.assignment_number_max:
        # Said again, should the first time have come to nothing.
        lost_history.hold_assignments(turn, shard)
    else:
        turn.state.reconcile(worker, shard.shard)
    turn.begin(_let_in_parts(turn, shard))
    turn.begin(_reconcile_in_parts(turn, shard, worker, to_stop, missing, unknown))


def _next_id(shard: ShardState) -> int:
    return ids.assignment_id(shard.epoch, shard.next_number)


def _let_in_parts(turn: Turn, shard: ShardState) -> Act:
    """There is a worker that may take what waits of a shard."""
    while turn.state.ready.let_in(shard.shard, turn.state.eligible_sessions, turn.now_us):
        turn.left -= 1
        if turn.left <= 0:
            turn = yield
            if turn.state.shards.get(shard.shard) is not shard:
                return
    place = shard_place(shard.shard)
    yield from untie_in_parts(turn, place, lambda ready: turn.state.pool.has_stated(ready.want, shard.shard))


def _is_void(shard: ShardState, worker: WorkerState, number: int) -> bool:
    """Tell whether an attempt that a worker has is not one that it should have."""
    known = shard.live.get(number)
    return (known is None or not _has(worker, known)) and ids.epoch_of(number) <= shard.epoch


def _reconcile_in_parts(
    turn: Turn,
    shard: ShardState,
    worker: WorkerState,
    to_stop: Sequence[Assignment],
    missing: Sequence[Assignment],
    unknown: Sequence[int],
) -> Act:
    """Act on the differences between what a worker has and what we believed. Its next inventory shows what is still to do."""
    for assignment in to_stop:
        if turn.left <= 0:
            turn = yield
        if turn.state.has(assignment):
            turn.left -= 1
            workflow = workflow_of(turn, assignment)
            workflows.stop(turn, workflow, assignment, workflows.stop_cause(workflow))
    for assignment in missing:
        if turn.left <= 0:
            turn = yield
        if turn.state.has(assignment):
            turn.left -= 1
            nodes.offer_again(turn, workflow_of(turn, assignment), assignment, died=False)
    for number in unknown:
        if turn.left <= 0:
            turn = yield
            if turn.state.shards.get(shard.shard) is not shard or worker.session not in turn.state.workers:
                return
        turn.left -= 1
        about = shard.gone.get(number, "")
        turn.emit(Stop(worker.session, shard.shard, shard.epoch, about, number, CancelCause.SUPERSEDED))
    end_grace(turn, shard)


def result(turn: Turn, session: int, item: ResultItem) -> None:
    """An attempt has ended: record it once, or refuse it."""
    state = turn.state
    worker = state.workers.get(session)
    if worker is None:
        return
    shard = state.shards.get(item.shard)
    if shard is None or ids.epoch_of(item.assignment) > shard.epoch:
        turn.emit(Ack(session, item.shard, 0, "", item.assignment, Disposition.NOT_OWNER))
        return
    assignment = shard.live.get(item.assignment)
    if assignment is None or not _has(worker, assignment):
        # With its workflow, so that this goes with the end of the attempt if the database refuses that.
        recorded = shard.recent.get(item.assignment)
        if recorded is None:
            state.refused_results += 1
        disposition = Disposition.RECORDED if recorded is not None else Disposition.STALE
        about = recorded or shard.gone.get(item.assignment, "")
        turn.emit(Ack(session, shard.shard, shard.epoch, about, item.assignment, disposition))
        return
    workflow = shard.workflows[assignment.workflow_id]
    turn.emit(Ack(session, shard.shard, shard.epoch, workflow.id, item.assignment, Disposition.RECORDED))
    state.remember_recent(shard, assignment)
    _record(turn, workflow, assignment, item)
    workflows.end_if_closed(turn, workflow)


def _record(turn: Turn, workflow: WorkflowState, assignment: Assignment, item: ResultItem) -> None:
    crowding.ran(workflow, item.run_us)
    if item.status is NodeStatus.SUCCEEDED:
        nodes.succeeded(turn, workflow, assignment, item.output, item.run_us)
    elif item.status is NodeStatus.FAILED:
        assert item.failure is not None
        nodes.failed(turn, workflow, assignment, item.failure, item.run_us)
    elif assignment.cancelling:
        nodes.cancelled(turn, workflow, assignment, item.run_us)
    else:
        # Stopped or never started for the worker's own reasons (it drains, it lost sight of us): nothing counts against the node.
        nodes.offer_again(turn, workflow, assignment, died=False)


def attempt_overdue(turn: Turn, shard: ShardState, timer: Timer) -> None:
    """An attempt runs longer than it may, and its worker has not ended it."""
    assignment = shard.live.get(timer.number)
    if assignment is None or assignment.cancelling:
        return
    heard_by_us = max(shard.grace_until_us, (shard.ready_us or turn.now_us) + turn.state.config.stream_grace_us)
    if not assignment.session and turn.now_us < heard_by_us:
        # It may have ended in time while the shard had no owner, and its worker has not been able to say so.
        turn.state.timers.put_back(timer._replace(due_us=heard_by_us))
        return
    workflow = shard.workflows[assignment.workflow_id]
    if assignment.session:
        turn.emit(Stop(assignment.session, shard.shard, shard.epoch, workflow.id, assignment.id, CancelCause.TIMED_OUT))
    limit = workflow.plan.nodes[assignment.node].start_to_close_ms
    nodes.failed(turn, workflow, assignment, Failure(start_to_close_timeout, f"it ran longer than {limit} ms"), 0)


def progress(turn: Turn, shard: ShardState, event: ProgressReported) -> None:
    """A running attempt tells of itself; the next attempt can read it."""
    assignment = shard.live.get(event.assignment)
    worker = turn.state.workers.get(event.session)
    if assignment is None or worker is None or not _has(worker, assignment):
        return
    workflow = shard.workflows[assignment.workflow_id]
    if workflow.status is not WorkflowStatus.RUNNING:
        return
    workflow.progress[assignment.node, assignment.instance] = event.details
    node, instance = assignment.node, assignment.instance
    version = turn.state.touch(workflow, node, instance)
    turn.store(ProgressSaved(shard.shard, workflow.id, node, instance, version, event.details))


def credit(turn: Turn, event: CreditSet) -> None:
    """A worker sets the bound on what it may have from us."""
    worker = turn.state.workers.get(event.session)
    if worker is None or event.seq <= worker.credit_seq:
        return
    worker.credit_seq = event.seq
    worker.credit = event.limit
    turn.state.update_room(worker.incarnation)
    turn.emit(EchoCredit(worker.session, event.seq))


def load(turn: Turn, event: LoadReported) -> None:
    """A worker says how busy it is."""
    worker = turn.state.workers.get(event.session)
    if worker is not None:
        worker.cpu, worker.memory = event.cpu, event.memory
        turn.state.update_room(worker.incarnation)


def draining(turn: Turn, event: WorkerDraining) -> None:
    """A worker takes no more work."""
    worker = turn.state.workers.get(event.session)
    if worker is not None:
        worker.draining = True
        turn.state.update_room(worker.incarnation)
        leave_classes(turn, worker)
        untie_left_behind(turn, worker.incarnation)


def resumed(turn: Turn, event: WorkerResumed) -> None:
    """A worker takes work again. As one that has just attached it gets some of a shard once it has stated what it has of it."""
    worker = turn.state.workers.get(event.session)
    if worker is not None and worker.attached and worker.draining:
        worker.draining = False
        worker.reconciled.clear()
        _join_classes(turn, worker)
