"""Workers come, go, and say what they have.

What a worker runs is the truth; what we believe is corrected by its inventory. A worker gets work of a shard only after it has stated
its inventory of that shard on this stream and under our epoch, so what a current inventory omits is not there. One that was given up
and comes back is like any other: it keeps what was not offered elsewhere, and is told to stop the rest.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from mainspring import ids, limits
from mainspring.errors import Failure
from mainspring.failures import start_to_close_timeout
from mainspring_coordinator.engine import failovers, nodes, workflows
from mainspring_coordinator.engine.alone import end_reservation
from mainspring_coordinator.engine.effects import (
    Ack,
    CancelCause,
    Disposition,
    EchoCredit,
    EpochSpent,
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
    WorkerDetached,
    WorkerDraining,
)
from mainspring_coordinator.engine.placement.base import shard_place, worker_place
from mainspring_coordinator.engine.ready import ReadyClass
from mainspring_coordinator.engine.rows import GraceEnded, ProgressSaved
from mainspring_coordinator.engine.state import Assignment, ShardState, WorkerState, WorkflowState, runs
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from mainspring_coordinator.engine.timers import Timer, TimerKind
from mainspring_coordinator.engine.turn import Act, Turn

_stall_us: Final = 1_000_000
"""The host looks for what is due several times a second."""


def attached(turn: Turn, event: WorkerAttached) -> None:
    """A worker's stream is there: welcome it, or say why not."""
    state = turn.state
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
        _remove(turn, state.workers[before])
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
    if state.cut_off:
        # Not from when that was last looked at: the others cannot have come back before now either.
        state.cut_off, state.cut_off_us = False, turn.now_us
    state.workers[event.session] = worker
    state.sessions[event.incarnation] = event.session
    state.given_up.pop(event.incarnation, None)
    state.departed.pop(event.incarnation, None)
    state.names[event.name] = event.incarnation
    state.pool.add(worker.session, worker.name, worker.host, worker.zone, worker.labels, worker.executors)
    state.update_room(worker.incarnation)
    state.origins.locate(worker.incarnation, worker.host, worker.zone)
    for ready in state.ready.classes.values():
        if runs(worker, ready.key):
            state.backlog.join(ready, worker.session)
    turn.emit(Welcomed(event.session))


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


def detached(turn: Turn, event: WorkerDetached) -> None:
    """A stream ended. The end of an older session never touches a newer one."""
    state = turn.state
    worker = state.workers.get(event.session)
    if worker is None or not worker.attached:
        return
    worker.attached = False
    worker.absent_since_us = turn.now_us
    _leave_classes(turn, worker)
    held = _held(turn, worker.incarnation)
    for assignment in held:
        assignment.session = 0
    if event.goodbye:
        state.remember_departed(worker.incarnation)
        _remove(turn, worker)
        turn.begin(_offer_in_parts(turn, held, died=False))
        return
    state.timers.set(
        turn.now_us + state.config.stream_grace_us,
        TimerKind.WORKER_GRACE,
        workflow_id=worker.incarnation,
        number=worker.session,
    )


def offer_departed(turn: Turn, shard: ShardState) -> None:
    """A shard is ready: offer again what is with workers that said goodbye before it was, maybe not to the owner before us."""
    state = turn.state
    gone = [held for incarnation, held in state.held.items() if incarnation in state.departed]
    left = [one for held in gone for one in held.assignments.values() if one.shard == shard.shard]
    if left:
        turn.begin(_offer_in_parts(turn, left, died=False))


def grace_over(turn: Turn, timer: Timer) -> None:
    """A worker did not attach again in time."""
    state = turn.state
    worker = state.workers.get(timer.number)
    if worker is None or worker.attached:
        return
    due_us = absent_until_us(turn, worker.absent_since_us)
    if turn.now_us - timer.due_us > _stall_us and not worker.extended:
        # We stood still ourselves, and it may have come back meanwhile. Once, so that one who is always late gives up too.
        worker.extended = True
        due_us = turn.now_us + state.config.stream_grace_us
    if due_us > turn.now_us:
        state.timers.set(due_us, TimerKind.WORKER_GRACE, workflow_id=worker.incarnation, number=worker.session)
    elif state.config.failover:
        give_up(turn, worker)
    else:
        worker.overdue = True
        _put_on_record(turn, worker)


def absent_until_us(turn: Turn, since_us: int) -> int:
    """Return how long a worker may be absent.

    Who has no workers at all while a peer has some is cut off itself, and judges nobody: its shards go to that peer, which has their
    workers. If its workers come back first, the absent ones get a whole grace again.
    """
    state = turn.state
    # Once a step is enough, however many are absent.
    if state.cut_off_us != turn.now_us:
        state.cut_off = state.peers_have_workers and not any(worker.attached for worker in state.workers.values())
        if state.cut_off:
            state.cut_off_us = turn.now_us
    return max(since_us, state.cut_off_us) + state.config.stream_grace_us


def give_up(turn: Turn, worker: WorkerState) -> None:
    """Offer a worker's work elsewhere."""
    _remove(turn, worker)
    if not worker.overdue:
        _put_on_record(turn, worker)
    turn.begin(_offer_in_parts(turn, _held(turn, worker.incarnation), died=True))


def _offer_in_parts(turn: Turn, absent: Sequence[Assignment], *, died: bool) -> Act:
    """Offer again what an absent worker had. Its rows name the incarnation, so that a successor misses it as well."""
    for assignment in absent:
        if turn.left <= 0:
            turn = yield
        while assignment.shard in turn.state.occupied:
            turn = yield
        # With a session it is adopted: the same process came back, and has it.
        if not assignment.session and turn.state.has(assignment):
            turn.left -= 1
            nodes.offer_again(turn, _workflow_of(turn, assignment), assignment, died=died)


def _put_missed_on_record(turn: Turn, shard: ShardState, missed: dict[str, failovers.Missed]) -> None:
    if turn.state.shards.get(shard.shard) is shard:
        for incarnation, held in missed.items():
            failovers.worker_never_came(turn, shard, incarnation, held)
    missed.clear()


def _put_on_record(turn: Turn, worker: WorkerState) -> None:
    held = [assignment for assignment in _held(turn, worker.incarnation) if turn.state.has(assignment)]
    failovers.worker_died(turn, worker, held)


def shard_grace_over(turn: Turn, shard: ShardState, timer: Timer) -> None:
    """Workers that have not come back since we took a shard are lost to it."""
    if timer.number != shard.epoch:
        return
    due_us = absent_until_us(turn, 0)
    if due_us > turn.now_us:
        turn.state.timers.set(due_us, TimerKind.SHARD_GRACE, shard=shard.shard, number=shard.epoch)
    else:
        turn.begin(_miss_in_parts(turn, shard, list(shard.live.values())))


def _miss_in_parts(turn: Turn, shard: ShardState, assignments: Sequence[Assignment]) -> Act:
    state = turn.state
    waiting = False
    missed: dict[str, failovers.Missed] = {}
    for assignment in assignments:
        if turn.left <= 0:
            if state.config.failover:
                _put_missed_on_record(turn, shard, missed)
            turn = yield
        if assignment.session or not state.has(assignment):
            continue
        turn.left -= 1
        if assignment.incarnation in state.sessions:
            # It is attached, or in its own grace; what it has, its inventory will say.
            waiting = True
            continue
        if assignment.incarnation in state.departed:
            nodes.offer_again(turn, _workflow_of(turn, assignment), assignment, died=False)
            continue
        missed.setdefault(assignment.incarnation, failovers.Missed(assignment.worker)).add(shard, assignment)
        if not state.config.failover and assignment.worker not in state.names:
            waiting = True  # for a worker of its name
            continue
        nodes.offer_again(turn, _workflow_of(turn, assignment), assignment, died=True)
    _put_missed_on_record(turn, shard, missed)
    if waiting and state.shards.get(shard.shard) is shard:
        due_us = turn.now_us + state.config.stream_grace_us
        state.timers.set(due_us, TimerKind.SHARD_GRACE, shard=shard.shard, number=shard.epoch)


def end_grace(turn: Turn, shard: ShardState) -> None:
    """End the grace as soon as nobody is waited for, so that the next owner gives workers a whole one and not what is left of it.

    While somebody is, it stays: takeovers that follow each other must not renew it.
    """
    if turn.state.shards.get(shard.shard) is not shard or shard.grace_until_us <= turn.now_us:
        return
    if not shard.ready or shard.reloading:
        return  # somebody may have work in what is still to come
    if all(assignment.session for assignment in shard.live.values()):
        shard.grace_until_us = 0
        turn.store(GraceEnded(shard.shard))


def inventory(turn: Turn, shard: ShardState, event: Inventory) -> None:
    """A worker says what it has of a shard: adopt it, offer again what is not there, stop what should not be."""
    worker = turn.state.workers.get(event.session)
    if worker is None or not worker.attached or event.epoch != shard.epoch:
        # Under another epoch it proves nothing; the worker hears of ours and states it anew.
        return
    has = {*event.queued, *event.running, *event.finished}
    to_stop: list[Assignment] = []
    missing: list[Assignment] = []
    for assignment in [held for held in _held(turn, worker.incarnation) if held.shard == shard.shard]:
        if assignment.id in has:
            assignment.session = worker.session
            if assignment.cancelling:
                to_stop.append(assignment)
        elif assignment.session != worker.session or assignment.ordinal <= event.ordinal_seen:
            missing.append(assignment)
    unknown = [number for number in (*event.queued, *event.running) if _is_void(shard, worker, number)]
    if shard.next_number > limits.assignment_number_max:
        hold_assignments(turn, shard)  # said again, should the first time have come to nothing
    else:
        turn.state.reconcile(worker, shard.shard)
    turn.begin(_let_in_parts(turn, shard))
    turn.begin(_reconcile_in_parts(turn, shard, worker, to_stop, missing, unknown))


def hold_assignments(turn: Turn, shard: ShardState) -> None:
    """The epoch has no more ids: no worker gets anything of the shard until it is taken under a higher one."""
    turn.state.unreconcile(shard.shard)
    turn.emit(EpochSpent(shard.shard))


def _let_in_parts(turn: Turn, shard: ShardState) -> Act:
    """There is a worker that may take what waits of a shard."""
    while turn.state.ready.let_in(shard.shard, turn.state.eligible_sessions, turn.now_us):
        turn.left -= 1
        if turn.left <= 0:
            turn = yield
            if turn.state.shards.get(shard.shard) is not shard:
                return
    place = shard_place(shard.shard)
    yield from _untie_in_parts(turn, place, lambda ready: turn.state.pool.has_stated(ready.want, shard.shard))


def _untie_left_behind(turn: Turn, incarnation: str) -> None:
    """Nobody is to wait for a worker that takes no more work, unless it comes back meanwhile."""
    state = turn.state

    def is_gone(_: ReadyClass) -> bool:
        return state.sessions.get(incarnation, 0) not in state.pool.members

    turn.begin(_untie_in_parts(turn, worker_place(incarnation), is_gone))


def _untie_in_parts(turn: Turn, place: str, is_void: Callable[[ReadyClass], bool]) -> Act:
    """What waits for something is to be looked at again, where its wait is void; the rest would only be tied again."""
    queue = turn.state.ready
    while True:
        ready = next((ready for ready in queue.ties.get(place, {}).values() if is_void(ready)), None)
        if ready is None:
            return
        if turn.left <= 0:
            turn = yield
            continue
        turn.left -= queue.untie(ready, place, next(iter(ready.tied[place])), turn.left, turn.now_us)


def _is_void(shard: ShardState, worker: WorkerState, number: int) -> bool:
    """Tell whether an attempt that a worker has is not one that it should have."""
    known = shard.live.get(number)
    return (known is None or known.incarnation != worker.incarnation) and ids.epoch_of(number) <= shard.epoch


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
            workflow = _workflow_of(turn, assignment)
            workflows.stop(turn, workflow, assignment, workflows.stop_cause(workflow))
    for assignment in missing:
        if turn.left <= 0:
            turn = yield
        if turn.state.has(assignment):
            turn.left -= 1
            nodes.offer_again(turn, _workflow_of(turn, assignment), assignment, died=False)
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
    if assignment is None or assignment.incarnation != worker.incarnation:
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
    workflow = shard.workflows[assignment.workflow_id]
    if assignment.session:
        turn.emit(Stop(assignment.session, shard.shard, shard.epoch, workflow.id, assignment.id, CancelCause.TIMED_OUT))
    limit = workflow.plan.nodes[assignment.node].start_to_close_ms
    nodes.failed(turn, workflow, assignment, Failure(start_to_close_timeout, f"it ran longer than {limit} ms"), 0)


def progress(turn: Turn, shard: ShardState, event: ProgressReported) -> None:
    """A running attempt tells of itself; the next attempt can read it."""
    assignment = shard.live.get(event.assignment)
    worker = turn.state.workers.get(event.session)
    if assignment is None or worker is None or assignment.incarnation != worker.incarnation:
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
        _leave_classes(turn, worker)
        _untie_left_behind(turn, worker.incarnation)


def _held(turn: Turn, incarnation: str) -> list[Assignment]:
    held = turn.state.held.get(incarnation)
    return list(held.assignments.values()) if held is not None else []


def _workflow_of(turn: Turn, assignment: Assignment) -> WorkflowState:
    return turn.state.shards[assignment.shard].workflows[assignment.workflow_id]


def _leave_classes(turn: Turn, worker: WorkerState) -> None:
    end_reservation(turn.state, worker.session)
    turn.state.roomy.discard(worker.session)
    turn.state.pool.remove(worker.session)
    for ready in turn.state.ready.classes.values():
        turn.state.backlog.leave(ready, worker.session)


def _remove(turn: Turn, worker: WorkerState) -> None:
    """Forget a session."""
    state = turn.state
    _leave_classes(turn, worker)
    del state.workers[worker.session]
    if state.sessions.get(worker.incarnation) == worker.session:
        del state.sessions[worker.incarnation]
        if state.names.get(worker.name) == worker.incarnation:
            del state.names[worker.name]
    _untie_left_behind(turn, worker.incarnation)
