"""Workers that are away: how long they are waited for, and what becomes of their work.

A worker whose stream ended may come back within its grace and keep its work; after that the work is offered elsewhere. Whether it is the
worker that cannot be reached or we, others tell: while a peer has workers, nobody is judged before another worker was heard.
"""

from collections.abc import Callable, Sequence
from typing import Final

from mainspring_coordinator.engine import failovers, nodes
from mainspring_coordinator.engine.alone import end_reservation
from mainspring_coordinator.engine.events import WorkerDetached
from mainspring_coordinator.engine.placement.base import worker_place
from mainspring_coordinator.engine.ready import ReadyClass
from mainspring_coordinator.engine.rows import GraceEnded
from mainspring_coordinator.engine.state import Assignment, ShardState, WorkflowState
from mainspring_coordinator.engine.timers import Timer, TimerKind
from mainspring_coordinator.engine.turn import Act, Turn
from mainspring_coordinator.engine.worker import WorkerState

_stall_us: Final = 1_000_000
"""The host looks for what is due several times a second."""


def detached(turn: Turn, event: WorkerDetached) -> None:
    """A stream ended. The end of an older session never touches a newer one."""
    state = turn.state
    worker = state.workers.get(event.session)
    if worker is None or not worker.attached:
        return
    worker.attached = False
    worker.absent_since_us = turn.now_us
    leave_classes(turn, worker)
    held = held_by(turn, worker.incarnation)
    for assignment in held:
        assignment.session = 0
    if event.goodbye:
        state.remember_departed(worker.incarnation)
        remove(turn, worker)
        turn.begin(offer_in_parts(turn, held, died=False))
        return
    state.timers.set(
        turn.now_us + state.config.stream_grace_us,
        TimerKind.WORKER_GRACE,
        workflow_id=worker.incarnation,
        number=worker.session,
    )


def offer_departed(turn: Turn, shard: ShardState) -> None:
    """A shard is ready: offer again what is with workers that were evicted, or said goodbye before it was, maybe not to its last owner."""
    state = turn.state
    gone = [held for incarnation, held in state.held.items() if _is_gone(turn, incarnation)]
    left = [one for held in gone for one in held.assignments.values() if one.shard == shard.shard]
    put_evicted_on_record(turn, [one for one in left if one.incarnation in state.evicted])
    if left:
        turn.begin(offer_in_parts(turn, left, died=False))


def _is_gone(turn: Turn, incarnation: str) -> bool:
    """Tell whether nobody needs to wait for a worker, though it did not die."""
    return incarnation in turn.state.departed or incarnation in turn.state.evicted


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


def heard(turn: Turn) -> None:
    """Some worker said something: we can be reached. If we could not be until now, the others have a whole grace from now on."""
    state = turn.state
    state.heard_us = turn.now_us
    if state.cut_off:
        state.cut_off, state.cut_off_us = False, turn.now_us


def absent_until_us(turn: Turn, since_us: int, told_us: int = 0) -> int:
    """Return how long a worker may be absent that has been since `since_us`.

    Who has heard no worker since then, while a peer has workers, may be cut off itself and judges nobody: if that lasts, its workers'
    streams all end, and its shards go to that peer, which has their workers. `told_us`: since when they have had something to say.
    """
    state = turn.state
    if state.peers_have_workers and (state.heard_us <= max(since_us, told_us) or not _any_attached(turn)):
        state.cut_off = True
        return turn.now_us + state.config.stream_grace_us // 4
    return max(since_us, state.cut_off_us) + state.config.stream_grace_us


def _any_attached(turn: Turn) -> bool:
    state = turn.state
    # Asked once in a step, however many are absent.
    if state.looked_us != turn.now_us:
        state.looked_us = turn.now_us
        state.any_attached = any(worker.attached for worker in state.workers.values())
    return state.any_attached


def give_up(turn: Turn, worker: WorkerState) -> None:
    """Offer a worker's work elsewhere."""
    remove(turn, worker)
    if not worker.overdue:
        _put_on_record(turn, worker)
    turn.begin(offer_in_parts(turn, held_by(turn, worker.incarnation), died=True))


def offer_in_parts(turn: Turn, absent: Sequence[Assignment], *, died: bool) -> Act:
    """Offer again what an absent worker had. Its rows name the incarnation, so that a successor misses it as well."""
    for assignment in absent:
        if turn.left <= 0:
            turn = yield
        while assignment.shard in turn.state.occupied:
            turn = yield
        # With a session it is adopted: the same process came back, and has it.
        if not assignment.session and turn.state.has(assignment):
            turn.left -= 1
            nodes.offer_again(turn, workflow_of(turn, assignment), assignment, died=died)


def _put_missed_on_record(turn: Turn, shard: ShardState, missed: dict[str, failovers.Missed]) -> None:
    if turn.state.shards.get(shard.shard) is shard:
        for incarnation, held in missed.items():
            failovers.worker_never_came(turn, shard, incarnation, held)
    missed.clear()


def _put_on_record(turn: Turn, worker: WorkerState) -> None:
    held = [assignment for assignment in held_by(turn, worker.incarnation) if turn.state.has(assignment)]
    failovers.worker_died(turn, worker, held)


def put_evicted_on_record(turn: Turn, left: Sequence[Assignment]) -> None:
    """Record what evicted workers had of which we have no session: as of those that died, it may run twice."""
    shards = turn.state.shards
    missed: dict[tuple[int, str], failovers.Missed] = {}
    for assignment in left:
        key = (assignment.shard, assignment.incarnation)
        missed.setdefault(key, failovers.Missed(assignment.worker)).add(shards[assignment.shard], assignment)
    for (shard, incarnation), held in missed.items():
        failovers.worker_never_came(turn, shards[shard], incarnation, held)


def shard_grace_over(turn: Turn, shard: ShardState, timer: Timer) -> None:
    """Workers that have not come back since we took a shard are lost to it."""
    if timer.number != shard.epoch:
        return
    due_us = absent_until_us(turn, 0, shard.ready_us)
    if turn.now_us - timer.due_us > _stall_us and timer.instance:
        # As in `grace_over`: we stood still, and those that come have had to wait.
        due_us = turn.now_us + turn.state.config.stream_grace_us
        turn.state.timers.set(due_us, TimerKind.SHARD_GRACE, shard=shard.shard, instance=0, number=shard.epoch)
    elif due_us > turn.now_us:
        turn.state.timers.set(
            due_us, TimerKind.SHARD_GRACE, shard=shard.shard, instance=timer.instance, number=shard.epoch
        )
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
        gone = _is_gone(turn, assignment.incarnation)
        if not gone or assignment.incarnation in state.evicted:
            missed.setdefault(assignment.incarnation, failovers.Missed(assignment.worker)).add(shard, assignment)
        if gone:
            nodes.offer_again(turn, workflow_of(turn, assignment), assignment, died=False)
            continue
        if not state.config.failover and assignment.worker not in state.names:
            waiting = True  # for a worker of its name
            continue
        nodes.offer_again(turn, workflow_of(turn, assignment), assignment, died=True)
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


def untie_left_behind(turn: Turn, incarnation: str) -> None:
    """Nobody is to wait for a worker that takes no more work, unless it comes back meanwhile."""
    state = turn.state

    def is_gone(_: ReadyClass) -> bool:
        return state.sessions.get(incarnation, 0) not in state.pool.members

    turn.begin(untie_in_parts(turn, worker_place(incarnation), is_gone))


def untie_in_parts(turn: Turn, place: str, is_void: Callable[[ReadyClass], bool]) -> Act:
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


def held_by(turn: Turn, incarnation: str) -> list[Assignment]:
    """Return what a worker has of us."""
    held = turn.state.held.get(incarnation)
    return list(held.assignments.values()) if held is not None else []


def workflow_of(turn: Turn, assignment: Assignment) -> WorkflowState:
    """Return the workflow of a live assignment."""
    return turn.state.shards[assignment.shard].workflows[assignment.workflow_id]


def leave_classes(turn: Turn, worker: WorkerState) -> None:
    """Count a worker no longer among those that take work."""
    end_reservation(turn.state, worker.session)
    turn.state.roomy.discard(worker.session)
    turn.state.pool.remove(worker.session)
    for ready in turn.state.ready.classes.values():
        turn.state.backlog.leave(ready, worker.session)


def remove(turn: Turn, worker: WorkerState) -> None:
    """Forget a session."""
    state = turn.state
    leave_classes(turn, worker)
    del state.workers[worker.session]
    if state.sessions.get(worker.incarnation) == worker.session:
        del state.sessions[worker.incarnation]
        if state.names.get(worker.name) == worker.incarnation:
            del state.names[worker.name]
    untie_left_behind(turn, worker.incarnation)
