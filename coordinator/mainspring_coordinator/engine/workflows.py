"""What becomes of workflows: submitted, cancelled, failed, ended."""

from array import array
from collections.abc import Sequence
from typing import Final

from mainspring import limits
from mainspring.errors import Failure
from mainspring.failures import failure_to_json, path_error, payload_too_large, workflow_timeout
from mainspring.paths import PathError
from mainspring_coordinator.engine import explain, nodes
from mainspring_coordinator.engine.effects import Answer, AnswerCode, CancelCause, Ended, MapView, NodeView, Stop, View
from mainspring_coordinator.engine.events import Cancel, Read, Submit, SubmitExisted, WorkflowEvicted
from mainspring_coordinator.engine.operator_events import Rerun
from mainspring_coordinator.engine.pausing import end_pause
from mainspring_coordinator.engine.payloads import forget_outputs, lacking, load, output_of
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.rows import NodeChanged, PlanSaved, WorkflowInserted, WorkflowUpdated
from mainspring_coordinator.engine.state import Assignment, Ending, ShardState, WorkflowState
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from mainspring_coordinator.engine.timers import TimerKind
from mainspring_coordinator.engine.turn import Act, Turn

_skip_waiting: Final = bytes(
    NodeStatus.SKIPPED if status in (NodeStatus.WAITING, NodeStatus.READY, NodeStatus.BACKOFF) else status
    for status in range(256)
)
"""What the nodes of a workflow become that is about to end: one pass in C, however many there are."""


def new_workflow_state(
    *,
    shard: int,
    workflow_id: str,
    plan: Plan,
    workflow_input: bytes,
    digest: bytes,
    strategy: str,
    submitted_at_us: int,
    deadline_at_us: int,
) -> WorkflowState:
    """Build a workflow none of whose nodes has begun."""
    size = len(plan.nodes)
    return WorkflowState(
        shard=shard,
        id=workflow_id,
        plan=plan,
        digest=digest,
        input=workflow_input,
        strategy=strategy,
        submitted_at_us=submitted_at_us,
        deadline_at_us=deadline_at_us,
        statuses=bytearray([NodeStatus.WAITING]) * size,
        remaining=array("I", plan.indegree),
        attempts=bytearray(size),
        unfinished=size,
        version=0,
    )


def is_answered(turn: Turn, shard: ShardState, event: Submit | Rerun) -> bool:
    """Answer a call that wants a workflow to exist, if it is known already or there is no room for it; tell whether it was."""
    known = shard.workflows.get(event.workflow_id)
    if known is not None:
        code = AnswerCode.OK if known.digest == event.digest else AnswerCode.ALREADY_EXISTS
        turn.emit(Answer(event.token, shard.shard, event.workflow_id, code, known.status, digest=event.digest))
        return True
    ended = turn.state.ended.get((shard.shard, event.workflow_id))
    if ended is not None:
        # Inserted anew in the batch that holds its end, it would be found in the database, and its end be left out with the rest.
        digest, status = ended.digest, ended.status
        code = AnswerCode.OK if digest == event.digest else AnswerCode.ALREADY_EXISTS
        turn.emit(Answer(event.token, shard.shard, event.workflow_id, code, status, digest=event.digest))
        return True
    most = turn.state.config.open_workflows_a_shard
    if len(shard.workflows) >= most:
        message = f"shard {shard.shard} has {most} unfinished workflows (MAX_OPEN_WORKFLOWS); submit again when some have ended"
        turn.emit(Answer(event.token, shard.shard, event.workflow_id, AnswerCode.BUSY, message=message))
        return True
    return False


def submit(turn: Turn, shard: ShardState, event: Submit) -> None:
    """A client wants a workflow to exist. That its id is not taken in the database is found at the commit."""
    if is_answered(turn, shard, event):
        return
    plan, now_us = event.plan, turn.now_us
    workflow = new_workflow_state(
        shard=shard.shard,
        workflow_id=event.workflow_id,
        plan=plan,
        workflow_input=event.input,
        digest=event.digest,
        strategy=event.strategy,
        submitted_at_us=now_us,
        deadline_at_us=now_us + plan.timeout_ms * 1_000 if plan.timeout_ms else 0,
    )
    shard.workflows[workflow.id] = workflow
    store_new(turn, shard, event)
    turn.state.touch(workflow)
    begin(turn, workflow)


def store_new(turn: Turn, shard: ShardState, event: Submit | Rerun) -> None:
    """Store a new workflow, and answer that it was made."""
    plan, now_us = event.plan, turn.now_us
    if plan.hash not in shard.plans:
        # Forgotten when the shard is lost or they are many, so at worst a plan is offered to the database twice.
        if len(shard.plans) >= limits.plans_a_shard_max:
            shard.plans.clear()
        shard.plans.add(plan.hash)
        turn.store(PlanSaved(shard.shard, event.workflow_id, plan.hash, plan.definition))
    turn.store(
        WorkflowInserted(
            shard.shard,
            event.workflow_id,
            event.digest,
            plan.name,
            plan.hash,
            event.input,
            now_us,
            now_us + plan.timeout_ms * 1_000 if plan.timeout_ms else 0,
            event.strategy,
            event.source if isinstance(event, Rerun) else "",
        )
    )
    turn.emit(
        Answer(
            event.token,
            shard.shard,
            event.workflow_id,
            AnswerCode.OK,
            WorkflowStatus.RUNNING,
            created=True,
            digest=event.digest,
        )
    )


def begin(turn: Turn, workflow: WorkflowState) -> None:
    """Set a workflow's deadline and let its first nodes become ready."""
    if workflow.deadline_at_us:
        turn.state.timers.set(
            workflow.deadline_at_us, TimerKind.WORKFLOW, shard=workflow.shard, workflow_id=workflow.id
        )
    turn.begin(_begin_roots(turn, workflow))


def _begin_roots(turn: Turn, workflow: WorkflowState) -> Act:
    for node in workflow.plan.graph.roots:
        if turn.left <= 0:
            turn = yield
            if not turn.state.knows(workflow):
                return
        if workflow.status is not WorkflowStatus.RUNNING:
            return
        turn.left -= 1
        if workflow.statuses[node] == NodeStatus.WAITING:
            nodes.make_ready(turn, workflow, node)


def existed(turn: Turn, shard: ShardState, event: SubmitExisted | WorkflowEvicted) -> None:
    """A workflow leaves memory: the database had it already, or refused its rows."""
    key = (shard.shard, event.workflow_id)
    ended = turn.state.ended.pop(key, None)
    workflow = shard.workflows.get(event.workflow_id)
    if workflow is not None:
        # Nothing of a tentative workflow was ever sent; of an evicted one, its workers state what they have.
        shard.plans.discard(workflow.plan.hash)
        forget(turn, workflow)
    elif ended is not None:
        shard.plans.discard(ended.plan)
    # What changed of it since the last cut was never stored, its end either: nobody may hear of it.
    turn.state.changed.pop(key, None)
    if isinstance(event, WorkflowEvicted):
        shard.reloading.add(event.workflow_id)
        shard.refused[event.workflow_id] = shard.refused.pop(event.workflow_id, 0) + 1
        if len(shard.refused) > limits.refused_workflows_a_shard_max:
            del shard.refused[next(iter(shard.refused))]


def cancel(turn: Turn, shard: ShardState, event: Cancel) -> None:
    """A client wants a workflow to stop."""
    workflow = shard.workflows.get(event.workflow_id)
    if workflow is None:
        turn.emit(Answer(event.token, shard.shard, event.workflow_id, AnswerCode.NOT_FOUND))
        return
    if workflow.status is WorkflowStatus.RUNNING:
        workflow.cancel_reason = event.reason
        _close(turn, workflow, WorkflowStatus.CANCELLING)
    turn.emit(Answer(event.token, shard.shard, event.workflow_id, AnswerCode.OK, workflow.status))


def fail(turn: Turn, workflow: WorkflowState, failure: Failure, node: int) -> None:
    """A node failed for good (-1: the workflow itself did): what runs is stopped, then the workflow has failed."""
    node_id = workflow.plan.nodes[node].id if node >= 0 else ""
    workflow.failure = failure_to_json(
        Failure(failure.type, failure.message, failure.stack, failure.non_retryable, node_id)
    )
    _close(turn, workflow, WorkflowStatus.FAILING)


def out_of_time(turn: Turn, workflow: WorkflowState) -> None:
    """The workflow's deadline has passed."""
    # A timer may be that of an earlier workflow of the same id, which has long ended and been deleted.
    if workflow.status is WorkflowStatus.RUNNING and 0 < workflow.deadline_at_us <= turn.now_us:
        limit = workflow.plan.timeout_ms
        fail(turn, workflow, Failure(workflow_timeout, f"it did not end within its timeout of {limit} ms"), -1)


def _close(turn: Turn, workflow: WorkflowState, status: WorkflowStatus) -> None:
    """Stop what runs and let nothing start any more; end at once if nothing runs."""
    turn.set_workflow(workflow, status)
    turn.state.ready.drop_workflow(workflow.plan.classes, workflow.key)
    end_pause(turn, workflow)
    workflow.parked.clear()
    workflow.asked.clear()
    forget_outputs(turn.state, workflow)
    workflow.closing_until_us = turn.now_us + turn.state.config.cancel_grace_us
    stop_all(turn, workflow)
    if workflow.status is status:
        # It is stored together with what leads to it, however long the rest takes: from here on nothing of it is assigned.
        turn.store(
            WorkflowUpdated(
                workflow.shard,
                workflow.id,
                turn.state.touch(workflow),
                status,
                workflow.cancel_reason,
                workflow.failure,
                closing_until_us=workflow.closing_until_us,
            )
        )
        turn.state.timers.set(
            workflow.closing_until_us, TimerKind.CLOSING, shard=workflow.shard, workflow_id=workflow.id
        )


def stop_all(turn: Turn, workflow: WorkflowState) -> None:
    """Skip what has not begun and stop what runs of a workflow that is to end, then end it if nothing runs any more."""
    backing_off = list(workflow.retry_at_us)
    workflow.retry_at_us.clear()
    workflow.statuses[:] = workflow.statuses.translate(_skip_waiting)
    for expanded in workflow.maps.values():
        expanded.statuses[:] = expanded.statuses.translate(_skip_waiting)
        expanded.again.clear()
    workflow.closing = True
    turn.begin(_stop_in_parts(turn, workflow, backing_off, list(workflow.live.values())))


def _stop_in_parts(
    turn: Turn, workflow: WorkflowState, backing_off: Sequence[tuple[int, int]], running: Sequence[Assignment]
) -> Act:
    """What is not reached when the owner dies, its successor finds by its rows, and does the same."""
    for node, instance in backing_off:
        if turn.left <= 0:
            turn = yield
            if not turn.state.knows(workflow):
                return
        turn.left -= 1
        _store_change(turn, workflow, node, instance, NodeStatus.SKIPPED)
    for assignment in running:
        if turn.left <= 0:
            turn = yield
            if not turn.state.knows(workflow):
                return
        if assignment.id in workflow.live:
            turn.left -= 1
            stop(turn, workflow, assignment, stop_cause(workflow))
    workflow.closing = False
    end_if_closed(turn, workflow)


def stop(turn: Turn, workflow: WorkflowState, assignment: Assignment, cause: CancelCause) -> None:
    """Ask a worker to stop an attempt of a workflow that is ending."""
    node, instance = assignment.node, assignment.instance
    if not assignment.cancelling:
        assignment.cancelling = True
        turn.set_node(workflow, node, instance, NodeStatus.CANCELLING)
        _store_change(
            turn, workflow, node, instance, NodeStatus.CANCELLING, assignment.attempt, assignment.redeliveries
        )
    if assignment.session:
        epoch = turn.state.shards[workflow.shard].epoch
        turn.emit(Stop(assignment.session, workflow.shard, epoch, workflow.id, assignment.id, cause))


def stop_cause(workflow: WorkflowState) -> CancelCause:
    """Say why the attempts of a workflow that is ending are stopped."""
    return (
        CancelCause.WORKFLOW_CANCELLED if workflow.status is WorkflowStatus.CANCELLING else CancelCause.WORKFLOW_FAILED
    )


def closing_overdue(turn: Turn, workflow: WorkflowState) -> None:
    """The cancel grace has passed: what still runs counts as cancelled, whatever its workers do."""
    if (
        workflow.status in (WorkflowStatus.FAILING, WorkflowStatus.CANCELLING)
        and turn.now_us >= workflow.closing_until_us
    ):
        turn.begin(_cancel_in_parts(turn, workflow, list(workflow.live.values())))


def _cancel_in_parts(turn: Turn, workflow: WorkflowState, running: Sequence[Assignment]) -> Act:
    for assignment in running:
        if turn.left <= 0:
            turn = yield
            if not turn.state.knows(workflow):
                return
        if assignment.id in workflow.live:
            turn.left -= 1
            nodes.cancelled(turn, workflow, assignment, 0)
    end_if_closed(turn, workflow)


def end_if_closed(turn: Turn, workflow: WorkflowState) -> None:
    """End a workflow that is being cancelled or is failing, once nothing of it runs."""
    if workflow.live or workflow.closing or workflow.status not in (WorkflowStatus.FAILING, WorkflowStatus.CANCELLING):
        return
    workflow.closing = True
    turn.begin(_end_maps_in_parts(turn, workflow))


def _end_maps_in_parts(turn: Turn, workflow: WorkflowState) -> Act:
    for node in workflow.maps:
        if workflow.statuses[node] != NodeStatus.RUNNING:
            continue
        if turn.left <= 0:
            turn = yield
            if not turn.state.knows(workflow):
                return
        turn.left -= 1
        turn.set_node(workflow, node, -1, NodeStatus.CANCELLED)
        _store_change(turn, workflow, node, -1, NodeStatus.CANCELLED)
    _end(
        turn,
        workflow,
        WorkflowStatus.FAILED if workflow.status is WorkflowStatus.FAILING else WorkflowStatus.CANCELLED,
        None,
    )


def finish_if_done(turn: Turn, workflow: WorkflowState) -> None:
    """End a workflow whose nodes have all ended; its output may have to be loaded first."""
    if workflow.unfinished or workflow.status is not WorkflowStatus.RUNNING:
        return
    workflow.finishing = True
    missing = lacking(workflow, workflow.plan.output_refs)
    if missing:
        load(turn, workflow, missing)
        return
    try:
        output = output_of(workflow)
    except PathError as error:
        fail(turn, workflow, Failure(path_error, f"output: {error}", non_retryable=True), -1)
        return
    if len(output) > limits.map_output_bytes_max:
        message = f"the workflow's output has {len(output)} bytes, more than {limits.map_output_bytes_max}; name less in `output`"
        fail(turn, workflow, Failure(payload_too_large, message, non_retryable=True), -1)
        return
    _end(turn, workflow, WorkflowStatus.SUCCEEDED, output)


def _end(turn: Turn, workflow: WorkflowState, status: WorkflowStatus, output: bytes | None) -> None:
    turn.set_workflow(workflow, status)
    end_pause(turn, workflow)
    failure = workflow.failure if status is WorkflowStatus.FAILED else None
    turn.store(
        WorkflowUpdated(
            workflow.shard,
            workflow.id,
            turn.state.touch(workflow),
            status,
            workflow.cancel_reason,
            failure,
            output,
            ended_at_us=turn.now_us,
        )
    )
    turn.emit(
        Ended(
            workflow.shard,
            workflow.id,
            status,
            output,
            failure,
            workflow.submitted_at_us,
            turn.now_us,
            workflow.strategy,
        )
    )
    turn.state.ended[workflow.key] = Ending(workflow.digest, status, workflow.plan.hash)
    forget(turn, workflow)


def forget(turn: Turn, workflow: WorkflowState) -> None:
    """Let a workflow leave memory."""
    state = turn.state
    for assignment in list(workflow.live.values()):
        state.remove_live(workflow, assignment)
    state.ready.drop_workflow(workflow.plan.classes, workflow.key)
    forget_outputs(state, workflow)
    shard = state.shards.get(workflow.shard)
    if shard is not None:
        shard.workflows.pop(workflow.id, None)


def read(turn: Turn, shard: ShardState, event: Read) -> None:
    """A client wants to see a workflow as it is now."""
    workflow = shard.workflows.get(event.workflow_id)
    if workflow is None:
        answer = Answer(event.token, shard.shard, event.workflow_id, AnswerCode.NOT_FOUND, claims=not event.brief)
        turn.emit(answer)
        return
    if event.brief:
        turn.emit(Answer(event.token, shard.shard, workflow.id, AnswerCode.OK, claims=False))
        return
    if event.about is not None:
        told = explain.explain(turn.state, workflow, *event.about, turn.now_us)
        turn.emit(Answer(event.token, shard.shard, workflow.id, AnswerCode.OK, workflow.status, explanation=told))
        return
    active: dict[tuple[int, int], NodeView] = {}
    for assignment in workflow.live.values():
        status = NodeStatus.CANCELLING if assignment.cancelling else NodeStatus.RUNNING
        active[assignment.node, assignment.instance] = NodeView(
            assignment.node,
            assignment.instance,
            status,
            assignment.attempt,
            assignment.worker,
            assignment.started_at_us,
            0,
            0,
            0,
        )
    for (node, instance), retry_at_us in workflow.retry_at_us.items():
        attempt = workflow.attempts[node] if instance < 0 else workflow.maps[node].attempts[instance]
        active[node, instance] = NodeView(node, instance, NodeStatus.BACKOFF, attempt, "", 0, retry_at_us, 0, 0)
    view = View(
        workflow.id,
        workflow.status,
        workflow.version,
        bytes(workflow.statuses),
        bytes(workflow.attempts),
        {
            node: MapView(expanded.width, expanded.ended, bytes(expanded.statuses))
            for node, expanded in workflow.maps.items()
        },
        active,
        explain.reasons(turn.state, workflow),
        workflow.pause,
    )
    turn.emit(Answer(event.token, shard.shard, workflow.id, AnswerCode.OK, workflow.status, view=view))


def _store_change(
    turn: Turn,
    workflow: WorkflowState,
    node: int,
    instance: int,
    status: NodeStatus,
    attempt: int | None = None,
    redeliveries: int = 0,
) -> None:
    if attempt is None:
        attempt = workflow.attempts[node] if instance < 0 else workflow.maps[node].attempts[instance]
    ended_at_us = 0 if status is NodeStatus.CANCELLING else turn.now_us
    version = turn.state.touch(workflow, node, instance)
    turn.store(
        NodeChanged(
            workflow.shard,
            workflow.id,
            node,
            instance,
            version,
            status,
            attempt,
            ended_at_us=ended_at_us,
            redeliveries=redeliveries,
        )
    )
