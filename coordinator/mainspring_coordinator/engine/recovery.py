"""A shard is taken: its unfinished workflows are built anew from the database, and what their workers still run is adopted.

The result depends on the rows alone, so recovery can be ended at any point and begun again by whoever owns the shard then.
"""

from collections.abc import Generator, Sequence
from typing import Final, TypeAlias

from mainspring import limits
from mainspring.errors import Failure
from mainspring.failures import rows_refused
from mainspring_coordinator.engine import asking, caching, eviction, granting, maps, nodes, workflows
from mainspring_coordinator.engine.alone import must_run_alone
from mainspring_coordinator.engine.effects import Answer, AnswerCode
from mainspring_coordinator.engine.events import (
    Call,
    Event,
    LoadedNode,
    OutputsLoaded,
    ShardReady,
    ShardTaken,
    WorkflowLoaded,
)
from mainspring_coordinator.engine.payloads import forget_outputs, keep_output
from mainspring_coordinator.engine.state import Assignment, MapState, ShardState, WorkflowState
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus, node_terminal
from mainspring_coordinator.engine.timers import TimerKind
from mainspring_coordinator.engine.turn import Act, Turn

Part: TypeAlias = Generator[None, Turn, Turn]
"""A part of an act, which hands back the turn that it ended in."""
_edges_a_node: Final = 16
"""Looking at so many children costs about as much as restoring one node."""


def taken(turn: Turn, event: ShardTaken) -> None:
    """We own a shard from now on."""
    before = turn.state.shards.get(event.shard)
    # A recovery that begins again under the same epoch is the same ownership: who waits for it goes on waiting.
    waiting: list[Event] = before.deferred if before is not None and before.epoch == event.epoch else []
    if waiting and before is not None:
        before.deferred = []
    lost(turn, event.shard)
    turn.state.ready.hold_back(event.shard)
    turn.state.shards[event.shard] = ShardState(
        event.shard,
        event.epoch,
        event.grace_until_us,
        event.holder,
        deferred=waiting,
        evicted=eviction.incarnations_of(event.evicted),
    )
    eviction.learn(turn, turn.state.shards[event.shard].evicted)


def lost(turn: Turn, shard_id: int) -> None:
    """We own a shard no longer: forget all of it, and tell nobody."""
    state = turn.state
    state.arriving.pop(shard_id, None)
    state.woken.pop(shard_id, None)
    shard = state.shards.pop(shard_id, None)
    if shard is None:
        return
    for event in shard.deferred:
        # Workers keep what is not acknowledged and state it again; callers must be told.
        if isinstance(event, Call):
            turn.emit(Answer(event.token, shard_id, event.workflow_id, AnswerCode.NOT_OWNER))
    state.unreconcile(shard_id)
    for key in [key for key in state.changed if key[0] == shard_id]:
        del state.changed[key]
    for key in [key for key in state.ended if key[0] == shard_id]:
        del state.ended[key]
    state.ready.drop_held_back(shard_id)
    state.occupy(shard_id)
    turn.begin(_forget_in_parts(turn, shard))


def _forget_in_parts(turn: Turn, shard: ShardState) -> Act:
    """Nobody finds the shard any more, so that nothing of it is assigned; what counts it in is undone before it can be taken again."""
    for assignment in shard.live.values():
        if turn.left <= 0:
            turn = yield
        turn.left -= 1
        turn.state.unhold(assignment)
    # One after the other they leave memory too, which would take as long for all at once.
    while shard.workflows:
        if turn.left <= 0:
            turn = yield
        turn.left -= 1
        _, workflow = shard.workflows.popitem()
        turn.state.ready.drop_workflow(workflow.plan.classes, workflow.key)
        forget_outputs(turn.state, workflow)
    turn.state.vacate(shard.shard)


def ready(turn: Turn, shard: ShardState, event: ShardReady) -> None:
    """All unfinished workflows of a shard are there."""
    del event
    shard.ready, shard.ready_us = True, turn.now_us
    turn.state.woken[shard.shard] = None
    watch_absent(turn, shard)
    asking.speak_of_all(turn, shard)
    granting.watch_silent(turn, shard)


def watch_absent(turn: Turn, shard: ShardState) -> None:
    """Set the time at which workers that have not come back are looked for."""
    due_us = max(shard.grace_until_us, turn.now_us)
    turn.state.timers.set(due_us, TimerKind.SHARD_GRACE, shard=shard.shard, number=shard.epoch)


def loaded(turn: Turn, shard: ShardState, event: WorkflowLoaded) -> None:
    """An unfinished workflow comes from the database."""
    turn.state.occupy(shard.shard)
    turn.begin(_load_in_parts(turn, shard, event))


def _load_in_parts(turn: Turn, shard: ShardState, event: WorkflowLoaded) -> Act:
    # If it leaves memory while it is built for the first time, that it is loaded anew is still to come.
    anew = event.workflow_id in shard.reloading
    turn = yield from _build(turn, shard, event)
    turn.state.vacate(shard.shard)
    if turn.state.shards.get(shard.shard) is not shard:
        return
    for timer in shard.put_off:
        turn.state.timers.put_back(timer)
    shard.put_off = []
    if shard.deferred:
        turn.state.woken[shard.shard] = None
    if anew:
        reloaded(turn, shard, event.workflow_id)


def _build(turn: Turn, shard: ShardState, event: WorkflowLoaded) -> Part:
    workflow = workflows.new_workflow_state(
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
    if event.pause is not None and workflow.status is WorkflowStatus.RUNNING:
        workflow.pause = event.pause
        turn.state.ready.keep_apart((), workflow.key)
    shard.plans.add(event.plan.hash)
    for row in event.nodes:
        if turn.left <= 0:
            turn = yield
            if not turn.state.knows(workflow):
                return turn
        turn.left -= 1
        _restore_node(turn, workflow, row)
    times = shard.refused.get(workflow.id, 0)
    if times >= limits.refusals_max and workflow.status is WorkflowStatus.RUNNING:
        # Whatever it is that cannot be stored would be made again and again.
        message = f"the database has refused its rows {times} times; the coordinator's log says why (rows_refused)"
        workflows.fail(turn, workflow, Failure(rows_refused, message, non_retryable=True), -1)
        return turn
    return (yield from _resume(turn, workflow))


def reloaded(turn: Turn, shard: ShardState, workflow_id: str) -> None:
    """A workflow that was loaded anew in the midst of an ownership is there, or is not any more."""
    if workflow_id not in shard.reloading:
        return
    shard.reloading.remove(workflow_id)
    workflow = shard.workflows.get(workflow_id)
    for assignment in workflow.live.values() if workflow is not None else ():
        # Workers that have stated what they have of the shard still have it.
        worker = turn.state.workers.get(turn.state.sessions.get(assignment.incarnation, 0))
        if worker is not None and worker.attached and shard.shard in worker.reconciled:
            assignment.session = worker.session
    # Workers that died meanwhile did not leave this workflow's assignments; somebody must look at them.
    watch_absent(turn, shard)
    turn.state.woken[shard.shard] = None
    asking.speak_of_all(turn, shard)


def _restore_node(turn: Turn, workflow: WorkflowState, row: LoadedNode) -> None:
    node, instance = row.node, row.instance
    is_map = instance < 0 and workflow.plan.nodes[node].map is not None
    if is_map and row.width >= 0 and (row.status not in (NodeStatus.FAILED, NodeStatus.SKIPPED) or row.width):
        # A map's own row comes before those of its instances.
        workflow.maps[node] = MapState(
            row.width, bytearray([NodeStatus.WAITING]) * row.width, bytearray(row.width), [None] * row.width
        )
    if instance < 0:
        statuses, attempts, index = workflow.statuses, workflow.attempts, node
    else:
        expanded = workflow.maps[node]
        statuses, attempts, index = expanded.statuses, expanded.attempts, instance
        if row.attempt:
            expanded.next = max(expanded.next, instance + 1)
        expanded.ended += row.status in node_terminal
    statuses[index] = row.status
    attempts[index] = row.attempt
    if instance < 0 and row.incarnation:
        turn.state.note_origin(workflow, node, row.incarnation)
    if row.progress is not None and row.status not in node_terminal:
        workflow.progress[node, instance] = row.progress
    if row.status is NodeStatus.READY:
        # Only an attempt that is offered again goes on under its number; what runs keeps its count in its assignment.
        workflow.redeliveries[node, instance] = row.redeliveries
    if instance < 0 and row.status in node_terminal:
        workflow.unfinished -= 1
    if row.status is NodeStatus.BACKOFF:
        workflow.retry_at_us[node, instance] = row.retry_at_us
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


def _resume(turn: Turn, workflow: WorkflowState) -> Part:
    """Set every deadline and let everything go on that can."""
    timers = turn.state.timers
    if workflow.status is not WorkflowStatus.RUNNING:
        timers.set(workflow.closing_until_us, TimerKind.CLOSING, shard=workflow.shard, workflow_id=workflow.id)
        workflows.stop_all(turn, workflow)
        return turn
    if workflow.deadline_at_us:
        timers.set(workflow.deadline_at_us, TimerKind.WORKFLOW, shard=workflow.shard, workflow_id=workflow.id)
    for (node, instance), retry_at_us in list(workflow.retry_at_us.items()):
        if turn.left <= 0:
            turn = yield
            if not turn.state.knows(workflow):
                return turn
        turn.left -= 1
        attempt = workflow.attempts[node] if instance < 0 else workflow.maps[node].attempts[instance]
        nodes.set_retry(turn, workflow, node, instance, attempt, retry_at_us)
    turn = yield from _count_ended(turn, workflow)
    # What is freed from here on is made ready by whatever frees it.
    free = [not left for left in workflow.remaining]
    for node, status in enumerate(bytes(workflow.statuses)):
        if turn.left <= 0:
            turn = yield
        if not turn.state.knows(workflow) or workflow.status is not WorkflowStatus.RUNNING:
            return turn
        turn.left -= 1
        if status == NodeStatus.RUNNING and node in workflow.maps:
            turn = yield from _resume_map(turn, workflow, node)
        else:
            _resume_node(turn, workflow, node, NodeStatus(status), free=free[node])
    if turn.state.knows(workflow):
        workflows.finish_if_done(turn, workflow)
    return turn


def _count_ended(turn: Turn, workflow: WorkflowState) -> Part:
    """Work out how many of the nodes that each one depends on have not ended."""
    children_of = workflow.plan.graph.children_of
    for node, status in enumerate(workflow.statuses):
        if status in (NodeStatus.SUCCEEDED, NodeStatus.FAILED, NodeStatus.SKIPPED):
            if turn.left <= 0:
                turn = yield
                if not turn.state.knows(workflow):
                    return turn
            if status != NodeStatus.SUCCEEDED:
                keep_output(turn.state, workflow, node, b"null")
            children = children_of(node)
            turn.left -= 1 + len(children) // _edges_a_node
            for child in children:
                workflow.remaining[child] -= 1
    return turn


def _resume_node(turn: Turn, workflow: WorkflowState, node: int, status: NodeStatus, *, free: bool) -> None:
    if status is NodeStatus.WAITING and free:
        nodes.make_ready(turn, workflow, node)
    elif status is NodeStatus.READY:
        nodes.await_start(turn, workflow, node, -1)
        nodes.enqueue(turn, workflow, (node, -1))


def _resume_map(turn: Turn, workflow: WorkflowState, node: int) -> Part:
    expanded = workflow.maps[node]
    maps.pass_over_ended(expanded)
    has_cache = caching.has_cache(workflow, node)
    begun = (NodeStatus.READY,) if has_cache else (NodeStatus.READY, NodeStatus.WAITING)
    for instance in range(expanded.next):
        if expanded.statuses[instance] not in begun:
            continue
        if turn.left <= 0:
            turn = yield
            if not turn.state.knows(workflow):
                return turn
        turn.left -= 1
        # Instances are started in order, but their rows are a set: one whose row is missing never began.
        expanded.statuses[instance] = NodeStatus.READY
        if must_run_alone(workflow, node, instance):
            nodes.enqueue(turn, workflow, (node, instance))
        else:
            expanded.again.append(instance)
        nodes.await_start(turn, workflow, node, instance)
    if expanded.ended == expanded.width:
        maps.collect(turn, workflow, node)
    else:
        if has_cache:
            turn.begin(caching.ask_in_parts(turn, workflow, node))
        maps.offer(turn, workflow, node)
    return turn


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
    turn.begin(_unpark_in_parts(turn, workflow, parked))


def _unpark_in_parts(turn: Turn, workflow: WorkflowState, parked: Sequence[tuple[int, int]]) -> Act:
    for item in parked:
        if turn.left <= 0:
            turn = yield
            if not turn.state.knows(workflow) or workflow.status is not WorkflowStatus.RUNNING:
                return
        turn.left -= 1
        nodes.unpark(turn, workflow, item)
        if workflow.status is not WorkflowStatus.RUNNING:
            return
    if workflow.finishing:
        workflows.finish_if_done(turn, workflow)
