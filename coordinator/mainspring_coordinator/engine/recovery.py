"""A shard is taken: its unfinished workflows are built anew from the database, and what their workers still run is adopted.

The result depends on the rows alone, so recovery can be ended at any point and begun again by whoever owns the shard then.
"""

from mainspring_coordinator.engine import maps, nodes, workflows
from mainspring_coordinator.engine.effects import Answer, AnswerCode
from mainspring_coordinator.engine.events import (
    Cancel,
    Event,
    LoadedNode,
    OutputsLoaded,
    Read,
    ShardReady,
    ShardTaken,
    Submit,
    WorkflowLoaded,
)
from mainspring_coordinator.engine.payloads import keep_output
from mainspring_coordinator.engine.ready import next_instance
from mainspring_coordinator.engine.state import Assignment, MapState, ShardState, WorkflowState, new_workflow_state
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus, node_terminal
from mainspring_coordinator.engine.timers import TimerKind
from mainspring_coordinator.engine.turn import Turn


def taken(turn: Turn, event: ShardTaken) -> None:
    """We own a shard from now on."""
    before = turn.state.shards.get(event.shard)
    # A recovery that begins again under the same epoch is the same ownership: who waits for it goes on waiting.
    waiting: list[Event] = before.deferred if before is not None and before.epoch == event.epoch else []
    if waiting and before is not None:
        before.deferred = []
    lost(turn, event.shard)
    turn.state.shards[event.shard] = ShardState(
        event.shard, event.epoch, event.grace_until_us, set(event.lost_incarnations), deferred=waiting
    )


def lost(turn: Turn, shard_id: int) -> None:
    """We own a shard no longer: forget all of it, and tell nobody."""
    state = turn.state
    shard = state.shards.get(shard_id)
    if shard is None:
        return
    for workflow in list(shard.workflows.values()):
        workflows.forget(turn, workflow)
        state.changed.pop(workflow.key, None)
    for event in shard.deferred:
        # Workers keep what is not acknowledged and state it again; callers must be told.
        if isinstance(event, Submit | Cancel | Read):
            turn.emit(Answer(event.token, shard_id, event.workflow_id, AnswerCode.NOT_OWNER))
    del state.shards[shard_id]
    for worker in state.workers.values():
        worker.reconciled.discard(shard_id)


def ready(turn: Turn, shard: ShardState, event: ShardReady) -> None:
    """All unfinished workflows of a shard are there."""
    del event
    shard.ready = True
    watch_absent(turn, shard)


def watch_absent(turn: Turn, shard: ShardState) -> None:
    """Set the time at which workers that have not come back are looked for."""
    due_us = max(shard.grace_until_us, turn.now_us)
    turn.state.timers.set(due_us, TimerKind.SHARD_GRACE, shard=shard.shard, number=shard.epoch)


def loaded(turn: Turn, shard: ShardState, event: WorkflowLoaded) -> None:
    """An unfinished workflow comes from the database."""
    workflow = new_workflow_state(
        shard=shard.shard,
        workflow_id=event.workflow_id,
        plan=event.plan,
        workflow_input=event.input,
        digest=event.digest,
        strategy=event.strategy,
        submitted_at_us=event.submitted_at_us,
        deadline_at_us=event.deadline_at_us,
    )
    workflow.status, workflow.version = event.status, event.version
    workflow.closing_until_us, workflow.cancel_reason, workflow.failure = (
        event.closing_until_us,
        event.cancel_reason,
        event.failure,
    )
    known = shard.workflows.get(workflow.id)
    if known is not None:
        # It is loaded twice, by a recovery that began again: what was made of it the first time goes.
        workflows.forget(turn, known)
    shard.workflows[workflow.id] = workflow
    shard.plans.add(event.plan.hash)
    for row in event.nodes:
        if (
            row.width >= 0
            and row.instance < 0
            and workflow.plan.nodes[row.node].map is not None
            and (row.status is not NodeStatus.FAILED or row.width)
        ):
            workflow.maps[row.node] = MapState(
                row.width, bytearray([NodeStatus.WAITING]) * row.width, bytearray(row.width), [None] * row.width
            )
    for row in event.nodes:
        _restore_node(turn, workflow, row)
    _resume(turn, workflow)


def adopt(turn: Turn, shard: ShardState, workflow_id: str) -> None:
    """A workflow was loaded anew in the midst of an ownership: workers that have stated what they have of the shard still have it."""
    workflow = shard.workflows.get(workflow_id)
    for assignment in workflow.live.values() if workflow is not None else ():
        worker = turn.state.workers.get(turn.state.sessions.get(assignment.incarnation, 0))
        if worker is not None and worker.attached and shard.shard in worker.reconciled:
            assignment.session = worker.session


def _restore_node(turn: Turn, workflow: WorkflowState, row: LoadedNode) -> None:
    node, instance = row.node, row.instance
    if instance < 0:
        statuses, attempts, index = workflow.statuses, workflow.attempts, node
    else:
        expanded = workflow.maps[node]
        statuses, attempts, index = expanded.statuses, expanded.attempts, instance
        expanded.next = max(expanded.next, instance + 1)
        expanded.ended += row.status in node_terminal
    statuses[index] = row.status
    attempts[index] = row.attempt
    if row.progress is not None:
        workflow.progress[node, instance] = row.progress
    if row.status is NodeStatus.READY:
        # Only an attempt that is offered again goes on under its number; what runs keeps its count in its assignment.
        workflow.redeliveries[node, instance] = row.redeliveries
    if instance < 0 and row.status in node_terminal:
        workflow.unfinished -= 1
    if row.status is NodeStatus.BACKOFF:
        workflow.retry_at_us[node, instance] = row.retry_at_us
    is_map = instance < 0 and workflow.plan.nodes[node].map is not None
    if row.status in (NodeStatus.RUNNING, NodeStatus.CANCELLING) and not is_map:
        assignment = Assignment(
            workflow.shard,
            row.assignment,
            workflow.id,
            node,
            instance,
            row.attempt,
            row.worker,
            row.incarnation,
            row.started_at_us,
            row.redeliveries,
            cancelling=row.status is NodeStatus.CANCELLING,
        )
        turn.state.add_live(workflow, assignment)
        if instance >= 0:
            workflow.maps[node].live += 1
        set_attempt_deadline(turn, workflow, assignment)


def set_attempt_deadline(turn: Turn, workflow: WorkflowState, assignment: Assignment) -> None:
    """Set the time by which an attempt must have ended, if it has one; its worker should end it sooner."""
    limit_ms = workflow.plan.nodes[assignment.node].start_to_close_ms
    if limit_ms:
        due_us = assignment.started_at_us + limit_ms * 1_000 + turn.state.config.timeout_slack_us
        turn.state.timers.set(
            due_us, TimerKind.START_TO_CLOSE, shard=workflow.shard, workflow_id=workflow.id, number=assignment.id
        )


def _resume(turn: Turn, workflow: WorkflowState) -> None:
    """Set every deadline and let everything go on that can."""
    timers = turn.state.timers
    if workflow.status is not WorkflowStatus.RUNNING:
        timers.set(workflow.closing_until_us, TimerKind.CLOSING, shard=workflow.shard, workflow_id=workflow.id)
        workflows.stop_all(turn, workflow)
        return
    if workflow.deadline_at_us:
        timers.set(workflow.deadline_at_us, TimerKind.WORKFLOW, shard=workflow.shard, workflow_id=workflow.id)
    for (node, instance), retry_at_us in workflow.retry_at_us.items():
        attempt = workflow.attempts[node] if instance < 0 else workflow.maps[node].attempts[instance]
        nodes.set_retry(turn, workflow, node, instance, attempt, retry_at_us)
    _count_ended(turn, workflow)
    for node, status in enumerate(bytes(workflow.statuses)):
        _resume_node(turn, workflow, node, NodeStatus(status))
        if workflow.status is not WorkflowStatus.RUNNING:
            return
    workflows.finish_if_done(turn, workflow)


def _count_ended(turn: Turn, workflow: WorkflowState) -> None:
    """Work out how many of the nodes that each one depends on have not ended."""
    children_of = workflow.plan.graph.children_of
    for node, status in enumerate(workflow.statuses):
        if status in (NodeStatus.SUCCEEDED, NodeStatus.FAILED):
            if status == NodeStatus.FAILED:
                keep_output(turn.state, workflow, node, b"null")
            for child in children_of(node):
                workflow.remaining[child] -= 1


def _resume_node(turn: Turn, workflow: WorkflowState, node: int, status: NodeStatus) -> None:
    if status is NodeStatus.WAITING and not workflow.remaining[node]:
        nodes.make_ready(turn, workflow, node)
    elif status is NodeStatus.READY:
        nodes.await_start(turn, workflow, node, -1)
        nodes.enqueue(turn, workflow, (node, -1))
    elif status is NodeStatus.RUNNING and node in workflow.maps:
        _resume_map(turn, workflow, node)


def _resume_map(turn: Turn, workflow: WorkflowState, node: int) -> None:
    expanded = workflow.maps[node]
    for instance in range(expanded.next):
        status = expanded.statuses[instance]
        if status == NodeStatus.WAITING:
            # Instances are started in order, but their rows are a set: one whose row is missing never began.
            expanded.statuses[instance] = NodeStatus.READY
        if status in (NodeStatus.WAITING, NodeStatus.READY):
            expanded.again.append(instance)
            nodes.await_start(turn, workflow, node, instance)
    if expanded.ended == expanded.width:
        maps.collect(turn, workflow, node)
    else:
        maps.offer(turn, workflow, node)


def outputs_loaded(turn: Turn, shard: ShardState, event: OutputsLoaded) -> None:
    """Outputs that were asked for are there: whatever waited for them goes on."""
    workflow = shard.workflows.get(event.workflow_id)
    if workflow is None:
        return
    workflow.loading.difference_update(event.outputs)
    for node, output in event.outputs.items():
        expanded = workflow.maps.get(node)
        if expanded is not None and expanded.collecting:
            if workflow.status is WorkflowStatus.RUNNING:
                maps.finish(turn, workflow, node, output)
        else:
            keep_output(turn.state, workflow, node, output)
    if workflow.status is not WorkflowStatus.RUNNING:
        return
    parked, workflow.parked = workflow.parked, []
    for node, instance in parked:
        status = workflow.statuses[node]
        if instance == next_instance:
            maps.offer(turn, workflow, node)
        elif status == NodeStatus.WAITING:
            maps.expand(turn, workflow, node)
        elif status == NodeStatus.READY:
            # Else its time to start has passed meanwhile.
            nodes.enqueue(turn, workflow, (node, instance), first=True)
        if workflow.status is not WorkflowStatus.RUNNING:
            return
    if workflow.finishing:
        workflows.finish_if_done(turn, workflow)
