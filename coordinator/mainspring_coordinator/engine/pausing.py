"""Pauses begin and end: stored first, in force with the step that stores them."""

from mainspring import limits
from mainspring_coordinator.engine.asking import speak_of_all
from mainspring_coordinator.engine.effects import Answer, AnswerCode
from mainspring_coordinator.engine.operator_events import PauseSet, PausesSeen, WorkflowPauseSet
from mainspring_coordinator.engine.pauses import ClusterPauses, Pause
from mainspring_coordinator.engine.rows import PausesChanged, WorkflowPaused, WorkflowUpdated
from mainspring_coordinator.engine.state import ShardState, WorkflowState
from mainspring_coordinator.engine.status import WorkflowStatus
from mainspring_coordinator.engine.turn import Turn


def pause_set(turn: Turn, event: PauseSet) -> None:
    """An operator pauses the whole cluster or an executor, or lets it go on."""
    if event.shard not in turn.state.shards:
        turn.emit(Answer(event.token, event.shard, "", AnswerCode.NOT_OWNER))
        return
    known = turn.state.ready.pauses
    before = known.get(event.executor)
    if event.paused == (before is not None):
        turn.emit(Answer(event.token, event.shard, "", AnswerCode.OK, pause=before))
        return
    pause = Pause(turn.now_us, event.who, event.reason) if event.paused else None
    after = known.put(event.executor, pause, max(turn.now_us, known.changed_at_us + 1))
    data = after.data()
    if pause is not None and (len(after) > limits.pauses_max or len(data) > limits.pauses_bytes_max):
        message = (
            f"{len(known)} executors are paused, and there may be {limits.pauses_max}, with reasons of {limits.pauses_bytes_max} bytes in "
            "all; let some go on (mainspring pauses), or pause the whole cluster"
        )
        turn.emit(Answer(event.token, event.shard, "", AnswerCode.REFUSED, message=message))
        return
    turn.store(PausesChanged(event.shard, "", data))
    _put_in_force(turn, after)
    turn.emit(Answer(event.token, event.shard, "", AnswerCode.OK, created=True, pause=pause or before))


def pauses_seen(turn: Turn, event: PausesSeen) -> None:
    """The fence row of shard 0 was read, or its owner says what it has just stored there."""
    seen = ClusterPauses.parse(event.data)
    # What we have stored ourselves since then is newer.
    if seen.changed_at_us > turn.state.ready.pauses.changed_at_us:
        _put_in_force(turn, seen)
    if event.token:
        turn.emit(Answer(event.token, event.shard, "", AnswerCode.OK))


def _put_in_force(turn: Turn, pauses: ClusterPauses) -> None:
    state = turn.state
    if state.ready.put_in_force(pauses):
        # Whoever has room may take what nobody was looked for meanwhile.
        for session in state.roomy:
            state.touch_worker(session)
    for shard in state.shards.values():
        # What is paused wants no permits; what goes on wants them again.
        speak_of_all(turn, shard)


def workflow_pause_set(turn: Turn, shard: ShardState, event: WorkflowPauseSet) -> None:
    """An operator pauses a workflow, or lets it go on."""
    workflow = shard.workflows.get(event.workflow_id)
    if workflow is None:
        turn.emit(Answer(event.token, shard.shard, event.workflow_id, AnswerCode.NOT_FOUND))
        return
    before = workflow.pause
    changed = workflow.status is WorkflowStatus.RUNNING and event.paused == (before is None)
    if changed and event.paused:
        # One from before its submit counts as that of an earlier workflow of its id: the database's clock may have gone back.
        since_us = max(turn.now_us, workflow.submitted_at_us)
        pause = workflow.pause = Pause(since_us, event.who, event.reason)
        keep_apart(turn, workflow)
        turn.store(WorkflowPaused(shard.shard, workflow.id, pause.since_us, pause.who, pause.reason))
    elif changed:
        workflow.pause = None
        turn.state.ready.let_go_on(workflow.key, turn.state.eligible_sessions, turn.now_us)
        turn.store(WorkflowPaused(shard.shard, workflow.id, 0, "", ""))
    if changed:
        turn.store(WorkflowUpdated(shard.shard, workflow.id, turn.state.touch(workflow), workflow.status))
    turn.emit(
        Answer(
            event.token,
            shard.shard,
            workflow.id,
            AnswerCode.OK,
            workflow.status,
            created=changed,
            pause=workflow.pause or before,
        )
    )


def keep_apart(turn: Turn, workflow: WorkflowState) -> None:
    """Let nothing of a workflow be given out, nor hold a permit."""
    turn.state.ready.keep_apart(workflow.plan.classes, workflow.key)
    for key in {one.key for one in workflow.plan.concurrency if one is not None}:
        if key in turn.state.shards[workflow.shard].demands.by_key:
            turn.state.unsaid[workflow.shard, key] = None


def end_pause(turn: Turn, workflow: WorkflowState) -> None:
    """A workflow ends: there is nothing to be paused any more."""
    if workflow.pause is not None:
        workflow.pause = None
        turn.store(WorkflowPaused(workflow.shard, workflow.id, 0, "", ""))
