"""What operators do to single nodes of a workflow that goes on: retry, skip, complete. `status.node_acts` says what can be done when.

An attempt that runs is taken away from its worker, which is told to stop it; whatever it still reports is late. What follows is what
follows whenever a node is tried again or ends, in the same commit: its dependents become ready, a `map` starts its next instance, the
workflow ends with its last node.
"""

from mainspring import limits
from mainspring.errors import Failure
from mainspring.failures import completed_by_operator, failure_to_json, skipped_by_operator, superseded_by_operator
from mainspring_coordinator.engine import maps, nodes
from mainspring_coordinator.engine.effects import Answer, AnswerCode, CancelCause, Stop
from mainspring_coordinator.engine.operator_events import ActOnNode
from mainspring_coordinator.engine.payloads import keep_output
from mainspring_coordinator.engine.ready import next_instance
from mainspring_coordinator.engine.rows import AttemptEnded, NodeChanged, RetryDue
from mainspring_coordinator.engine.state import Assignment, ShardState, WorkflowState
from mainspring_coordinator.engine.status import NodeAct, NodeStatus, WorkflowStatus, node_acts, node_terminal
from mainspring_coordinator.engine.turn import Turn


def act(turn: Turn, shard: ShardState, event: ActOnNode) -> None:
    """Do it, say that it is so already, or why it cannot be done."""
    workflow = shard.workflows.get(event.workflow_id)
    if workflow is None:
        turn.emit(Answer(event.token, shard.shard, event.workflow_id, AnswerCode.NOT_FOUND))
        return
    node = workflow.plan.graph.index.get(event.node_id, -1)
    missing = _missing(workflow, node, event)
    if missing:
        turn.emit(Answer(event.token, shard.shard, workflow.id, AnswerCode.NO_NODE, workflow.status, message=missing))
        return
    before = _status(workflow, node, event.instance)
    goes_on = workflow.status is WorkflowStatus.RUNNING
    so_already = goes_on and (
        node_acts[event.act].get(before) is before or 0 < event.attempt < _attempt(workflow, node, event.instance)
    )
    refused = "" if so_already else _refused(workflow, node, before, event)
    if refused:
        turn.emit(Answer(event.token, shard.shard, workflow.id, AnswerCode.REFUSED, workflow.status, message=refused))
        return
    if not so_already:
        _do(turn, workflow, node, event)
    turn.emit(Answer(event.token, shard.shard, workflow.id, AnswerCode.OK, workflow.status, created=not so_already))


def _status(workflow: WorkflowState, node: int, instance: int) -> NodeStatus:
    return NodeStatus(workflow.statuses[node] if instance < 0 else workflow.maps[node].statuses[instance])


def _attempt(workflow: WorkflowState, node: int, instance: int) -> int:
    return workflow.attempts[node] if instance < 0 else workflow.maps[node].attempts[instance]


def _missing(workflow: WorkflowState, node: int, event: ActOnNode) -> str:
    """Say that there is no such node or instance; empty if there is."""
    look = f"list its nodes with: mainspring get {workflow.id}"
    if node < 0:
        return f"workflow {workflow.id!r} has no node {event.node_id[: limits.node_id_bytes_max]!r}; {look}"
    if event.instance < -1 or (event.instance >= 0 and workflow.plan.nodes[node].map is None):
        return f"node {event.node_id!r} of workflow {workflow.id!r} has no instance {event.instance}, for it is no map; {look}"
    expanded = workflow.maps.get(node)
    width = expanded.width if expanded is not None else 0
    if event.instance >= width:
        return f"node {event.node_id!r} of workflow {workflow.id!r} has {width} instances so far, from 0 on; {look}"
    return ""


def _refused(workflow: WorkflowState, node: int, before: NodeStatus, event: ActOnNode) -> str:
    """Say why it cannot be done, and what can; empty if it can."""
    label = event.node_id + (f"[{event.instance}]" if event.instance >= 0 else "")
    named = f"node {label!r} of workflow {workflow.id!r}"
    if workflow.status is not WorkflowStatus.RUNNING:
        return (
            f"workflow {workflow.id!r} is {workflow.status.name}, so that nothing of it is started any more; once it has ended, run it "
            f"again with: mainspring rerun {workflow.id} --from-failed"
        )
    if before in node_terminal:
        return (
            f"{named} is {before.name}, and what has ended stays as it is; once the workflow has ended, run it again from there with: "
            f"mainspring rerun {workflow.id} --from {event.node_id}"
        )
    if event.instance < 0 and workflow.plan.nodes[node].map is not None:
        if event.act is NodeAct.COMPLETE:
            return f"{named} is a map, whose output is the list of what its instances give; complete those, such as {label}[0], or skip it"
        if before is NodeStatus.RUNNING:
            return f"{named} is a map that has been expanded; act on its instances, such as {label}[0]"
    if before not in node_acts[event.act]:
        return f"{named} is {before.name}, so that there is nothing to be tried again; mainspring explain {workflow.id} {label} says why"
    return _over_bound(workflow, node, named, event)


def _over_bound(workflow: WorkflowState, node: int, named: str, event: ActOnNode) -> str:
    attempt = _attempt(workflow, node, event.instance)
    if event.attempt > attempt:
        return f"{named} has had {attempt} attempts, not {event.attempt}"
    if event.act is NodeAct.RETRY and attempt >= limits.attempts_by_operators_max:
        return f"{named} has had {attempt} attempts, the bound; skip or complete it, or run the workflow again"
    if workflow.payload_bytes + len(event.output) > limits.workflow_payload_bytes_max:
        return f"the payloads of workflow {workflow.id!r} would be over {limits.workflow_payload_bytes_max} bytes; give a reference instead"
    return ""


def _do(turn: Turn, workflow: WorkflowState, node: int, event: ActOnNode) -> None:
    instance = event.instance
    key = (node, instance)
    nodes.dequeue(turn, workflow, key)
    if workflow.asked:
        workflow.asked.pop(key, None)
    for waits in (workflow.retry_at_us, workflow.start_by_us, workflow.near_until_us, workflow.redeliveries):
        waits.pop(key, None)
    assignment = next((one for one in workflow.live.values() if (one.node, one.instance) == key), None)
    if event.act is NodeAct.RETRY:
        _retry(turn, workflow, node, instance, assignment, event.reason)
    else:
        _end(turn, workflow, node, assignment, event)


def _retry(
    turn: Turn, workflow: WorkflowState, node: int, instance: int, assignment: Assignment | None, reason: str
) -> None:
    if assignment is None:
        version = turn.state.touch(workflow, node, instance)
        turn.store(RetryDue(workflow.shard, workflow.id, node, instance, version, turn.now_us))
    else:
        failure = _said(superseded_by_operator, "an operator wanted another attempt", reason)
        _supersede(turn, workflow, assignment, failure)
        # As after a failure whose delay is over, so that a successor makes the next attempt of it, too.
        nodes.change(turn, workflow, assignment, NodeStatus.BACKOFF, 0, failure=failure, retry_at_us=turn.now_us)
    nodes.try_again(turn, workflow, node, instance)


def _end(turn: Turn, workflow: WorkflowState, node: int, assignment: Assignment | None, event: ActOnNode) -> None:
    """Let a node, or an instance, end as the operator says."""
    instance = event.instance
    if event.act is NodeAct.SKIP:
        status, output, given = NodeStatus.SKIPPED, None, b"null"
        mark = _said(skipped_by_operator, "an operator skipped it", event.reason)
    else:
        status, output, given = NodeStatus.SUCCEEDED, event.output, event.output
        mark = _said(completed_by_operator, "an operator completed it", event.reason)
        workflow.payload_bytes += len(event.output)
    if assignment is not None:
        _supersede(turn, workflow, assignment, mark)
        nodes.change(turn, workflow, assignment, status, 0, output=output, failure=mark)
    else:
        _store_end(turn, workflow, node, instance, status, output, mark)
    if instance >= 0:
        _pass_over(turn, workflow, node)
        maps.instance_ended(turn, workflow, node, instance, given)
        return
    workflow.unfinished -= 1
    keep_output(turn.state, workflow, node, given)
    nodes.release(turn, workflow, node)


def _store_end(
    turn: Turn,
    workflow: WorkflowState,
    node: int,
    instance: int,
    status: NodeStatus,
    output: bytes | None,
    mark: Failure,
) -> None:
    turn.set_node(workflow, node, instance, status)
    workflow.progress.pop((node, instance), None)
    turn.store(
        NodeChanged(
            workflow.shard,
            workflow.id,
            node,
            instance,
            turn.state.touch(workflow, node, instance),
            status,
            _attempt(workflow, node, instance),
            output=output,
            failure=failure_to_json(mark),
            ended_at_us=turn.now_us,
        )
    )


def _pass_over(turn: Turn, workflow: WorkflowState, node: int) -> None:
    """If no instance of a `map` is left to be started, its item waits for no worker any more."""
    expanded = workflow.maps[node]
    maps.pass_over_ended(expanded)
    while expanded.again and expanded.statuses[expanded.again[0]] != NodeStatus.READY:
        expanded.again.popleft()
    if expanded.queued and not (expanded.again or expanded.next < expanded.width):
        nodes.dequeue(turn, workflow, (node, next_instance))
        expanded.queued = False


def _supersede(turn: Turn, workflow: WorkflowState, assignment: Assignment, failure: Failure) -> None:
    """Put on record how a running attempt ended, and have its worker stop it; one that is away hears of it when it is back."""
    turn.store(
        AttemptEnded(
            workflow.shard,
            workflow.id,
            assignment.node,
            assignment.instance,
            assignment.attempt,
            assignment.worker,
            assignment.started_at_us,
            turn.now_us,
            0,
            failure_to_json(failure),
        )
    )
    if assignment.session:
        epoch = turn.state.shards[workflow.shard].epoch
        turn.emit(Stop(assignment.session, workflow.shard, epoch, workflow.id, assignment.id, CancelCause.SUPERSEDED))


def _said(kind: str, what: str, reason: str) -> Failure:
    return Failure(kind, f"{what}: {reason}" if reason else what)
